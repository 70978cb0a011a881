"""The neutral tables of a plan: what a data path must make true on one node, in words of no kernel.

A `Plan` is a value: two plans compare equal when nothing needs doing. Addresses are strings (IPv4 or IPv6 text
without prefix length), ports are host-order integers, `vni` is the VXLAN network identifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network this node holds, because one of its tasks is on it, or because it is the ingress network."""

    vni: int
    id: str
    name: str
    subnet: str  # with prefix length
    gateway: str
    mtu: int  # of a task's interface: the underlay's less 50
    ingress: bool = False
    internal: bool = False
    node_address: str = ""  # this node's own address on it, where it has one


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An interface of a local sandbox.

    `netns` is the path of its namespace, `interface` the name inside it (eth0, eth1 ...), `port` the name of
    the other end in the node's namespace. `default_route`: the sandbox's way out of the overlay is through
    this one.
    """

    vni: int
    ip: str
    mac: str
    task: str
    netns: str
    interface: str
    port: str
    default_route: bool = False


@dataclass(frozen=True, slots=True)
class RemoteRow:
    """An endpoint of another node: packets for `ip` on `vni` go to the member at `node` (its tunnel address).

    `leaving`: it drains, or its member is silent; what has not got further than a SYN there tries another backend.
    """

    vni: int
    ip: str
    mac: str
    node: str
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A known member: VXLAN is taken only from these. `datapath` is `ebpf` or `ipvs`."""

    address: str
    datapath: str = "ebpf"


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A VIP and who stands behind it now. `backends` get new connections in turn; a backend that drains or
    whose node is suspected has left this list but is still an endpoint, so what it has goes on."""

    id: str
    vni: int
    vip: str
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A published port of every node. `backends` are addresses on the ingress network."""

    service: str
    protocol: str  # tcp or udp
    port: int
    target_port: int
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemovedRow:
    """An address whose endpoint is known to be gone, until it may be reused.

    It acts as a VIP of its service: a connected UDP socket moves on, TCP gets RST. `vip` is "" if the service
    has none left.
    """

    vni: int
    ip: str
    vip: str = ""


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """What the tasks on the same networks can look up: addresses by name, for a data path that answers common
    questions itself. The tasks' own name servers know all of it and more, so it may leave out what it likes.

    `networks` are their ids in the order of preference, and tell one zone from another. `sandboxes` are paths of
    namespaces. `names` are packed addresses by lower-case wire name; nobody changes the mapping.
    """

    networks: tuple[str, ...]
    sandboxes: tuple[str, ...]
    ttl: int  # s
    names: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The desired state of one node's data path. Tuples are sorted, so that equal states are equal values.

    `closed` are ids of tasks of `endpoints` that are about to be stopped: TCP connections that begin are refused.
    """

    node: str  # node id
    address: str  # tunnel address: the VTEP
    addresses: tuple[str, ...] = ()  # all own addresses: published ports are served on each
    ingress_vni: int = 0
    direct_return: bool = False
    networks: tuple[NetworkRow, ...] = ()
    endpoints: tuple[EndpointRow, ...] = ()
    remotes: tuple[RemoteRow, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    services: tuple[ServiceRow, ...] = ()
    published: tuple[PublishedRow, ...] = ()
    removed: tuple[RemovedRow, ...] = ()
    zones: tuple[ZoneRow, ...] = ()
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What an `apply` did, for the log and for `inspect`: counts by table name, empty when nothing changed."""

    added: dict[str, int]
    removed: dict[str, int]

    def __bool__(self) -> bool:
        return any(self.added.values()) or any(self.removed.values())
