"""What one node's data path must hold, computed from what the manager assigned and what the members say.

`plan()` is the only way into the kernel: adding, removing, restarting and repairing are all "compute the plan,
apply the difference". It is a pure function of its arguments. It is computed as a whole each time; rows are made once
and used again while they are wanted, which is most of its cost, and lets whoever compares two plans see at once what is
in both.

Who is a backend: an endpoint whose record says `ready`, on a member that is alive. A suspected member's backends
are left out while the service has others; a draining endpoint is never one, but stays reachable as an endpoint,
so that its connections finish. A dead member's endpoints are passed as draining ones. A connection that has not got
further than a SYN at a backend that drains, or whose member is suspected or dead, goes to another with its next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

from meshnet.datapath.rows import (
    EndpointRow,
    NetworkRow,
    PeerRow,
    Plan,
    PublishedRow,
    RemoteRow,
    RemovedRow,
    ServiceRow,
)
from meshnet.model import Assignments, Endpoint, Network, Task, mac_of
from meshnet.names import port_name

ROWS = 1 << 16  # of each kind that are remembered
VXLAN_OVERHEAD = 50  # outer Ethernet is not counted by an MTU, so: IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What a node knows of itself. `mtu` is the underlay's, in bytes."""

    id: str
    address: str
    addresses: tuple[str, ...]
    mtu: int = 1500
    direct_return: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as gossip sees it. `state` is alive, suspect or dead."""

    id: str
    address: str
    state: str = "alive"
    datapath: str = "ebpf"
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Located:
    """An endpoint record with its owner (node id) and network (network id)."""

    owner: str
    network: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Gone:
    """An address whose owner withdrew it; `service` is the id of the service it stood behind."""

    network: str
    ip: str
    service: str


def plan(
    node: LocalNode,
    assignments: Assignments,
    records: Iterable[Located],
    peers: Iterable[Peer],
    sandboxes: Mapping[str, str],
    gone: Iterable[Gone] = (),
) -> Plan:
    """The desired state of `node`'s data path.

    `sandboxes` maps the ids of local tasks that have a network namespace to its path. Records of this node's own
    endpoints are among `records`. Objects that refer to unknown networks are left out: they come with a later
    assignment. Of two records of one address the later one counts.
    """
    located = list(records)
    members = {peer.id: peer for peer in peers}
    networks = _held_networks(node, assignments, sandboxes)
    by_id = {row.id: row for row in networks}
    endpoints = _local_endpoints(assignments, sandboxes, by_id)
    local = {(row.vni, row.ip) for row in endpoints}
    local |= {(row.vni, row.node_address) for row in networks if row.node_address}
    remotes = _remotes(located, members, by_id, local, node.id)
    taken = local | {(row.vni, row.ip) for row in remotes}
    ready = _ready(located, members, node.id, taken, by_id)
    ingress = next((row for row in networks if row.ingress), None)
    return Plan(
        node=node.id,
        address=node.address,
        addresses=tuple(sorted(node.addresses)),
        ingress_vni=ingress.vni if ingress else 0,
        direct_return=node.direct_return,
        networks=networks,
        endpoints=endpoints,
        remotes=remotes,
        peers=tuple(sorted((PeerRow(p.address, p.datapath) for p in members.values()), key=lambda row: row.address)),
        services=_services(assignments, ready, by_id),
        published=_published(assignments, ready, ingress, local),
        removed=_removed(gone, assignments, by_id, taken),
    )


def _held_networks(node: LocalNode, assignments: Assignments, sandboxes: Mapping[str, str]) -> tuple[NetworkRow, ...]:
    """A network is held while a local sandbox is on it; the ingress network always."""
    needed = {
        attachment.network_id
        for task in assignments.tasks.values()
        if task.id in sandboxes
        for attachment in task.networks_attachments
    }
    own = {a.network_id: a.address for a in assignments.node.attachments} if assignments.node else {}
    rows = [
        _network_row(node, network, own.get(network.id, ""))
        for network in assignments.networks.values()
        if network.vni and (network.id in needed or network.spec.ingress)
    ]
    return tuple(sorted(rows, key=lambda row: row.vni))


def _network_row(node: LocalNode, network: Network, node_address: str) -> NetworkRow:
    return NetworkRow(
        vni=network.vni,
        id=network.id,
        name=network.spec.name,
        subnet=network.subnet,
        gateway=network.gateway,
        mtu=node.mtu - VXLAN_OVERHEAD,
        ingress=network.spec.ingress,
        internal=network.spec.internal,
        node_address=node_address,
    )


def interface_order(task: Task, networks: Mapping[str, NetworkRow]) -> list[tuple[NetworkRow, str]]:
    """A task's networks with its address on each, in the order of its eth0, eth1 ...: ingress first, as Swarm."""
    known = [(networks[a.network_id], a.address) for a in task.networks_attachments if a.network_id in networks]
    return sorted(known, key=lambda pair: (not pair[0].ingress, pair[0].vni)) if len(known) > 1 else known


