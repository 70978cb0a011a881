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
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from meshnet.datapath.plan import Located, Peer
from meshnet.dns.names import joined, wire_name
from meshnet.dns.share import Packed, Target, key_of, unique
from meshnet.dns.zone import Zone
from meshnet.model import Assignments, PortConfig, Service

_TASKS = b"\x05tasks\0"


def outside_zone(own: Peer, assignments: Assignments, records: Iterable[Located], peers: Iterable[Peer]) -> Zone:
    """The zone that a node serves outside. `own` is that node, which is alive to itself whatever `peers` say of it."""
    members = {peer.id: peer for peer in peers if peer.state != "dead"} | {own.id: own}
    alive = _by_address(peer for peer in members.values() if peer.state == "alive")
    behind = _behind(assignments, records, members)
    addresses: dict[bytes, Packed] = {}
    services: dict[bytes, tuple[Target, ...]] = {}
    withheld: set[bytes] = set()
    published = [(service, _published(service)) for service in assignments.services.values()]
    published = [(service, ports) for service, ports in published if ports]
    called = _called(members.values(), {service.spec.name.lower() for service, _ in published})
    for service, ports in published:
        with_tasks = behind.get(service.id, [])
        everywhere = alive if with_tasks else []
        meshed = all(port.publish_mode == "ingress" for port in ports)
        for base, reached, meshed_to in _fronts(service, with_tasks, everywhere, meshed):
            if not reached:
                withheld.add(base)
                continue
            addresses[base] = unique(tuple(_packed(peer) for peer in reached))
            for prefix, port in _prefixes(ports):
                nodes = meshed_to if port.publish_mode == "ingress" else with_tasks
                if key := joined(prefix, base):
                    services.setdefault(key, _targets(nodes, port.published_port, called))
    for peer in _by_address(members.values()):
        for name in (peer.hostname, peer.id):
            key = key_of(name)
            if key is not None and key not in withheld:
                addresses.setdefault(key, (_packed(peer),))
    return Zone(addresses, {}, services, frozenset(withheld))


def _behind(assignments: Assignments, records: Iterable[Located], members: Mapping[str, Peer]) -> dict[str, list[Peer]]:
    """Id of a service -> members that run a ready task of it and are not suspected, or all that run one."""
    ingress = {ident for ident, network in assignments.networks.items() if network.spec.ingress}
    owners: dict[str, dict[str, Peer]] = {}
    for record in records:
        endpoint = record.endpoint
        if record.network in ingress and endpoint.state == "ready" and endpoint.service and record.owner in members:
            owners.setdefault(endpoint.service, {})[record.owner] = members[record.owner]
    return {
        service: _by_address([peer for peer in found.values() if peer.state == "alive"] or found.values())
        for service, found in owners.items()
    }


def _published(service: Service) -> list[PortConfig]:
    return [port for port in service.endpoint.ports if port.published_port]


def _fronts(
    service: Service, with_tasks: list[Peer], everywhere: list[Peer], meshed: bool
) -> Iterable[tuple[bytes, list[Peer], list[Peer]]]:
    """The service's names, each with the nodes that it means and those where ports in ingress mode are shown."""
    base = key_of(service.spec.name)
    if base is None:
        return
    yield base, everywhere if meshed else with_tasks, everywhere
    if each := joined(_TASKS, base):
        yield each, with_tasks, with_tasks


def _prefixes(ports: Sequence[PortConfig]) -> Iterable[tuple[bytes, PortConfig]]:
    """`_port._protocol` of each port: by its published number, which is unique and so comes first, by its name, and by
    the tasks' number."""
    labels = [(str(port.published_port), port) for port in ports]
    labels += [(port.name, port) for port in ports if port.name]
    labels += [(str(port.target_port), port) for port in ports]
    for label, port in labels:
        if prefix := key_of(f"_{label}._{port.protocol}"):
            yield prefix, port


def _targets(nodes: Iterable[Peer], port: int, called: Mapping[str, bytes]) -> tuple[Target, ...]:
    return tuple(Target(called[peer.id], _packed(peer), port) for peer in nodes if peer.id in called)


def _called(members: Iterable[Peer], services: set[str]) -> dict[str, bytes]:
    """What SRV records call each node: its name if that means no other node and no service, else its id."""
    known = list(members)
    count = Counter(peer.hostname.lower() for peer in known)
    found = {}
    for peer in known:
        own = count[peer.hostname.lower()] == 1 and peer.hostname.lower() not in services
        name = (wire_name(peer.hostname) if own else None) or wire_name(peer.id)
        if name is not None:
            found[peer.id] = name
    return found


def _by_address(peers: Iterable[Peer]) -> list[Peer]:
    return sorted(peers, key=lambda peer: (_packed(peer), peer.id))


def _packed(peer: Peer) -> bytes:
    return IPv4Address(peer.address).packed
