"""What one service with its tasks, or one task without a service, adds to the names of a network.

Everything here is in wire form, addresses packed. A network's names are all shares together (see `table`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal

from meshnet.dns.names import joined, reverse_name, wire_name

_TASKS = b"\x05tasks\0"

Packed = tuple[bytes, ...]


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
class Target:
    """One SRV record: the target's name in wire form, its address packed, and its port in host order."""

    name: bytes
    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Share:
    """`front`: names of the service, with no address when nobody is ready. `single`: names that mean one task, with
    the addresses of ready ones and of all. `services`: name -> `_port._protocol` -> targets. `pointers` are by reverse
    name, those of tasks apart from the VIP's, which come second."""

    front: Mapping[bytes, Packed] = field(default_factory=dict)
    single: Mapping[bytes, tuple[Packed, Packed]] = field(default_factory=dict)
    services: Mapping[bytes, Mapping[bytes, tuple[Target, ...]]] = field(default_factory=dict)
    task_pointers: Mapping[bytes, bytes] = field(default_factory=dict)
    vip_pointers: Mapping[bytes, bytes] = field(default_factory=dict)


def unit_of(endpoint: EndpointView) -> str:
    """Whose share an endpoint belongs to: its service's id, or its task's if it has none."""
    return endpoint.service_id or endpoint.task_id


def share_of(network: str, service: ServiceView | None, endpoints: Sequence[EndpointView]) -> Share:
    """The share of one unit on the network of that name; `service` is None if there is none, or not known yet.

    Names that DNS cannot carry are left out. Raises ValueError for an address that is none.
    """
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    suffix = wire_name(network)
    tasks = [(endpoint.ip, endpoint.task_name) for endpoint in endpoints]
    single = _single_task_names(endpoints)
    if service is None:
        return Share(single=single, task_pointers=_pointers(tasks, suffix))
    vip = [(service.vip, service.name)] if service.vip and ready else []
    front, served = _front(service, ready, _targets(network, service, ready))
    return Share(front, single, served, _pointers(tasks, suffix), _pointers(vip, suffix))


def _front(
    service: ServiceView, ready: Sequence[EndpointView], targets: Mapping[bytes, tuple[Target, ...]]
) -> tuple[dict[bytes, Packed], dict[bytes, Mapping[bytes, tuple[Target, ...]]]]:
    """What a service is called, and what is served under these names."""
    behind = _all_packed(task.ip for task in ready)
    vip = _all_packed([service.vip] if service.vip and ready else [])
    front: dict[bytes, Packed] = {}
    for base in dict.fromkeys(key_of(each) for each in (service.name, *service.aliases)):
        if base is not None:
            front[base] = unique((*front.get(base, ()), *(vip if service.mode == "vip" else behind)))
            if each := joined(_TASKS, base):
                front[each] = unique((*front.get(each, ()), *behind))
    return front, dict.fromkeys(front, targets) if targets else {}


def _targets(network: str, service: ServiceView, ready: Sequence[EndpointView]) -> dict[bytes, tuple[Target, ...]]:
    """`_port._protocol` -> one target per ready task, by number and, where the port has one, by name."""
    slots: dict[int, int] = defaultdict(int)
    for task in ready:
        slots[task.slot] += 1
    found: dict[bytes, tuple[Target, ...]] = {}
    for port_name, protocol, port in service.ports:
        targets = []
        for task in ready:
            # HAProxy wants short targets, and a target of its own for each task.
            short = task.slot and slots[task.slot] == 1
            name = wire_name(f"{service.name}.{task.slot}.{network}" if short else f"{task.task_name}.{network}")
            if name:
                targets.append(Target(name, _packed(task.ip), port))
        for label in dict.fromkeys((port_name, str(port))):
            prefix = key_of(f"_{label}._{protocol}") if label and targets else None
            if prefix:
                found.setdefault(prefix, tuple(targets))
    return found


def _single_task_names(endpoints: Iterable[EndpointView]) -> dict[bytes, tuple[Packed, Packed]]:
    """Names that mean one task -> addresses of those that are ready, and of all that have it."""
    named: dict[bytes, list[EndpointView]] = defaultdict(list)
    for endpoint in endpoints:
        slot = f"{endpoint.service_name}.{endpoint.slot}" if endpoint.slot else ""
        names = (endpoint.task_name, slot, endpoint.container_id[:12], endpoint.hostname, *endpoint.aliases)
        for key in [key_of(each) for each in names if each]:
            if key and (not (found := named[key]) or found[-1] is not endpoint):
                found.append(endpoint)
    return {name: _ready_and_all(found) for name, found in named.items()}


def _ready_and_all(found: Sequence[EndpointView]) -> tuple[Packed, Packed]:
    if len(found) == 1:  # as nearly always
        packed = (_packed(found[0].ip),)
        return (packed if found[0].ready else ()), packed
    return _all_packed(each.ip for each in found if each.ready), _all_packed(each.ip for each in found)


def _pointers(named: Iterable[tuple[str, str]], suffix: bytes | None) -> dict[bytes, bytes]:
    """Reverse name -> full name, of addresses with their names; the first name of an address wins."""
    found: dict[bytes, bytes] = {}
    for address, name in named:
        wire = wire_name(name)
        target = joined(wire, suffix) if wire and suffix else None
        if target:
            found.setdefault(reverse_name(_packed(address)), target)
    return found


@lru_cache(maxsize=16384)
def _packed(address: str) -> bytes:
    """ValueError for what is no address."""
    return ip_address(address).packed


def _all_packed(addresses: Iterable[str]) -> Packed:
    return tuple(map(_packed, dict.fromkeys(addresses)))


def unique(addresses: Packed) -> Packed:
    """Each of them once."""
    return tuple(dict.fromkeys(addresses))


def key_of(name: str) -> bytes | None:
    """A name as tables have it: wire form, lower case. None if DNS cannot carry it."""
    wire = wire_name(name.lower())
    return wire and wire.lower()
