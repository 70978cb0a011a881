"""What a lab is, as plain data: the resolved lab.yml with every address filled in, and its services.

Kept as JSON in the lab's directory while the lab is up, so that every verb works without the files it came from.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

from meshnet import codec
from meshnet.model import NetworkSpec, ServiceSpec
from meshnet.secretspec import ConfigSpec, SecretSpec

MANAGER_PORT = 2377
GOSSIP_PORT = 7946
SHELL = ("sh", "-c")  # what runs a check's command that is a text


@dataclass(frozen=True, slots=True)
class LabNode:
    """A member of the swarm. `address` is its IPv4 address on the underlay, without prefix length."""

    name: str
    address: str
    role: str = "worker"  # or manager
    labels: dict[str, str] = field(default_factory=dict)
    datapath: str = "ebpf"


@dataclass(frozen=True, slots=True)
class LabClient:
    """A host on the underlay that is no member of the swarm."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class LabLink:
    """What the link between a node or client and the underlay does to packets, in each direction.

    `delay` in nanoseconds, `loss` in percent, `rate` in bits per second; 0 leaves it alone.
    """

    node: str
    delay: int = 0
    loss: float = 0.0
    rate: int = 0


@dataclass(frozen=True, slots=True)
class LabCheck:
    """A command that shows whether the lab works: run `run` on node, client or task `on` until it succeeds.

    It succeeds with exit status 0 and, if `expect` is given, that text somewhere in its output. `within`: ns.
    `look` is the command that shows more when it does not. `once`: it acts, and must succeed the first time.
    """

    name: str
    on: str
    run: tuple[str, ...]
    expect: str = ""
    within: int = 10 * 10**9
    look: str = ""
    once: bool = False

    @property
    def command(self) -> str:
        """`run` as it stands in the lab file, to be typed into a shell."""
        return self.run[2] if self.run[:2] == SHELL and len(self.run) == 3 else shlex.join(self.run)


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab, resolved. `directory` is where its files are (absolute). `packages` are those of Debian whose programs it
    uses, `warnings` say what its files ask in vain. `resolver` is the port where nodes answer names to
    clients outside, 0 if they do not.

    The nodes of a `bare` one are in no swarm at first; their roles are what was made of them since.
    """

    name: str
    directory: str
    subnet: str
    mtu: int
    nodes: tuple[LabNode, ...]
    clients: tuple[LabClient, ...] = ()
    links: tuple[LabLink, ...] = ()
    resolvers: tuple[str, ...] = ()
    resolver: int = 0
    images: dict[str, Any] = field(default_factory=dict)
    datapath: str = "ebpf"
    packages: tuple[str, ...] = ()
    map_sizes: dict[str, int] = field(default_factory=dict)
    direct_return: bool = True
    checks: tuple[LabCheck, ...] = ()
    networks: tuple[NetworkSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    secrets: tuple[SecretSpec, ...] = ()
    configs: tuple[ConfigSpec, ...] = ()
    warnings: tuple[str, ...] = ()
    bare: bool = False

    @property
    def prefix(self) -> int:
        """Prefix length of the underlay's subnet."""
        return IPv4Network(self.subnet).prefixlen

    @property
    def managers(self) -> tuple[LabNode, ...]:
        return tuple(node for node in self.nodes if node.role == "manager")

    @property
    def hosts(self) -> tuple[LabNode | LabClient, ...]:
        """Everything with a namespace and an address on the underlay: nodes, then clients."""
        return (*self.nodes, *self.clients)

    def host(self, name: str) -> LabNode | LabClient | None:
        """The node or client of that name."""
        return next((host for host in self.hosts if host.name == name), None)

    def node(self, name: str) -> LabNode | None:
        """The node of that name."""
        return next((node for node in self.nodes if node.name == name), None)


def to_json(lab: Lab) -> Any:
    """The lab as JSON-ready data, without its secrets and configs: it is kept where everybody can read it."""
    return codec.to_json(replace(lab, secrets=(), configs=()))


def from_json(value: Any) -> Lab:
    """A lab from what `to_json` gave. Raises MeshnetError for anything else."""
    return codec.from_json(Lab, value)
