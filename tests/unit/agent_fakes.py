"""A node made of fakes: everything that a task's runner touches writes what happened into one list, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from meshnet.agent.runner import Pauses, Runner
from meshnet.agent.taskdir import Kept, TaskDirs
from meshnet.dns.zone import Zone
from meshnet.errors import MeshnetError
from meshnet.model import ContainerSpec as Spec
from meshnet.model import NetworkAttachment, Service, Task, TaskSpec, TaskStatus
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.spec import ContainerSpec

TASK = Task(
    id="t1",
    service_id="s1",
    slot=1,
    node_id="n1",
    spec=TaskSpec(Spec(image="app")),
    networks_attachments=(NetworkAttachment("net", ("10.0.1.3/24",)),),
)
WITHDRAWN = -1  # the record that tells the others of a task's end
PAUSES = Pauses(on_the_way=0.0, opening=0.0)


class Gate:
    """A step that can be held, and made to fail."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def passed(self) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error


class FakeContainer:
    pid = 4711
    spec = ContainerSpec("c" * 64, "app.1.t1", "app", "", "", "")

    def __init__(self, said: list[str]) -> None:
        self.health = "none"
        self._code = 0
        self._over = asyncio.Event()
        self.starting, self.stopping, self.removing = Gate(), Gate(), Gate()
        self._said = said
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def exit_code(self) -> int | None:
        return self._code

    def on_health(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def becomes(self, health: str) -> None:
        self.health = health
        for callback in self._callbacks:
            callback(health)

    def exits(self, code: int) -> None:
        self._code = code
        self._over.set()

    async def start(self) -> None:
        await self.starting.passed()
        self._said.append("start")

    async def wait(self) -> int:
        await self._over.wait()
        return self._code

    async def stop(self) -> int:
        self._said.append("stop")
        await self.stopping.passed()
        if not self._over.is_set():
            self.exits(143)
        return await self.wait()

    async def end(self) -> None:
        await self.removing.passed()
        self._said.append("remove")

    def release(self) -> None:
        self._said.append("release")


class FakeContainers:
    def __init__(self, said: list[str]) -> None:
        self.creating = Gate()
        self.made = FakeContainer(said)
        self.adoptable = True
        self.specs: list[ContainerSpec] = []
        self._said = said

    async def create(self, spec: ContainerSpec, files: Sequence[MemoryFile] = ()) -> FakeContainer:
        await self.creating.passed()
        self.specs.append(spec)
        self._said.append("create")
        return self.made

    async def adopt(self, directory: str) -> FakeContainer | None:
        self._said.append("adopt")
        return self.made if self.adoptable else None


class FakeSpaces:
    def __init__(self, said: list[str]) -> None:
        self.names: set[str] = set()
        self._said = said

    def create(self, name: str) -> None:
        self.names.add(name)
        self._said.append("netns")

    def exists(self, name: str) -> bool:
        return name in self.names

    def delete(self, name: str) -> bool:
        self._said.append("no netns")
        self.names.discard(name)
        return True


class FakeResolver:
    def __init__(self, said: list[str]) -> None:
        self._said = said

    async def start(self, path: str) -> None:
        self._said.append("dns")

    def set_zone(self, zone: Zone) -> None:
        raise AssertionError("a runner does not make zones")

    async def stop(self) -> None:
        self._said.append("no dns")

    def statistics(self) -> dict[str, int]:
        return {}


class FakeHost:
    """`said` is everything that happened; `reports` the states and errors that the manager was told.

    `known_gone_after` is the state it was told last when the members knew that the task is gone.
    """

    lab, node = "lab", "docker-0"

    def __init__(self, service: Service | None = None) -> None:
        self.said: list[str] = []
        self.containers = FakeContainers(self.said)
        self.spaces = FakeSpaces(self.said)
        self.wiring, self.unwiring, self.acknowledging = Gate(), Gate(), Gate()
        self.confirmed = True
        self.known_gone_after = ""
        self.closing: MeshnetError | None = None
        self.service = service
        self.statuses: list[TaskStatus] = []
        self.left: list[Kept] = []
        self.events: list[str] = []

    @property
    def reports(self) -> list[tuple[str, str]]:
        return [(status.state, status.err) for status in self.statuses]

    def service_of(self, task: Task) -> Service | None:
        return self.service

    def publish(self, task: Task, state: str, hostname: str, container: str) -> int:
        self.said.append(state)
        return len(self.said)

    def withdraw(self, task: Task) -> int:
        self.said.append("withdraw")
        return WITHDRAWN

    async def in_force(self, record: int) -> bool:
        await self.acknowledging.passed()
        if record == WITHDRAWN:
            self.said.append("gone for all")
            self.known_gone_after = self.reports[-1][0] if self.reports else ""
            return True
        self.said.append("in force" if self.confirmed else "not in force")
        return self.confirmed

    def hold(self, task: Task, netns: str) -> None:
        self.said.append("hold")

    async def wire(self, task: Task, netns: str) -> None:
        await self.wiring.passed()
        self.said.append("wire")

    async def close(self, task: Task) -> None:
        if self.closing is not None:
            raise self.closing
        self.said.append("close")

    async def unwire(self, task: Task) -> None:
        await self.unwiring.passed()
        self.said.append("unwire")

    def report(self, task: Task, status: TaskStatus) -> None:
        self.statuses.append(status)

    def ended(self, kept: Kept) -> None:
        self.left.append(kept)

    def volume(self, name: str, labels: dict[str, str] | None) -> str:
        return f"/volumes/{name}/_data"

    def files(self, task: Task) -> tuple[MemoryFile, ...]:
        return ()

    def happened(self, container: ContainerSpec, action: str, **attributes: str) -> None:
        self.events.append(action)


class Life:
    """One task on a fake node. `listening` holds the look at published ports."""

    def __init__(
        self,
        directory: Path,
        task: Task = TASK,
        kept: bool | None = None,
        service: Service | None = None,
        leaving: bool = False,
    ):
        """`kept`: taken over from an earlier agent, and whether it had joined its service; `leaving`: and left it."""
        self.host = FakeHost(service)
        self.dirs = TaskDirs(str(directory))
        self.listening = Gate()
        self.asked: list[set[tuple[str, int]]] = []
        left = None if kept is None else Kept(task, "c" * 64, kept, leaving=leaving)
        if left is not None:
            self.host.spaces.names.add(f"mn-lab-docker-0-{task.id}")
            self.dirs.write(left)
        self.runner = Runner(
            self.host, self.dirs, FakeResolver(self.host.said), task, left, PAUSES, listening=self._listen
        )

    async def _listen(self, pid: int, ports: Collection[tuple[str, int]], timeout: float) -> bool:
        self.asked.append(set(ports))
        await self.listening.passed()
        return True

    @property
    def container(self) -> FakeContainer:
        return self.host.containers.made

    @property
    def said(self) -> list[str]:
        return self.host.said

    async def begin(self) -> None:
        self.runner.start()

    async def until(self, *last: str) -> None:
        """Waits until the last things that happened are these."""
        await eventually(lambda: tuple(self.said[-len(last) :]) == last, lambda: f"{last} at the end of {self.said}")

    async def running(self) -> None:
        await eventually(lambda: self.runner.status.state == "running", lambda: f"running: {self.said}")

    async def over(self) -> tuple[str, str]:
        """State and error that the task ended with."""
        async with asyncio.timeout(5):
            await self.runner.done()
        return self.host.reports[-1]


async def eventually(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Lets the loop run until `condition` holds; AssertionError with `what()` after 5 s."""
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what()
        await asyncio.sleep(0.001)
