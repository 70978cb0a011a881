"""A manager with fake nodes for tests: real sockets on loopback, and waiting for conditions with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from meshnet.control.client import ManagerClient
from meshnet.control.manager import Manager
from meshnet.control.objects import Changes
from meshnet.control.operations import Join, create_network, create_service
from meshnet.control.settings import Settings
from meshnet.control.trust.credentials import Credentials
from meshnet.model import (
    Assignments,
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentConfig,
    NetworkSpec,
    NodeDescription,
    PortConfig,
    Replicated,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskStatus,
)

T = TypeVar("T")
SETTINGS = Settings(lab="test", heartbeat=5.0)


def run(scenario: Callable[[], Awaitable[T]], limit: float = 20.0) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(scenario(), limit)

    return asyncio.run(bounded())


async def eventually(condition: Callable[[], object], what: str, limit: float = 10.0) -> None:
    """Waits until the condition is true; fails with `what` after `limit` seconds."""
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"did not happen within {limit} s: {what}")
        await asyncio.sleep(0.005)


def spec(
    name: str,
    replicas: int = 1,
    networks: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    mode: ServiceMode | None = None,
    restart: RestartPolicy | None = None,
    endpoint: str = "vip",
    image: str = "app:1",
) -> ServiceSpec:
    """A service's spec; `ports` are published (0: any) to target port 80."""
    return ServiceSpec(
        name=name,
        task_template=TaskSpec(
            container_spec=ContainerSpec(image=image),
            networks=tuple(NetworkAttachmentConfig(network) for network in networks),
            restart_policy=restart or RestartPolicy(),
        ),
        mode=mode or ServiceMode(Replicated(replicas)),
        endpoint_spec=EndpointSpec(endpoint, tuple(PortConfig("", "tcp", 80, port) for port in ports)),
    )


class FakeNode:
    """An agent that runs what it is told: every task goes to `runs` at once, and ends when told to."""

    def __init__(
        self, manager: Manager, name: str, directory: Path, runs: str = "running", cache: Path | None = None
    ) -> None:
        join = Join(addr=f"127.0.0.{name[-1]}", description=NodeDescription(hostname=name))
        self.name = name
        self.credentials = Credentials(directory)
        token = manager.keeper.tokens()["Worker"]
        self.client = ManagerClient([manager.listen_address], join, self.credentials, token, cache)
        self.runs = runs
        self.now = Assignments()
        self.updates = 0
        self.works = True
        self.states: dict[str, str] = {}
        self._jobs: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.client.join()
        self._jobs = [
            asyncio.create_task(one) for one in (self.client.heartbeats(), self._follow(), self.client.renewals())
        ]
        async with asyncio.timeout(10):
            await self.client.counted()

    async def stop(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self.client.close()

    def tell(self, task_id: str, state: str) -> None:
        self.states[task_id] = state
        self.client.report({task_id: TaskStatus(state=state, message=state)})

    def running(self) -> set[str]:
        return {ident for ident, state in self.states.items() if state == "running"}

    async def _follow(self) -> None:
        async for assignments in self.client.assignments():
            self.now = assignments
            self.updates += 1
            if self.works:
                self.work()

    def work(self) -> None:
        for task in self.now.tasks.values():
            state = self.states.get(task.id)
            if task.desired_state == "running" and state is None and task.status.state == "assigned":
                self.tell(task.id, self.runs)
            elif task.desired_state != "running" and state in (None, "running"):
                self.tell(task.id, "shutdown")


class Swarm:
    """A running manager and its fake nodes."""

    def __init__(self, manager: Manager, directory: Path) -> None:
        self.manager = manager
        self.directory = directory
        self.nodes: list[FakeNode] = []

    async def node(self, name: str, runs: str = "running", cache: Path | None = None) -> FakeNode:
        node = FakeNode(self.manager, name, self.directory / name, runs, cache)
        await node.start()
        self.nodes.append(node)
        return node

    async def network(self, name: str) -> str:
        manager = self.manager
        changes = await manager.state.write(
            lambda view: create_network(view, NetworkSpec(name=name), manager.ledger(view), manager.new_id)
        )
        return changes.put[0].id

    async def service(self, service: ServiceSpec) -> str:
        manager = self.manager
        changes = await manager.state.write(
            lambda view: create_service(view, service, manager.ledger(view), manager.new_id)
        )
        return changes.put[0].id

    async def change(self, service_id: str, **fields: object) -> None:
        """Changes fields of a service's spec."""

        def decide(view: object) -> Changes:
            service = self.manager.view.services[service_id]
            return Changes((replace(service, spec=replace(service.spec, **fields)),))  # type: ignore[arg-type]

        await self.manager.state.write(decide)

    def get(self, service_id: str) -> Service:
        return self.manager.view.services[service_id]

    def tasks(self, service_id: str, state: str = "", desired: str = "") -> list[Task]:
        tasks = self.manager.view.tasks_of.get(service_id, {}).values()
        return [t for t in tasks if state in ("", t.status.state) and desired in ("", t.desired_state)]

    async def converged(self, service_id: str, count: int) -> None:
        """Waits until exactly `count` tasks are wanted and all of them run."""
        await eventually(
            lambda: (
                len(self.tasks(service_id, "running", "running"))
                == count
                == len(self.tasks(service_id, "", "running")) + len(self.tasks(service_id, "", "ready"))
            ),
            f"{count} tasks run; there are {[(t.slot, t.status, t.desired_state) for t in self.tasks(service_id)]}",
        )


@contextlib.asynccontextmanager
async def swarm(tmp_path: Path, settings: Settings = SETTINGS, listen: str = "127.0.0.1:0") -> AsyncIterator[Swarm]:
    """A manager on loopback with its store in `tmp_path`."""
    manager = Manager(tmp_path / "manager", listen, settings)
    await manager.start()
    made = Swarm(manager, tmp_path)
    try:
        yield made
    finally:
        for node in made.nodes:
            await node.stop()
        await manager.stop()
