"""The names of one network: all shares together, kept so that a share which changes costs what it changes.

Within a network a name that several services carry means all of them, in the order of their ids, and a service's names
beat those of single tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TypeVar

from meshnet.dns.names import joined
from meshnet.dns.share import Packed, Share, Target, key_of, unique

_NOTHING = Share()

T = TypeVar("T")


class Table:
    """`addresses`, `services` and `withheld` by lower-case name without the network's own, `pointers` by reverse name.

    `changed` are the names and `turned` the reverse names that are not as they were at the last `settle`.
    """

    def __init__(self, network: str) -> None:
        self.addresses: dict[bytes, Packed] = {}
        self.services: dict[bytes, Mapping[bytes, tuple[Target, ...]]] = {}
        self.withheld: set[bytes] = set()
        self.pointers: dict[bytes, bytes] = {}
        self.changed: set[bytes] = set()
        self.turned: set[bytes] = set()
        self._suffix = key_of(network)
        self._shares: dict[str, Share] = {}
        self._named: dict[bytes, tuple[str, ...]] = {}  # name -> units that have it, sorted
        self._pointed: dict[bytes, tuple[str, ...]] = {}

    def full(self, name: bytes) -> bytes | None:
        """A name with the network's behind it."""
        return None if self._suffix is None else joined(name, self._suffix)

    def short(self, name: bytes) -> bytes:
        """What has to be looked up for a name with the network's behind it; b"" for another one."""
        if self._suffix is None or not name.endswith(self._suffix) or len(name) <= len(self._suffix):
            return b""
        return name[: -len(self._suffix)] + b"\0"

    def names(self) -> set[bytes]:
        """Every name, also those that are withheld."""
        return self.addresses.keys() | self.withheld

    def settle(self) -> None:
        """Counts from here what changes."""
        self.changed, self.turned = set(), set()

    def put(self, unit: str, share: Share) -> None:
        """Makes `share` that of a unit (the id of a service, or of a task without one); an empty one takes it away."""
        before = self._shares.pop(unit, _NOTHING)
        if share != _NOTHING:
            self._shares[unit] = share
        for name in _held(self._named, unit, _names(before), _names(share)):
            self._merge(name)
        for name in _held(self._pointed, unit, _reverse_names(before), _reverse_names(share)):
            self._turn(name)

    def _merge(self, name: bytes) -> None:
        shares = [self._shares[unit] for unit in self._named.get(name, ())]
        if len(shares) == 1 and name not in shares[0].front:  # most names are those of one task
            ready, everyone = shares[0].single[name]
            self._know(name, ready or everyone, {}, False)
            return
        fronts = [share.front[name] for share in shares if name in share.front]
        front = _together(fronts)
        found = front or _single(share.single[name] for share in shares if name in share.single)
        served: dict[bytes, tuple[Target, ...]] = {}
        for share in shares if front else ():
            for prefix, targets in share.services.get(name, {}).items():
                served[prefix] = served.get(prefix, ()) + targets
        self._know(name, found, served, bool(fronts) and not front)

    def _know(self, name: bytes, found: Packed, served: Mapping[bytes, tuple[Target, ...]], withheld: bool) -> None:
        known = (self.addresses.get(name, ()), self.services.get(name, {}), name in self.withheld)
        if known == (found, served, withheld):
            return
        self.changed.add(name)
        _keep(self.addresses, name, found)
        _keep(self.services, name, served)
        (self.withheld.add if withheld else self.withheld.discard)(name)

    def _turn(self, name: bytes) -> None:
        shares = [self._shares[unit] for unit in self._pointed.get(name, ())]
        targets = [share.task_pointers.get(name, b"") for share in shares]
        targets += [share.vip_pointers.get(name, b"") for share in shares]
        found = next((target for target in targets if target), b"")
        if found != self.pointers.get(name, b""):
            self.turned.add(name)
            _keep(self.pointers, name, found)


def _names(share: Share) -> set[bytes]:
    return share.front.keys() | share.single.keys()


def _reverse_names(share: Share) -> set[bytes]:
    return share.task_pointers.keys() | share.vip_pointers.keys()


def _held(holders: dict[bytes, tuple[str, ...]], unit: str, before: set[bytes], now: set[bytes]) -> set[bytes]:
    """Notes who holds which name; returns all names that have to be looked at."""
    for name in now - before:
        holders[name] = tuple(sorted((*holders.get(name, ()), unit)))
    for name in before - now:
        left = tuple(each for each in holders[name] if each != unit)
        _keep(holders, name, left)
    return before | now


def _together(found: list[Packed]) -> Packed:
    return found[0] if len(found) == 1 else unique(tuple(itertools.chain.from_iterable(found)))


def _single(found: Iterable[tuple[Packed, Packed]]) -> Packed:
    """The ready ones of those that have a name, or all if none is."""
    pairs = list(found)
    return _together([ready for ready, _ in pairs]) or _together([everyone for _, everyone in pairs])


def _keep(table: dict[bytes, T], name: bytes, value: T) -> None:
    if value:
        table[name] = value
    else:
        table.pop(name, None)
