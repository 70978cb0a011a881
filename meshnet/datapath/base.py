"""What every data path offers to the agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from meshnet.datapath.rows import Changes, Plan


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a data path needs or can do here. `fix` says what would make it work, for `meshnet doctor`."""

    name: str
    works: bool
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """Where a data path works: names that make its kernel objects findable and its own.

    `lab` is `host` outside a lab. The process that calls `apply` sits in the node's network namespace.
    """

    lab: str
    node: str  # the node's name: part of pins, cgroup and marks
    underlay: str  # name of the underlay device in the node's namespace
    run_dir: str  # /run/meshnet/<lab>/<node>
    vxlan_port: int = 4789
    resolver: int = 0  # port of the node's resolver for clients outside; 0 is none


class Datapath(Protocol):
    """`apply` is idempotent: it brings the kernel from whatever it is to the plan and reports what changed.

    Objects that no plan claims are removed, objects of a previous run of the agent are adopted.
    """

    kind: str
    failed: Mapping[str, str]  # paths of sandboxes that the last apply could not wire -> one line that says why

    def capabilities(self) -> list[Capability]: ...

    async def prepare(self) -> None:
        """Gets ready to apply plans. MeshnetError if that cannot be here."""
        ...

    async def apply(self, plan: Plan) -> Changes:
        """MeshnetError if something was refused; the rest is done all the same."""
        ...

    async def observe(self) -> Plan: ...

    def statistics(self) -> dict[str, int]:
        """Counters by name: packets, connections, and drops as `drop.<reason>`."""
        ...

    def meanings(self) -> dict[str, str]:
        """What the counters mean, in a few words each."""
        ...

    async def close(self) -> None:
        """Lets go of file descriptors. Kernel state stays: packets go on while no agent runs."""
        ...

    async def destroy(self) -> None:
        """Removes everything this node's data path put into the kernel."""
        ...
