"""What the agent and the runner of one task ask of each other. Kept apart so that neither imports the other."""

from __future__ import annotations

from typing import Protocol

from meshnet.model import Service, Task, TaskStatus
from meshnet.sandbox.containers import Containers


class Host(Protocol):
    """What a task's runner needs from its node."""

    containers: Containers
    lab: str
    node: str

    def service_of(self, task: Task) -> Service | None: ...

    def publish(self, task: Task, state: str, hostname: str, container: str) -> int:
        """Announces the task's endpoints in `state`; returns the number of the last record."""
        ...

    def withdraw(self, task: Task) -> None: ...

    async def acknowledged(self, record: int) -> bool:
        """Waits, bounded, until every live member has seen a record."""
        ...

    async def wire(self, task: Task, netns: str) -> None:
        """Returns when the data path holds the task's endpoints."""
        ...

    async def unwire(self, task: Task) -> None: ...

    def report(self, task: Task, status: TaskStatus) -> None: ...
