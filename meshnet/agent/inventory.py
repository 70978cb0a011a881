"""The containers of a node, as one list: those of its tasks, running or ended, and the ones that people started."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import NetworkAttachment, Task
from meshnet.sandbox import runtime, spec
from meshnet.sandbox.attaching import Attachment
from meshnet.sandbox.container import CHECKS, KILLED, STARTED, Container
from meshnet.sandbox.containers import SPEC
from meshnet.sandbox.spec import ContainerSpec

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent
    from meshnet.agent.standalone import Standalone


CLEANED = 20.0  # s that a task gets to be cleaned up after its container has ended


@dataclass(frozen=True, slots=True)
class Entry:
    """One container. `container` is there while it may run, `task` if it is a task's, `standalone` if it is not."""

    spec: ContainerSpec
    directory: str
    container: Container | None = None
    task: Task | None = None
    standalone: Standalone | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def attachments(self) -> tuple[NetworkAttachment, ...]:
        """Its addresses on networks of the swarm."""
        task = self.standalone.kept.task if self.standalone is not None else self.task
        return task.networks_attachments if task is not None else ()

    @property
    def status(self) -> str:
        """`created`, `running` or `exited`."""
        if self.container is not None:
            return self.container.status
        return "exited" if self._at(STARTED) else "created"

    @property
    def state(self) -> str:
        """As an engine shows it: its status, `paused` of one that runs, or `restarting` of one that will."""
        if self.standalone is not None and self.standalone.restarting:
            return "restarting"
        return "paused" if self.container is not None and self.container.paused else self.status

    @property
    def exit_code(self) -> int:
        """How it ended; 0 as long as it has not."""
        if self.status != "exited":
            return 0
        code = self.container.exit_code if self.container is not None else runtime.exit_code(self.directory)
        return KILLED if code is None else code

    @property
    def pid(self) -> int:
        return self.container.pid if self.container is not None and self.status == "running" else 0

    @property
    def created(self) -> float:
        """Seconds since 1970; so are the others, 0.0 for what has not been."""
        if self.standalone is not None:
            return self.standalone.kept.created
        return self._at(SPEC)

    @property
    def started(self) -> float:
        return self._at(STARTED)

    @property
    def finished(self) -> float:
        return self._at(runtime.EXIT) if self.status == "exited" else 0.0

    @property
    def log(self) -> Path:
        return Path(self.directory, runtime.LOG)

    @property
    def checks(self) -> Path:
        """Where the results of its health check are once it has ended."""
        return Path(self.directory, CHECKS)

    def attached(self) -> asyncio.Future[Attachment]:
        """A connection to its streams; of one that was not started, as soon as it is about to be."""
        if self.standalone is not None:
            return self.standalone.attached()
        future: asyncio.Future[Attachment] = asyncio.get_running_loop().create_future()
        future.set_result(Attachment(self.directory))
        return future

    def _at(self, name: str) -> float:
        try:
            return Path(self.directory, name).stat().st_mtime
        except OSError:
            return 0.0


def entries(agent: Agent) -> Iterator[Entry]:
    """Every container of the node, in no order."""
    for runner in agent.runners.values():
        container = cast("Container | None", runner.container)
        if container is not None and runner.task.id not in agent.ended_tasks and not runner.finished:
            yield Entry(container.spec, container.spec.dir, container, runner.task)
    for own in agent.standalones.values():
        yield Entry(own.kept.spec, own.kept.spec.dir, own.container, None, own)
    for kept in agent.ended_tasks.values():
        directory = agent.dirs.ended_container(kept.task.id)
        try:
            yield Entry(spec.load(Path(directory, SPEC).read_text()), directory, None, kept.task)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being forgotten


def find(agent: Agent, reference: str) -> Entry:
    """A container by id, name, or the beginning of its id. NotFoundError, or MeshnetError if several are meant."""
    there = list(entries(agent))
    wanted = reference.removeprefix("/")
    for entry in there:
        if wanted in (entry.id, entry.name):
            return entry
    begun = [entry for entry in there if wanted and entry.id.startswith(wanted)]
    if len(begun) > 1:
        raise MeshnetError(f"Multiple IDs found with provided prefix: {reference}")
    if not begun:
        raise NotFoundError(f"No such container: {reference}")
    return begun[0]


async def exit_of(agent: Agent, entry: Entry, condition: str) -> int:
    """The exit code, once the container does not run, exits next, or (`removed`) is gone."""
    own = entry.standalone
    if own is not None and (condition == "next-exit" or (condition == "removed" and entry.container is None)):
        code = await own.next_exit()
    elif entry.container is not None:
        code = await entry.container.wait()
    else:
        code = entry.exit_code
    if own is not None:
        await own.ended.wait()
    if condition == "removed" and entry.task is not None:
        await _cleaned_up(agent, entry.task.id)
    return code


async def discard(agent: Agent, entry: Entry) -> None:
    """Takes away what is left of a container that does not run; of a task, its status stays for the manager."""
    if entry.standalone is not None:
        async with asyncio.timeout(CLEANED):
            await entry.standalone.ended.wait()
        entry.standalone.forget()
    if entry.task is None:
        return
    await _cleaned_up(agent, entry.task.id)
    shutil.rmtree(agent.dirs.ended_container(entry.task.id), ignore_errors=True)


async def _cleaned_up(agent: Agent, task_id: str) -> None:
    runner = agent.runners.get(task_id)
    if runner is not None:
        async with asyncio.timeout(CLEANED):
            await runner.done()
