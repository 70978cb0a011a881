"""From assignments and records to what a task can look up (pure)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from meshnet.datapath.plan import Located
from meshnet.datapath.rows import ZoneRow
from meshnet.dns.answer import TTL
from meshnet.dns.share import EndpointView, ServiceView, Share, share_of
from meshnet.dns.table import Table
from meshnet.dns.zone import LiveZone, Zone
from meshnet.model import Assignments, Network, Service


@dataclass(frozen=True, slots=True)
class _Unit:
    """What a share is made of: a service with its endpoints on a network, or a task's endpoint without one. Endpoints
    of the members `doubted` are not given to those who ask for the service."""

    service: Service | None
    records: list[Located]
    doubted: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Network:
    """A network's names, and what they were made of."""

    network: Network
    table: Table
    units: dict[str, _Unit]


class Zones:
    """The zones of the state of the world that `follow` was told last; tasks on the same networks share one.

    What has not changed since is not looked at again: to be told apart, services and records must be other objects
    when they have changed.
    """

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}
        self._zones: dict[tuple[str, ...], LiveZone] = {}
        self._asked: set[tuple[str, ...]] = set()

    def follow(
        self, assignments: Assignments, records: Iterable[Located], suspected: frozenset[str] = frozenset()
    ) -> None:
        """Takes a new state of the world. A service's tasks on the members `suspected` are left out of its names while
        it has others, as `plan` has it for VIPs."""
        units = _units(assignments, records)
        if suspected:
            _doubt(units, suspected)
        before, self._networks = self._networks, {}
        for ident, network in assignments.networks.items():
            if not network.spec.ingress:  # it has no names
                self._networks[ident] = _brought(before.get(ident), network, units.get(ident, {}))
        fresh = {ident for ident, one in self._networks.items() if one is not before.get(ident)}
        fresh |= before.keys() - self._networks.keys()
        for wanted in list(self._zones):
            if wanted not in self._asked or not fresh.isdisjoint(wanted):
                del self._zones[wanted]
            else:
                self._zones[wanted].follow()
        for one in self._networks.values():
            one.table.settle()
        self._asked = set()

    def for_networks(self, network_ids: Iterable[str]) -> Zone:
        """The zone of a task on these networks, in the order of its interfaces. Ingress has no names."""
        wanted = tuple(network_ids)
        self._asked.add(wanted)
        if wanted not in self._zones:
            known = (self._networks.get(network_id) for network_id in wanted)
            self._zones[wanted] = LiveZone([one.table for one in known if one is not None])
        return self._zones[wanted].zone

    def rows(self, sandboxes: Mapping[str, Sequence[str]]) -> tuple[ZoneRow, ...]:
        """What the data path may answer itself, for sandboxes (paths) on networks (ids, as in `for_networks`)."""
        together: dict[tuple[str, ...], list[str]] = {}
        for sandbox, networks in sandboxes.items():
            together.setdefault(tuple(networks), []).append(sandbox)
        return tuple(
            ZoneRow(networks, tuple(sorted(together[networks])), TTL, plain_names(self.for_networks(networks)))
            for networks in sorted(together)
        )


def plain_names(zone: Zone) -> Mapping[bytes, tuple[bytes, ...]]:
    """Names and addresses, without names whose answers have more than addresses in them."""
    odd = zone.addresses.keys() & zone.services.keys()
    return {name: found for name, found in zone.addresses.items() if name not in odd} if odd else zone.addresses


def _units(assignments: Assignments, records: Iterable[Located]) -> dict[str, dict[str, _Unit]]:
    """By network, and by the id of a service, or of a task without one."""
    found: dict[str, dict[str, _Unit]] = {}
    for service in assignments.services.values():
        for attachment in service.spec.task_template.networks:
            found.setdefault(attachment.target, {})[service.id] = _Unit(service, [])
    for record in records:
        endpoint = record.endpoint
        if not endpoint.task:
            continue
        units = found.setdefault(record.network, {})
        unit = units.get(endpoint.service or endpoint.task)
        if unit is None:
            unit = units[endpoint.service or endpoint.task] = _Unit(assignments.services.get(endpoint.service), [])
        unit.records.append(record)
    return found


def _doubt(units: Mapping[str, dict[str, _Unit]], suspected: frozenset[str]) -> None:
    """Marks whose endpoints are left out: those of suspected members, where others are ready."""
    for some in units.values():
        for ident, unit in some.items():
            owners = {record.owner for record in unit.records if record.endpoint.state == "ready"}
            if unit.service is not None and not owners <= suspected:
                some[ident] = replace(unit, doubted=suspected & owners)


def _brought(known: _Network | None, network: Network, units: dict[str, _Unit]) -> _Network:
    """A network's names as they are now: those that are known, changed, unless the network is called otherwise."""
    if known is None or known.network.spec.name != network.spec.name:
        known = _Network(network, Table(network.spec.name), {})
    for ident, unit in units.items():
        if not _same(known.units.get(ident), unit):
            known.table.put(ident, _share(network, unit))
    for ident in known.units.keys() - units.keys():
        known.table.put(ident, Share())
    known.units = units
    return known


def _same(before: _Unit | None, now: _Unit) -> bool:
    if before is None or before.service is not now.service or len(before.records) != len(now.records):
        return False
    if before.doubted != now.doubted:
        return False
    return all(map(operator.is_, before.records, now.records))


def _share(network: Network, unit: _Unit) -> Share:
    view = None
    if unit.service is not None and any(a.target == network.id for a in unit.service.spec.task_template.networks):
        view = _service_view(unit.service, network.id)
    return share_of(network.spec.name, view, [_endpoint_view(record, unit) for record in unit.records])


def _endpoint_view(record: Located, unit: _Unit) -> EndpointView:
    endpoint, service = record.endpoint, unit.service
    name = service.spec.name if service else endpoint.service
    full = f"{name}.{endpoint.slot or record.owner}.{endpoint.task}"
    alone = endpoint.aliases[0] if endpoint.aliases else endpoint.hostname  # of a container without a service
    return EndpointView(
        service_id=endpoint.service,
        service_name=name,
        slot=endpoint.slot,
        task_id=endpoint.task,
        task_name=full if endpoint.service else alone,
        container_id=endpoint.container,
        hostname=endpoint.hostname,
        ip=endpoint.ip,
        aliases=endpoint.aliases,
        ready=endpoint.state == "ready" and record.owner not in unit.doubted,
    )


def _service_view(service: Service, network_id: str) -> ServiceView:
    aliases = tuple(
        alias
        for attachment in service.spec.task_template.networks
        if attachment.target == network_id
        for alias in attachment.aliases
    )
    vip = service.vip(network_id)
    return ServiceView(
        id=service.id,
        name=service.spec.name,
        aliases=aliases,
        vip=vip,
        mode="dnsrr" if service.spec.endpoint_spec.mode == "dnsrr" else "vip",
        ports=tuple((p.name, p.protocol, p.target_port) for p in service.endpoint.ports),
    )
