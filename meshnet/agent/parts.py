"""What the agent, the runner of one task and the edges to the kernel ask of each other.

Kept apart so that none imports another, and so that a test can be any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from meshnet.agent.taskdir import Kept
from meshnet.dns.zone import Zone
from meshnet.model import Service, Task, TaskStatus
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.spec import ContainerSpec


class Container(Protocol):
    """A task's container; see `sandbox.container`."""

    spec: ContainerSpec

    @property
    def exit_code(self) -> int | None: ...

    @property
    def pid(self) -> int: ...

    @property
    def health(self) -> str: ...

    def on_health(self, callback: Callable[[str], None]) -> None: ...

    async def start(self) -> None: ...

    async def wait(self) -> int: ...

    async def stop(self) -> int: ...

    async def end(self) -> None: ...

    def release(self) -> None: ...


class Containers(Protocol):
    """What makes containers and finds them again."""

    async def create(self, spec: ContainerSpec, files: Sequence[MemoryFile] = ()) -> Container: ...

    async def adopt(self, directory: str) -> Container | None: ...


class Spaces(Protocol):
    """Network namespaces by name; see `kernel.netns`."""

    def create(self, name: str) -> None: ...

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> bool: ...


class Resolver(Protocol):
    """The name server of one task."""

    async def start(self, path: str) -> None: ...

    def set_zone(self, zone: Zone) -> None: ...

    async def stop(self) -> None: ...

    def statistics(self) -> dict[str, int]: ...


class Host(Protocol):
    """What a task's runner needs from its node."""

    lab: str
    node: str

    @property
    def containers(self) -> Containers: ...

    @property
    def spaces(self) -> Spaces: ...

    def service_of(self, task: Task) -> Service | None: ...

    def publish(self, task: Task, state: str, hostname: str, container: str) -> int:
        """Announces the task's endpoints in `state`; returns the number of the last record."""
        ...

    def withdraw(self, task: Task) -> int: ...

    async def in_force(self, record: int) -> bool:
        """Waits, bounded, until a record is in force at every live member, this one included; whether it is."""
        ...

    def hold(self, task: Task, netns: str) -> None: ...

    async def wire(self, task: Task, netns: str) -> None:
        """Returns when the data path holds the task's endpoints.

        NotWiredError if it cannot wire the sandbox, MeshnetError if it took nothing in time.
        """
        ...

    async def close(self, task: Task) -> None:
        """Returns when this node's kernel refuses new connections to the task; MeshnetError if it does not in time."""
        ...

    async def unwire(self, task: Task) -> None: ...

    def report(self, task: Task, status: TaskStatus) -> None: ...

    def ended(self, kept: Kept) -> None:
        """Hears what is left of a task that has ended, once all else of it was taken away."""
        ...

    def volume(self, name: str, labels: dict[str, str] | None) -> str:
        """The path of a volume of the node, made if it is not there. MeshnetError for a name that cannot be."""
        ...

    def files(self, task: Task) -> Sequence[MemoryFile]:
        """The secrets and configs of a task as files. MeshnetError for one that the node was not given."""
        ...

    def happened(self, container: ContainerSpec, action: str, **attributes: str) -> None:
        """Tells whoever listens to the node's events of a container's life."""
        ...
