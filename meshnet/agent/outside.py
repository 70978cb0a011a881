"""What a client outside the swarm can look up: services by their published ports, and nodes (pure).

Overlay addresses mean nothing outside, so every answer is a node's own address. For a service `web` that publishes 8080
for port 80 of its tasks, here called http:
    web                            nodes where all that it publishes answers: in ingress mode those that are alive, in
                                   host mode those that run a ready task
    tasks.web                      nodes that run a ready task
    _8080._tcp.web, _80._tcp.web, _http._tcp.web
                                   SRV, one record per node where that port answers, with the published port
    docker-1                       a node, by its name and by its id
As in overlays, draining tasks and the dead are left out, suspected members are while there are others, and a service
without a ready task is withheld. A service's name beats that of a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address

from meshnet.datapath.plan import Located, Peer
from meshnet.dns.names import joined, wire_name
from meshnet.dns.share import Packed, Target, key_of, unique
from meshnet.dns.zone import Zone
from meshnet.model import Assignments, PortConfig, Service

_TASKS = b"\x05tasks\0"
_REMEMBERED = 1 << 12


@dataclass(frozen=True, slots=True)
class _Node:
    """A member as SRV records call it, `name` in wire form and `address` packed."""

    name: bytes
    address: bytes
    suspected: bool

    def __lt__(self, other: _Node) -> bool:
        return (self.address, self.name) < (other.address, other.name)


_Nodes = tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one service adds to the zone, and what that was made of."""

    service: Service
    behind: _Nodes
    alive: _Nodes
    addresses: dict[bytes, Packed] = field(default_factory=dict)
    services: dict[bytes, tuple[Target, ...]] = field(default_factory=dict)
    withheld: set[bytes] = field(default_factory=set)


class OutsideNames:
    """Makes the zone that a node serves outside; what has not changed since the last time is not made again."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}

    def zone(self, own: Peer, assignments: Assignments, records: Iterable[Located], peers: Iterable[Peer]) -> Zone:
        """The zone now. `own` is the node itself, alive whatever `peers` say of it. A service that has changed must be
        another object."""
        members = {peer.id: peer for peer in peers if peer.state != "dead"} | {own.id: own}
        published = [service for service in assignments.services.values() if _published(service)]
        nodes = _nodes(members, {service.spec.name.lower() for service in published})
        alive = tuple(sorted(node for node in nodes.values() if not node.suspected))
        behind = _behind(assignments, records, nodes)
        self._parts = {one.id: self._part(one, behind.get(one.id, ()), alive) for one in published}
        addresses: dict[bytes, Packed] = {}
        services: dict[bytes, tuple[Target, ...]] = {}
        withheld: set[bytes] = set()
        for part in self._parts.values():
            addresses |= part.addresses
            services |= part.services
            withheld |= part.withheld
        for ident, node in sorted(nodes.items(), key=lambda pair: pair[1]):
            for name in (members[ident].hostname, ident):
                key = key_of(name)
                if key is not None and key not in withheld:
                    addresses.setdefault(key, (node.address,))
        return Zone(addresses, {}, services, frozenset(withheld))

    def _part(self, service: Service, behind: _Nodes, alive: _Nodes) -> _Part:
        known = self._parts.get(service.id)
        if known is not None and known.service is service and (known.behind, known.alive) == (behind, alive):
            return known
        return _made(service, behind, alive)


def _made(service: Service, behind: _Nodes, alive: _Nodes) -> _Part:
    """`behind` are the nodes with a ready task."""
    part, ports, base = _Part(service, behind, alive), _published(service), key_of(service.spec.name)
    tasks = base and joined(_TASKS, base)
    if not behind:
        part.withheld.update(name for name in (base, tasks) if name)
        return part
    meshed = all(port.publish_mode == "ingress" for port in ports)
    for name, where, mesh in ((base, alive if meshed else behind, alive), (tasks, behind, behind)):
        if not name:
            continue
        part.addresses[name] = unique(tuple(node.address for node in where))
        targets = {
            port: tuple(
                Target(node.name, node.address, port.published_port)
                for node in (mesh if port.publish_mode == "ingress" else behind)
            )
            for port in ports
        }
        for prefix, port in _prefixes(ports):
            if key := joined(prefix, name):
                part.services.setdefault(key, targets[port])
    return part


def _published(service: Service) -> list[PortConfig]:
    return [port for port in service.endpoint.ports if port.published_port]


def _prefixes(ports: list[PortConfig]) -> Iterable[tuple[bytes, PortConfig]]:
    """`_port._protocol` of each port: by its published number, which is unique and so comes first, by its name, and by
    the tasks' number."""
    labels = [(str(port.published_port), port) for port in ports]
    labels += [(port.name, port) for port in ports if port.name]
    labels += [(str(port.target_port), port) for port in ports]
    for label, port in labels:
        if prefix := key_of(f"_{label}._{port.protocol}"):
            yield prefix, port


def _behind(assignments: Assignments, records: Iterable[Located], nodes: Mapping[str, _Node]) -> dict[str, _Nodes]:
    """Id of a service -> nodes that run a ready task of it and are not suspected, or all that run one."""
    ingress = {ident for ident, network in assignments.networks.items() if network.spec.ingress}
    found: dict[str, set[str]] = {}
    for record in records:
        endpoint = record.endpoint
        if record.network in ingress and endpoint.state == "ready" and endpoint.service and record.owner in nodes:
            found.setdefault(endpoint.service, set()).add(record.owner)
    behind = {service: [nodes[owner] for owner in owners] for service, owners in found.items()}
    return {
        service: tuple(sorted([node for node in some if not node.suspected] or some))
        for service, some in behind.items()
    }


def _nodes(members: Mapping[str, Peer], services: set[str]) -> dict[str, _Node]:
    """By id. A node is called by its name if that means no other node and no service, else by its id."""
    count = Counter(peer.hostname.lower() for peer in members.values())
    found = {}
    for ident, peer in members.items():
        own = count[peer.hostname.lower()] == 1 and peer.hostname.lower() not in services
        name = (wire_name(peer.hostname) if own else None) or wire_name(ident)
        if name is not None:
            found[ident] = _node(name, peer.address, peer.state != "alive")
    return found


@lru_cache(_REMEMBERED)
def _node(name: bytes, address: str, suspected: bool) -> _Node:
    return _Node(name, IPv4Address(address).packed, suspected)