def _local_endpoints(
    assignments: Assignments, sandboxes: Mapping[str, str], networks: Mapping[str, NetworkRow]
) -> tuple[EndpointRow, ...]:
    rows = []
    for task in assignments.tasks.values():
        if task.id not in sandboxes:
            continue
        order = interface_order(task, networks)
        way_out = next((row.vni for row, _ in order if not row.internal), 0)
        for index, (network, ip) in enumerate(order):
            rows.append(_endpoint_row(network.vni, ip, task.id, sandboxes[task.id], index, network.vni == way_out))
    return tuple(sorted(rows, key=attrgetter("vni", "ip")))


@lru_cache(ROWS)
def _endpoint_row(vni: int, ip: str, task: str, netns: str, index: int, default_route: bool) -> EndpointRow:
    return EndpointRow(
        vni=vni,
        ip=ip,
        mac=mac_of(ip),
        task=task,
        netns=netns,
        interface=f"eth{index}",
        port=port_name(task, vni),
        default_route=default_route,
    )


def _remotes(
    records: Iterable[Located],
    members: Mapping[str, Peer],
    networks: Mapping[str, NetworkRow],
    local: set[tuple[int, str]],
    own_id: str,
) -> tuple[RemoteRow, ...]:
    found: dict[tuple[int, str], RemoteRow] = {}
    for record in records:
        network, peer = networks.get(record.network), members.get(record.owner)
        if network is None or peer is None or record.owner == own_id:
            continue
        key = (network.vni, record.endpoint.ip)
        if key not in local:
            leaving = record.endpoint.state == "draining" or peer.state != "alive"
            found[key] = _remote_row(network.vni, record.endpoint.ip, record.endpoint.mac, peer.address, leaving)
    return tuple(found[key] for key in sorted(found))


@lru_cache(ROWS)
def _remote_row(vni: int, ip: str, mac: str, node: str, leaving: bool) -> RemoteRow:
    return RemoteRow(vni, ip, mac, node, leaving)


def _ready(
    records: Iterable[Located],
    members: Mapping[str, Peer],
    own_id: str,
    reachable: set[tuple[int, str]],
    networks: Mapping[str, NetworkRow],
) -> dict[tuple[str, str], tuple[str, ...]]:
    """(service id, network id) -> addresses that take new connections, sorted."""
    sure: dict[tuple[str, str], set[str]] = {}
    doubtful: dict[tuple[str, str], set[str]] = {}
    for record in records:
        endpoint, network = record.endpoint, networks.get(record.network)
        if endpoint.state != "ready" or not endpoint.service or network is None:
            continue
        if (network.vni, endpoint.ip) not in reachable:
            continue
        peer = members.get(record.owner)
        alive = record.owner == own_id or (peer is not None and peer.state == "alive")
        group = sure if alive else doubtful
        group.setdefault((endpoint.service, record.network), set()).add(endpoint.ip)
    return {key: tuple(sorted(found)) for key, found in (doubtful | sure).items()}


def _services(
    assignments: Assignments,
    ready: Mapping[tuple[str, str], tuple[str, ...]],
    networks: Mapping[str, NetworkRow],
) -> tuple[ServiceRow, ...]:
    rows = []
    for service in assignments.services.values():
        for vip in service.endpoint.virtual_ips:
            network = networks.get(vip.network_id)
            if network is None or network.ingress:
                continue
            backends = ready.get((service.id, vip.network_id), ())
            rows.append(_service_row(service.id, network.vni, vip.addr, backends))
    return tuple(sorted(rows, key=attrgetter("vni", "vip")))


@lru_cache(ROWS)
def _service_row(service: str, vni: int, addr: str, backends: tuple[str, ...]) -> ServiceRow:
    return ServiceRow(service, vni, addr.partition("/")[0], backends)


def _published(
    assignments: Assignments,
    ready: Mapping[tuple[str, str], tuple[str, ...]],
    ingress: NetworkRow | None,
    local: set[tuple[int, str]],
) -> tuple[PublishedRow, ...]:
    """Ports of every node, and in host mode those of services that have a task here, with that alone behind them."""
    if ingress is None:
        return ()
    rows = []
    for service in assignments.services.values():
        backends = ready.get((service.id, ingress.id), ())
        here = tuple(ip for ip in backends if (ingress.vni, ip) in local)
        for port in service.endpoint.ports:
            behind = backends if port.publish_mode == "ingress" else here
            if port.published_port and (behind or port.publish_mode == "ingress"):
                rows.append(PublishedRow(service.id, port.protocol, port.published_port, port.target_port, behind))
    return tuple(sorted(rows, key=lambda row: (row.protocol, row.port)))


def _removed(
    gone: Iterable[Gone],
    assignments: Assignments,
    networks: Mapping[str, NetworkRow],
    taken: set[tuple[int, str]],
) -> tuple[RemovedRow, ...]:
    rows: dict[tuple[int, str], RemovedRow] = {}
    for item in gone:
        network = networks.get(item.network)
        if network is None or (network.vni, item.ip) in taken:
            continue
        service = assignments.services.get(item.service)
        vip = (service.vip(item.network) or "") if service and not network.ingress else ""
        rows[network.vni, item.ip] = RemovedRow(network.vni, item.ip, vip)
    return tuple(rows[key] for key in sorted(rows))
