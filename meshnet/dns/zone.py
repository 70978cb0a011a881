"""What one task can look up: the names, pointers and services of the networks it is attached to.

A zone is a value that is swapped into the server whole. Tasks attached to the same networks see the same zone and
can share one. It is made of the networks' tables (see `table`), and when these change, the next zone is a copy of the
last one with other entries for the names that changed: `LiveZone`. `build_zone` makes one from nothing.

Which names there are, for a service `web` on a network `shop`:
    web, <alias>                   the VIP; under dnsrr the ready tasks
    tasks.web, tasks.<alias>       the ready tasks
    _http._tcp.web, _80._tcp.web   SRV, one record per ready task, by the port's name and by the target port
    web.1, web.1.<task id>         one task by slot or by its full name; also its container id, hostname, aliases
and each of them with `.shop` behind it. Within a network an alias that several services carry means all of them, as
in Swarm, and a service's names beat those of single tasks. Between networks the first one that has the name wins,
and `.shop` says which one is meant.

A service is there when at least one of its tasks is ready. Names of single tasks are there for as long as the task
is, ready or not: members of a cluster find each other by them before they can become healthy. When a slot has two
tasks, as during an update, the ready one is meant. A service that nobody stands behind is withheld: it does not
exist (NXDOMAIN), but its name is not told to an upstream server either.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from meshnet.dns.names import dotted, joined
from meshnet.dns.share import EndpointView, ServiceView, Target, share_of, unit_of
from meshnet.dns.table import Table

__all__ = ["EndpointView", "LiveZone", "NetworkView", "ServiceView", "Target", "Zone", "build_zone", "listing"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network that the task is attached to, and all that is on it. The ingress network has no names: leave it out."""

    name: str
    services: tuple[ServiceView, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()


@dataclass(frozen=True, slots=True)
class Zone:
    """Tables by lower-case wire name. Addresses are packed: 4 bytes for IPv4, 16 for IPv6."""

    addresses: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    pointers: Mapping[bytes, bytes] = field(default_factory=dict)
    services: Mapping[bytes, tuple[Target, ...]] = field(default_factory=dict)
    withheld: frozenset[bytes] = frozenset()

    def knows(self, key: bytes) -> bool:
        """Whether the lower-case wire name `key` is a name of this zone, with something behind it or withheld."""
        return key in self.addresses or key in self.pointers or key in self.services or key in self.withheld


def build_zone(networks: Sequence[NetworkView]) -> Zone:
    """The zone of a task attached to `networks`, in its order of preference.

    Names that DNS cannot carry (an empty or overlong label) are left out. Raises ValueError for an address that
    is none.
    """
    return LiveZone([_table(network) for network in networks]).zone


def _table(network: NetworkView) -> Table:
    services = {service.id: service for service in network.services}
    endpoints: dict[str, list[EndpointView]] = {unit: [] for unit in services}
    for endpoint in network.endpoints:
        endpoints.setdefault(unit_of(endpoint), []).append(endpoint)
    table = Table(network.name)
    for unit, found in endpoints.items():
        table.put(unit, share_of(network.name, services.get(unit), found))
    return table


class LiveZone:
    """The zone of tasks attached to networks with these tables, in their order of preference.

    `zone` is as the tables were when `follow` was called last.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tuple(tables)
        self._served: dict[bytes, tuple[bytes, ...]] = {}  # name -> its keys in `services`
        self.zone = Zone()
        self._change([table.names() for table in tables], [table.pointers for table in tables])

    def follow(self) -> None:
        """Takes over what the tables say has changed in them."""
        names = [table.changed for table in self._tables]
        pointers = [table.turned for table in self._tables]
        if any(names) or any(pointers):
            self._change(names, pointers)

    def _change(self, names: Sequence[Iterable[bytes]], pointers: Sequence[Iterable[bytes]]) -> None:
        """Looks at these names, for each table its own, and at these reverse names again."""
        addresses, services = dict(self.zone.addresses), dict(self.zone.services)
        withheld, turned = set(self.zone.withheld), dict(self.zone.pointers)
        for name in self._meant(names):
            owner, shorts = None, []
            for table in self._tables:
                if owner is None and name in table.addresses:
                    owner = table
                if short := table.short(name):
                    shorts.append((table, short))
            found = owner.addresses[name] if owner is not None else _first(shorts)
            if found is not None:
                addresses[name] = found
                withheld.discard(name)
            else:
                addresses.pop(name, None)
                (withheld.add if self._is_withheld(name, shorts) else withheld.discard)(name)
            if name in self._served:
                for key in self._served.pop(name):
                    services.pop(key, None)
            if served := _served(name, owner, shorts):
                self._served[name] = tuple(served)
                for key, targets in served.items():
                    services.setdefault(key, targets)
        for name in dict.fromkeys(name for some in pointers for name in some):
            _set(turned, name, next((t.pointers[name] for t in self._tables if name in t.pointers), None))
        self.zone = Zone(addresses, turned, services, frozenset(withheld))

    def _meant(self, names: Sequence[Iterable[bytes]]) -> dict[bytes, None]:
        """The zone's names that these of the tables have to do with: they themselves, and with their network's."""
        found: dict[bytes, None] = {}
        for table, some in zip(self._tables, names, strict=True):
            for name in some:
                found[name] = None
                if full := table.full(name):
                    found[full] = None
        return found

    def _is_withheld(self, name: bytes, shorts: Iterable[tuple[Table, bytes]]) -> bool:
        return any(name in table.withheld for table in self._tables) or any(
            short in table.withheld for table, short in shorts
        )


def _first(shorts: Iterable[tuple[Table, bytes]]) -> tuple[bytes, ...] | None:
    """The addresses of the first of these names that has some."""
    for table, short in shorts:
        if short in table.addresses:
            return table.addresses[short]
    return None


def _served(name: bytes, owner: Table | None, shorts: Iterable[tuple[Table, bytes]]) -> dict[bytes, tuple[Target, ...]]:
    """Key in the zone -> targets, of everything that is served under a name."""
    keyed: dict[bytes, tuple[Target, ...]] = {}
    for table, known in ((owner, name), *shorts):
        if table is not None and known in table.services:
            for prefix, targets in table.services[known].items():
                if key := joined(prefix, name):
                    keyed.setdefault(key, targets)
    return keyed


def _set(table: dict[bytes, T], name: bytes, value: T | None) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def listing(zone: Zone) -> tuple[tuple[str, str, str], ...]:
    """Every record as (name, type, value), sorted by name: what `inspect dns` shows."""
    found = [
        (dotted(name), "AAAA" if len(packed) == 16 else "A", str(ip_address(packed)))
        for name, all_packed in zone.addresses.items()
        for packed in all_packed
    ]
    found += [(dotted(name), "PTR", dotted(target)) for name, target in zone.pointers.items()]
    found += [
        (dotted(name), "SRV", f"{dotted(target.name)}:{target.port}")
        for name, targets in zone.services.items()
        for target in targets
    ]
    return tuple(sorted(found))
