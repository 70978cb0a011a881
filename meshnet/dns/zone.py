"""What one task can look up: the names, pointers and services of the networks it is attached to.

A zone is a value, made anew whenever assignments or endpoint records change and swapped into the server whole.
Tasks attached to the same networks see the same zone and can share one.

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

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal, TypeVar

from meshnet.dns.names import dotted, joined, reverse_name, wire_name

T = TypeVar("T")
_TASKS = b"\x05tasks\0"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service on one network. `ports` are (name or "", "tcp" | "udp", target port)."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    vip: str | None = None
    mode: Literal["vip", "dnsrr"] = "vip"
    ports: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointView:
    """A task's interface on one network. `slot` is 0 for a task of a global service; `container_id` may be of any
    length, its first 12 characters become the name."""

    service_id: str
    service_name: str
    slot: int
    task_id: str
    task_name: str
    container_id: str
    hostname: str
    ip: str
    aliases: tuple[str, ...] = ()
    ready: bool = True


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network that the task is attached to, and all that is on it. The ingress network has no names: leave it out."""

    name: str
    services: tuple[ServiceView, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One SRV record: the target's name in wire form, its address packed, and its port in host order."""

    name: bytes
    address: bytes
    port: int


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


class _Packed(dict[str, bytes]):
    """Address in text -> packed, each converted once. ValueError for one that is none."""

    def __missing__(self, address: str) -> bytes:
        packed = self[address] = ip_address(address).packed
        return packed


@dataclass(slots=True)
class _Table:
    """One network's names in lower-case wire form, before networks are put in order. `suffix` is its own name, None
    where DNS cannot carry it; `services` are by prefix (`_port._protocol`) and name."""

    suffix: bytes | None
    addresses: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    services: dict[tuple[bytes, bytes], tuple[Target, ...]] = field(default_factory=dict)
    withheld: set[bytes] = field(default_factory=set)

    def full(self, name: bytes) -> bytes | None:
        """A name with the network's behind it."""
        return None if self.suffix is None else joined(name, self.suffix)


def build_zone(networks: Sequence[NetworkView]) -> Zone:
    """The zone of a task attached to `networks`, in its order of preference.

    Names that DNS cannot carry (an empty or overlong label) are left out. Raises ValueError for an address that
    is none.
    """
    packed = _Packed()
    tables = [_network_table(network, packed) for network in networks]
    addresses: dict[bytes, tuple[bytes, ...]] = {}
    services: dict[bytes, tuple[Target, ...]] = {}
    owners: dict[bytes, _Table] = {}
    for table in tables:
        for name, found in table.addresses.items():
            if name not in addresses:
                addresses[name], owners[name] = found, table
        for (prefix, name), targets in table.services.items():
            if owners[name] is table:
                _add(services, joined(prefix, name), targets)
    for table in tables:
        for name, found in table.addresses.items():
            _add(addresses, table.full(name), found)
        for (prefix, name), targets in table.services.items():
            full = table.full(name)
            _add(services, full and joined(prefix, full), targets)
    withheld = {each for table in tables for name in table.withheld for each in (name, table.full(name)) if each}
    return Zone(addresses, _pointers(networks, packed), services, frozenset(withheld - addresses.keys()))


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


def _add(table: dict[bytes, T], name: bytes | None, value: T) -> None:
    """The first one to have a name keeps it."""
    if name:
        table.setdefault(name, value)


def _network_table(network: NetworkView, packed: _Packed) -> _Table:
    ready: dict[str, list[EndpointView]] = defaultdict(list)
    for endpoint in network.endpoints:
        if endpoint.ready:
            ready[endpoint.service_id].append(endpoint)
    table = _Table(_key(network.name))
    front: dict[bytes, list[str]] = defaultdict(list)
    for service in network.services:
        tasks = ready.get(service.id, [])
        _add_service(table, front, service, tasks, _targets(network.name, service, tasks, packed))
    table.addresses = {name: _all_packed(found, packed) for name, found in front.items() if found}
    table.withheld = {name for name, found in front.items() if not found}
    for name, found in _single_task_names(network.endpoints).items():
        if name not in table.addresses:
            table.addresses[name] = _all_packed(found, packed)
    return table


def _add_service(
    table: _Table,
    front: dict[bytes, list[str]],
    service: ServiceView,
    tasks: Sequence[EndpointView],
    targets: Mapping[bytes, tuple[Target, ...]],
) -> None:
    """Adds what a service is called: `front` maps a name to addresses, none when nobody is ready."""
    behind = [task.ip for task in tasks]
    vip = [service.vip] if service.vip and tasks else []
    for base in dict.fromkeys(_key(each) for each in (service.name, *service.aliases)):
        if base is None:
            continue
        names = [base]
        front[base] += vip if service.mode == "vip" else behind
        if each := joined(_TASKS, base):
            front[each] += behind
            names.append(each)
        for prefix, found in targets.items():
            for name in names:
                if front[name]:
                    table.services[prefix, name] = table.services.get((prefix, name), ()) + found


def _targets(
    network: str, service: ServiceView, tasks: Sequence[EndpointView], packed: _Packed
) -> dict[bytes, tuple[Target, ...]]:
    """`_port._protocol` -> one target per ready task, by number and, where the port has one, by name."""
    slots: dict[int, int] = defaultdict(int)
    for task in tasks:
        slots[task.slot] += 1
    found: dict[bytes, tuple[Target, ...]] = {}
    for port_name, protocol, port in service.ports:
        targets = []
        for task in tasks:
            # HAProxy wants short targets, and a target of its own for each task.
            short = task.slot and slots[task.slot] == 1
            name = wire_name(f"{service.name}.{task.slot}.{network}" if short else f"{task.task_name}.{network}")
            if name:
                targets.append(Target(name, packed[task.ip], port))
        for label in dict.fromkeys((port_name, str(port))):
            prefix = _key(f"_{label}._{protocol}") if label and targets else None
            if prefix:
                found.setdefault(prefix, tuple(targets))
    return found


def _single_task_names(endpoints: Iterable[EndpointView]) -> dict[bytes, list[str]]:
    """Names that mean one task -> addresses; of several tasks with one name the ready ones."""
    named: dict[bytes, list[EndpointView]] = defaultdict(list)
    for endpoint in endpoints:
        slot = f"{endpoint.service_name}.{endpoint.slot}" if endpoint.slot else ""
        names = (endpoint.task_name, slot, endpoint.container_id[:12], endpoint.hostname, *endpoint.aliases)
        for key in {_key(each) for each in names if each}:
            if key:
                named[key].append(endpoint)
    return {
        name: [each.ip for each in found if each.ready] or [each.ip for each in found] for name, found in named.items()
    }


def _pointers(networks: Sequence[NetworkView], packed: _Packed) -> dict[bytes, bytes]:
    """Reverse names: a task's address -> its full name, a VIP -> its service; the first network wins."""
    found: dict[bytes, bytes] = {}
    for network in networks:
        suffix = wire_name(network.name)
        if suffix is None:
            continue
        named = [(each.ip, each.task_name) for each in network.endpoints]
        served = {each.service_id for each in network.endpoints if each.ready}
        named += [(each.vip, each.name) for each in network.services if each.vip and each.id in served]
        for address, name in named:
            wire = wire_name(name)
            target = wire and joined(wire, suffix)
            if target:
                found.setdefault(reverse_name(packed[address]), target)
    return found


def _all_packed(addresses: Iterable[str], packed: _Packed) -> tuple[bytes, ...]:
    return tuple(packed[address] for address in dict.fromkeys(addresses))


def _key(name: str) -> bytes | None:
    wire = wire_name(name.lower())
    return wire and wire.lower()
