"""From a plan to the contents of every map, as bytes: a pure function, and the whole truth about what maps hold.

Two numbers are not in a plan: the set id under which the backends of a service that has many are stored, and its place
in `turns`. Both are kept from what the maps hold already as long as the backends stay the same, so that applying an
unchanged plan changes nothing, also after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.layout import Endpoint, EndpointKey, Service
from meshnet.datapath.rows import NetworkRow, Plan

Table = dict[bytes, bytes]
Tables = dict[str, Table]

# The maps that the agent writes. `turns` and the flow tables are the programs'.
NAMES = (
    "config",
    "networks",
    "subnets",
    "interfaces",
    "endpoints",
    "peers",
    "addresses",
    "backends",
    "services",
    "targets",
    "published",
    "attached",
)
MARK = 0x6D6E  # "mn": carried by packets that leave the overlay, matched by the node's firewall
_LAST_SET = (1 << 32) - 1
_ONE = layout.u32(1)
_REMEMBERED = 1 << 16  # of each kind


@dataclass(frozen=True, slots=True)
class Facts:
    """What only the running kernel knows: interface indexes, namespace cookies, the underlay's MAC.

    `ports` maps the names of node-side ends to their index, `cookies` paths of namespaces to their cookie.
    `underlay_prefix` is that of the node's address on the underlay device, 0 where it is not known.
    `node_port` is the index of the other end of the node's own ingress interface, 0 if there is none.
    """

    node_cookie: int
    underlay: int
    underlay_mac: bytes
    vxlan: int = 0
    node_port: int = 0
    ports: Mapping[str, int] = field(default_factory=dict)
    cookies: Mapping[str, int] = field(default_factory=dict)
    underlay_prefix: int = 0
    vxlan_port: int = 4789


def tables(plan: Plan, facts: Facts, current: Mapping[str, Table], last_set: int = 0) -> Tables:
    """The contents of all maps of `NAMES` for a plan.

    `current` is what the maps hold; `last_set` the highest set id ever used, if the caller remembers. Endpoints
    whose port or namespace is not among the facts are left out. ValueError for an address that is none.
    """
    made: Tables = {name: {} for name in NAMES}
    made["config"] = {layout.u32(0): _config(plan, facts).pack()}
    for network in plan.networks:
        flags = layout.NETWORK_INTERNAL if network.internal else 0
        made["networks"][layout.u32(network.vni)] = layout.Network(flags, network.mtu).pack()
        made["subnets"][layout.subnet(network.subnet)] = layout.u32(network.vni)
    made["interfaces"] = _interfaces(plan, facts)
    made["endpoints"] = _endpoints(plan, facts)
    for peer in plan.peers:
        flags = layout.PEER_IPVS if peer.datapath == "ipvs" else 0
        made["peers"][layout.address(peer.address)] = layout.Peer(flags).pack()
    for own in plan.addresses:
        made["addresses"][layout.address(own)] = _ONE
    for port in plan.published:
        made["targets"][_published_key(port.target_port, port.protocol)] = _ONE
    for row in plan.endpoints:
        if row.netns in facts.cookies:
            made["attached"][_attached_key(facts.cookies[row.netns], row.vni)] = _ONE
    _balance(plan, current, last_set, made)
    return made


def _ingress(plan: Plan) -> NetworkRow | None:
    return next((network for network in plan.networks if network.vni == plan.ingress_vni and plan.ingress_vni), None)


def _config(plan: Plan, facts: Facts) -> layout.Config:
    ingress = _ingress(plan)
    return layout.Config(
        node_cookie=facts.node_cookie,
        address=layout.address(plan.address),
        ingress_address=layout.address(ingress.node_address if ingress else ""),
        ingress_vni=plan.ingress_vni,
        underlay=facts.underlay,
        vxlan=facts.vxlan,
        flags=layout.CONFIG_DIRECT_RETURN if plan.direct_return else 0,
        mark=MARK,
        vxlan_port=layout.be16(facts.vxlan_port),
        ingress_mtu=ingress.mtu if ingress else 0,
        underlay_mac=facts.underlay_mac,
        underlay_prefix=facts.underlay_prefix if facts.underlay_prefix < 31 else 0,
    )


def _interfaces(plan: Plan, facts: Facts) -> Table:
    networks = {network.vni: network for network in plan.networks}
    made: Table = {}
    for row in plan.endpoints:
        index, network = facts.ports.get(row.port, 0), networks.get(row.vni)
        if not index or network is None:
            continue
        flags = layout.INTERFACE_OUTSIDE if row.default_route and not network.internal else 0
        flags |= layout.INTERFACE_INGRESS if network.ingress else 0
        made[layout.u32(index)] = _interface(row.ip, row.vni, flags, network.mtu, row.mac)
    ingress = _ingress(plan)
    if ingress and ingress.node_address and facts.node_port:
        flags = layout.INTERFACE_INGRESS | layout.INTERFACE_NODE_LOCAL
        own = ingress.node_address
        made[layout.u32(facts.node_port)] = _interface(own, ingress.vni, flags, ingress.mtu, "")
    return made


def _endpoints(plan: Plan, facts: Facts) -> Table:
    """Later entries win: what is here over what is elsewhere, both over VIPs, gateways and tombstones."""
    ipvs = {peer.address for peer in plan.peers if peer.datapath == "ipvs"}
    closed = frozenset(plan.closed)
    made: Table = {}

    def put(vni: int, ip: str, mac: str, kind: int, *, via: str = "", ifindex: int = 0, flags: int = 0) -> None:
        key, value = _endpoint(vni, ip, mac, kind, via, ifindex, flags)
        made[key] = value

    for gone in plan.removed:
        put(gone.vni, gone.ip, "", layout.REMOVED, via=gone.vip)
    for network in plan.networks:
        if network.gateway:
            put(network.vni, network.gateway, "", layout.GATEWAY)
    for service in plan.services:
        put(service.vni, service.vip, "", layout.VIP)
    for remote in plan.remotes:
        flags = layout.ENDPOINT_IPVS if remote.node in ipvs else 0
        flags |= layout.ENDPOINT_LEAVING if remote.leaving else 0
        put(remote.vni, remote.ip, remote.mac, layout.REMOTE, via=remote.node, flags=flags)
    ingress = _ingress(plan)
    if ingress and ingress.node_address and facts.node_port:
        own = ingress.node_address
        flags = layout.ENDPOINT_NODE_LOCAL
        put(ingress.vni, own, "", layout.LOCAL, ifindex=facts.node_port, flags=flags)
    for row in plan.endpoints:
        if facts.ports.get(row.port):
            flags = layout.ENDPOINT_CLOSED if row.task in closed else 0
            put(row.vni, row.ip, row.mac, layout.LOCAL, ifindex=facts.ports[row.port], flags=flags)
    return made


# What rows and facts pack to is remembered: of many, few are others from one plan to the next.


@lru_cache(_REMEMBERED)
def _attached_key(cookie: int, vni: int) -> bytes:
    return layout.AttachedKey.of(cookie, vni)


@lru_cache(_REMEMBERED)
def _published_key(port: int, protocol: str) -> bytes:
    return layout.PublishedKey.of(layout.be16(port), layout.PROTOCOLS[protocol])


@lru_cache(_REMEMBERED)
def _interface(ip: str, vni: int, flags: int, mtu: int, mac: str) -> bytes:
    place = layout.address(ip)
    return layout.Interface.of(place, vni, flags, mtu, _mac(mac, place))


@lru_cache(_REMEMBERED)
def _endpoint(vni: int, ip: str, mac: str, kind: int, via: str, ifindex: int, flags: int) -> tuple[bytes, bytes]:
    place = layout.address(ip)
    value = Endpoint.of(layout.address(via), ifindex, kind, flags, _mac(mac, place))
    return EndpointKey.of(place, vni), value


def _mac(mac: str, place: bytes) -> bytes:
    """Without one, it is the one that the address itself names."""
    return layout.mac(mac) if mac else layout.mac_of(place)


@dataclass(frozen=True, slots=True)
class _Front:
    """A VIP or a published port: where it stands, and who stands behind it."""

    table: str
    key: bytes
    vni: int
    backends: tuple[bytes, ...]
    target_port: bytes = bytes(2)


def _fronts(plan: Plan) -> list[_Front]:
    fronts = [_service(row.vip, row.vni, row.backends) for row in plan.services]
    fronts += [
        _port(port.port, port.protocol, plan.ingress_vni, port.backends, port.target_port) for port in plan.published
    ]
    return fronts


@lru_cache(_REMEMBERED)
def _service(vip: str, vni: int, backends: tuple[str, ...]) -> _Front:
    return _Front("services", layout.address(vip), vni, tuple(map(layout.address, backends)))


@lru_cache(_REMEMBERED)
def _port(port: int, protocol: str, vni: int, backends: tuple[str, ...], target_port: int) -> _Front:
    packed = tuple(map(layout.address, backends))
    return _Front("published", _published_key(port, protocol), vni, packed, layout.be16(target_port))


_stored = lru_cache(_REMEMBERED)(Service.unpack)


def _balance(plan: Plan, current: Mapping[str, Table], last_set: int, made: Tables) -> None:
    """Fills `services`, `published` and `backends`: few backends are in the service; many that are known keep
    their set, others get the next number."""
    stored = {name: current.get(name, {}) for name in ("services", "published", "backends")}
    known = {(name, key): _stored(value) for name in ("services", "published") for key, value in stored[name].items()}
    fronts = _fronts(plan)
    kept = {known[front.table, front.key].turn for front in fronts if (front.table, front.key) in known}
    last = max([last_set, *(service.set for service in known.values())])
    turn = 0
    for front in fronts:
        before = known.get((front.table, front.key))
        many = len(front.backends) > layout.FEW_BACKENDS
        if not many:
            number = 0
        elif before is not None and backends_of(before, stored["backends"]) == front.backends:
            number = before.set
        else:
            last = number = 1 if last == _LAST_SET else last + 1
        if before is None:
            while turn in kept:
                turn += 1
            kept.add(turn)
        place = turn if before is None else before.turn
        few = b"" if many else b"".join(front.backends)
        made[front.table][front.key] = Service.of(front.vni, number, len(front.backends), place, front.target_port, few)
        for index, backend in enumerate(front.backends if many else ()):
            made["backends"][layout.BackendKey.of(number, index)] = backend


def backends_of(service: Service, backends: Mapping[bytes, bytes]) -> tuple[bytes, ...] | None:
    """The addresses that a stored service has, in turn; None if one of its set is missing."""
    if not service.set:
        return tuple(service.few[at : at + 16] for at in range(0, 16 * service.count, 16))
    found = [backends.get(layout.BackendKey.of(service.set, index)) for index in range(service.count)]
    return tuple(item for item in found if item is not None) if None not in found else None
