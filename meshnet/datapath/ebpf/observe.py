"""From what the maps hold back to a plan: what this node's data path does now, in the words of `rows`.

Maps know addresses and numbers. Names (of networks, services, tasks, namespaces) come from `known`, a plan that was
applied, where it names the same thing; they are "" otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.layout import Config, Endpoint, EndpointKey, Interface, Service, text
from meshnet.datapath.ebpf.tables import Table, backends_of
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


@dataclass(frozen=True, slots=True)
class _Located:
    vni: int
    ip: str
    record: Endpoint


def observed(current: Mapping[str, Table], ports: Mapping[int, str], known: Plan) -> Plan:
    """The plan that the maps `current` hold; `ports` maps interface indexes to names."""
    raw = current["config"].get(layout.u32(0))
    config = Config.unpack(raw) if raw else Config()
    located = [_located(key, value) for key, value in current["endpoints"].items()]
    return Plan(
        node=known.node,
        address=text(config.address),
        addresses=tuple(sorted(text(key) for key in current["addresses"])),
        ingress_vni=config.ingress_vni,
        direct_return=bool(config.flags & layout.CONFIG_DIRECT_RETURN),
        networks=_networks(current, config, located, known),
        endpoints=_endpoints(current["interfaces"], ports, known),
        remotes=tuple(
            RemoteRow(
                found.vni,
                found.ip,
                layout.mac_text(found.record.mac),
                text(found.record.via),
                bool(found.record.flags & layout.ENDPOINT_LEAVING),
            )
            for found in _of_kind(located, layout.REMOTE)
        ),
        peers=tuple(
            PeerRow(text(key), "ipvs" if layout.Peer.unpack(value).flags & layout.PEER_IPVS else "ebpf")
            for key, value in sorted(current["peers"].items(), key=lambda item: text(item[0]))
        ),
        services=_services(current, known),
        published=_published(current, known),
        removed=tuple(
            RemovedRow(found.vni, found.ip, text(found.record.via)) for found in _of_kind(located, layout.REMOVED)
        ),
        closed=_closed(located, known),
    )


def _located(key: bytes, value: bytes) -> _Located:
    place = EndpointKey.unpack(key)
    return _Located(place.vni, text(place.ip), Endpoint.unpack(value))


def _of_kind(located: list[_Located], kind: int) -> list[_Located]:
    return sorted((e for e in located if e.record.kind == kind), key=lambda e: (e.vni, e.ip))


def _networks(
    current: Mapping[str, Table], config: Config, located: list[_Located], known: Plan
) -> tuple[NetworkRow, ...]:
    subnets = {layout.from_u32(vni): layout.subnet_text(key) for key, vni in current["subnets"].items()}
    gateways = {found.vni: found.ip for found in _of_kind(located, layout.GATEWAY)}
    named = {row.vni: row for row in known.networks}
    rows = []
    for key, value in current["networks"].items():
        vni, network = layout.from_u32(key), layout.Network.unpack(value)
        ingress = vni == config.ingress_vni
        rows.append(
            NetworkRow(
                vni=vni,
                id=named[vni].id if vni in named else "",
                name=named[vni].name if vni in named else "",
                subnet=subnets.get(vni, ""),
                gateway=gateways.get(vni, ""),
                mtu=network.mtu,
                ingress=ingress,
                internal=bool(network.flags & layout.NETWORK_INTERNAL),
                node_address=text(config.ingress_address) if ingress else "",
            )
        )
    return tuple(sorted(rows, key=lambda row: row.vni))


def _endpoints(interfaces: Table, ports: Mapping[int, str], known: Plan) -> tuple[EndpointRow, ...]:
    named = {(row.vni, row.ip): row for row in known.endpoints}
    rows = []
    for key, value in interfaces.items():
        interface = Interface.unpack(value)
        if interface.flags & layout.INTERFACE_NODE_LOCAL:
            continue
        ip = text(interface.ip)
        row = named.get((interface.vni, ip))
        rows.append(
            EndpointRow(
                vni=interface.vni,
                ip=ip,
                mac=layout.mac_text(interface.mac),
                task=row.task if row else "",
                netns=row.netns if row else "",
                interface=row.interface if row else "",
                port=ports.get(layout.from_u32(key), ""),
                default_route=bool(interface.flags & layout.INTERFACE_OUTSIDE),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.vni, row.ip)))


def _closed(located: list[_Located], known: Plan) -> tuple[str, ...]:
    tasks = {(row.vni, row.ip): row.task for row in known.endpoints}
    shut = [found for found in _of_kind(located, layout.LOCAL) if found.record.flags & layout.ENDPOINT_CLOSED]
    return tuple(sorted({tasks.get((found.vni, found.ip), "") for found in shut}))


def _backends(service: Service, current: Mapping[str, Table]) -> tuple[str, ...]:
    return tuple(map(text, backends_of(service, current["backends"]) or ()))


def _services(current: Mapping[str, Table], known: Plan) -> tuple[ServiceRow, ...]:
    named = {row.vip: row.id for row in known.services}
    rows = []
    for key, value in current["services"].items():
        vip, service = text(key), Service.unpack(value)
        rows.append(ServiceRow(named.get(vip, ""), service.vni, vip, _backends(service, current)))
    return tuple(sorted(rows, key=lambda row: (row.vni, row.vip)))


def _published(current: Mapping[str, Table], known: Plan) -> tuple[PublishedRow, ...]:
    named = {(row.protocol, row.port): row.service for row in known.published}
    rows = []
    for raw, value in current["published"].items():
        key, service = layout.PublishedKey.unpack(raw), Service.unpack(value)
        protocol, port = layout.PROTOCOL_NAMES.get(key.protocol, str(key.protocol)), layout.from_be16(key.port)
        target = layout.from_be16(service.target_port)
        rows.append(PublishedRow(named.get((protocol, port), ""), protocol, port, target, _backends(service, current)))
    return tuple(sorted(rows, key=lambda row: (row.protocol, row.port)))
