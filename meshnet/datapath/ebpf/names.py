"""The names that the program on a task's lo answers itself (bpf/dns.h): which they are, and how the map follows a plan.

A name that has changed is taken out before anything else of a plan is applied and put in again, with its new
addresses, when all the rest is. In between, and for good where the map is full or the name does not fit, the task's
name server answers: a stale answer cannot outlast an apply, whatever fails in it.

What was written is remembered, so that a plan costs as much as it changes: names are told apart by the addresses
being another object. The first plan of a process and one that is applied again are compared with the map itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.layout import NameKey, NameValue, ZoneKey
from meshnet.datapath.rows import Plan, ZoneRow

NAME_SIZE = 120  # DNS_NAME_SIZE in bpf/dns.h
MAX_ANSWERS = 16  # DNS_MAX_ANSWERS
_LAST_ZONE = 0xFFFF  # tc_classid has 16 bits
_RECORDS = 2 * MAX_ANSWERS - 1
_RECORD = 16

Table = dict[bytes, bytes]
Changed = dict[bytes, bytes | None]


class Writable(Protocol):
    """What is needed of `meshnet.kernel.bpf.Map`."""

    max_entries: int

    def put(self, entries: Mapping[bytes, bytes]) -> Mapping[bytes, int]: ...

    def discard(self, keys: Iterable[bytes]) -> int: ...

    def items(self) -> Table: ...


def zone_key(row: ZoneRow) -> bytes:
    """Key of `zones`: a digest of the networks, in order."""
    return ZoneKey(hashlib.sha256("\n".join(row.networks).encode()).digest()[:16]).pack()


def numbered(rows: Iterable[ZoneRow], stored: Mapping[bytes, int], last: int = 0) -> dict[bytes, int]:
    """Zone key -> number, 1..65535: the stored one, or the next after `last` and all stored that is free.

    There are none left for zones beyond the 65535th: theirs are the answers of user space alone.
    """
    keys = [zone_key(row) for row in rows]
    found = {key: stored[key] for key in keys if key in stored}
    taken = set(stored.values())
    number = max([last, *taken])
    for key in keys:
        if key in found or len(taken) >= _LAST_ZONE:
            continue
        number = number % _LAST_ZONE + 1
        while number in taken:
            number = number % _LAST_ZONE + 1
        taken.add(number)
        found[key] = number
    return found


def fits(name: bytes, addresses: Sequence[bytes]) -> bool:
    """Whether there can be an entry for this name; user space must answer the others.

    Those are names that are too long or have a zero octet inside, and names with no, too many or IPv6 addresses.
    """
    if len(name) > NAME_SIZE or len(addresses) > MAX_ANSWERS or name.index(0) != len(name) - 1:
        return False
    return set(map(len, addresses)) == {4}


def entry(number: int, name: bytes, addresses: Sequence[bytes], ttl: int) -> tuple[bytes, bytes]:
    """Key and value of one name, one that `fits`."""
    # Owner: the name at offset 12, the question's (RFC 1035 §4.1.4). Type A, class IN, four bytes of data.
    head = b"\xc0\x0c\0\1\0\1" + ttl.to_bytes(4, "big") + b"\0\4"
    records = b"".join(head + address for address in addresses)
    cyclic = (records * -(-_RECORDS // len(addresses)))[: _RECORDS * _RECORD]
    return NameKey.of(name, number), NameValue.of(len(addresses), cyclic)


def entries(rows: Iterable[ZoneRow], numbers: Mapping[bytes, int], room: int) -> tuple[Table, int]:
    """Contents of `names`, at most `room` of them, and how many names are left to user space.

    When not all fit, the shortest names of all zones are taken: services and what people type.
    """
    zones = [_Zone(numbers[zone_key(row)], row) for row in rows if zone_key(row) in numbers]
    made = chosen(zones, room)
    return made, sum(len(zone.names) for zone in zones) - len(made)


class _Zone:
    """One zone's names, and what the map has of them once somebody asked: `fit` are those that could be there."""

    def __init__(self, number: int, row: ZoneRow) -> None:
        self.number = number
        self.ttl = row.ttl
        self.names: Mapping[bytes, tuple[bytes, ...]] = {}
        self.fit: dict[bytes, tuple[bytes, ...]] = {}
        self._made: dict[bytes, tuple[bytes, bytes]] = {}
        self.follow(row.names)

    def follow(self, names: Mapping[bytes, tuple[bytes, ...]]) -> list[bytes]:
        """Takes other names; returns those that fit or did, and mean something else now."""
        before, self.names = self.names, names
        if names is before:
            return []
        gone = before.keys() - names.keys()
        changed = [name for name in gone if self.fit.pop(name, None)]
        for name, found in names.items():
            if before.get(name) is found:
                continue
            if fits(name, found):
                self.fit[name] = found
            elif not self.fit.pop(name, None):
                continue
            changed.append(name)
        for name in changed:
            self._made.pop(name, None)
        return changed

    def key(self, name: bytes) -> bytes:
        """That of a name which fits, or did."""
        return NameKey.of(name, self.number)

    def entry(self, name: bytes) -> tuple[bytes, bytes]:
        """Key and value of a name that fits."""
        if name not in self._made:
            self._made[name] = entry(self.number, name, self.fit[name], self.ttl)
        return self._made[name]

    def changes(self, names: Iterable[bytes]) -> Changed:
        """What these names mean for the map: value by key, None where there is none any more."""
        found: Changed = {}
        for name in names:
            if name in self.fit:
                key, value = self.entry(name)
                found[key] = value
            else:
                found[self.key(name)] = None
        return found


def chosen(zones: Sequence[_Zone], room: int) -> Table:
    """As many entries as there is room for, those of the shortest names of all zones."""
    if sum(len(zone.fit) for zone in zones) <= room:
        return dict(zone.entry(name) for zone in zones for name in zone.fit)
    lengths = Counter(len(name) for zone in zones for name in zone.fit)
    left, last = room, 0
    for last in sorted(lengths):
        if lengths[last] > left:
            break
        left -= lengths[last]
    made = dict(zone.entry(name) for zone in zones for name in zone.fit if len(name) < last)
    for zone in sorted(zones, key=lambda each: each.number):
        rest = sorted(name for name in zone.fit if len(name) == last)[:left]
        made |= dict(map(zone.entry, rest))
        left -= len(rest)
    return made


def observed(names: Mapping[bytes, bytes], zones: Mapping[bytes, bytes], known: Plan) -> tuple[ZoneRow, ...]:
    """The zones that the maps hold. Their networks and sandboxes come from `known`; a zone that it does not know is
    left out."""
    by_number: dict[int, dict[bytes, tuple[bytes, ...]]] = {}
    ttls: dict[int, int] = {}
    for raw, value in names.items():
        key, found = NameKey.unpack(raw), NameValue.unpack(value)
        records = [found.records[at : at + _RECORD] for at in range(0, found.count * _RECORD, _RECORD)]
        name = key.name.rstrip(b"\0") + b"\0"
        by_number.setdefault(key.zone, {})[name] = tuple(record[12:] for record in records)
        ttls[key.zone] = int.from_bytes(records[0][6:10], "big")
    rows = []
    for row in known.zones:
        number = layout.from_u32(zones.get(zone_key(row), bytes(4)))
        if number:
            rows.append(ZoneRow(row.networks, row.sandboxes, ttls.get(number, row.ttl), by_number.get(number, {})))
    return tuple(rows)


class Names:
    """The maps `names` and `zones` of one node, as far as this process has brought them."""

    def __init__(self) -> None:
        self._names: Table | None = None  # what the map holds; None: not known
        self._zones: Table = {}
        self._rows: tuple[ZoneRow, ...] = ()
        self._followed: dict[int, _Zone] = {}  # by number of the zone
        self._wanted: Table = {}
        self._open: set[bytes] = set()  # keys under which map and `_wanted` may differ
        self._all_fit = True
        self._last = 0
        self._unfit = 0
        self._refused = 0

    @property
    def left(self) -> int:
        """How many names user space answers alone."""
        return self._unfit + self._refused

    def forget(self) -> None:
        """Makes the next plan be compared with the maps, not with what is remembered of them."""
        self._names = None

    def withdraw(self, rows: tuple[ZoneRow, ...], maps: Mapping[str, Writable]) -> int:
        """Takes out what a plan has not or has differently; the rest of the plan may follow. How many went."""
        if self._names is None:
            self._names, self._zones = maps["names"].items(), maps["zones"].items()
            self._open |= self._names.keys() | self._wanted.keys()
        stored = {key: layout.from_u32(value) for key, value in self._zones.items()}
        numbers = numbered(rows, stored, self._last)
        self._last = max([self._last, *numbers.values()])
        self._want(rows, numbers, maps["names"].max_entries)
        self._rows = rows
        stale = [key for key in self._open if key in self._names and self._names[key] != self._wanted.get(key)]
        maps["names"].discard(stale)
        for key in stale:
            del self._names[key]
        self._number(numbers, maps["zones"])
        return len(stale)

    def _want(self, rows: Iterable[ZoneRow], numbers: Mapping[bytes, int], room: int) -> None:
        """Brings `_wanted` to what the rows say, and notes in `_open` under which keys that changed anything."""
        before, self._followed = self._followed, {}
        changed: list[tuple[_Zone, Iterable[bytes]]] = []
        for row in rows:
            number = numbers.get(zone_key(row), 0)
            known = before.get(number)
            if not number:
                continue
            if known is not None and known.ttl == row.ttl:
                changed.append((known, known.follow(row.names)))
                self._followed[number] = before.pop(number)
            else:
                self._followed[number] = made = _Zone(number, row)
                changed.append((made, made.fit))
        gone = {zone.key(name) for zone in before.values() for name in zone.fit}
        zones = list(self._followed.values())
        fit, self._all_fit = self._all_fit, sum(len(zone.fit) for zone in zones) <= room
        if fit and self._all_fit:
            what: Changed = dict.fromkeys(gone)
            for zone, some in changed:
                what |= zone.changes(some)
            self._open |= what.keys()
            self._wanted |= {key: value for key, value in what.items() if value is not None}
            for key, value in what.items():
                if value is None:
                    self._wanted.pop(key, None)
        elif gone or any(some for _, some in changed):
            wanted = chosen(zones, room)
            self._open |= {key for key, value in wanted.items() if self._wanted.get(key) != value}
            self._open |= self._wanted.keys() - wanted.keys()
            self._wanted = wanted
        self._unfit = sum(len(zone.names) for zone in zones) - len(self._wanted)

    def _number(self, numbers: Mapping[bytes, int], zones: Writable) -> None:
        """Writes which zone has which number."""
        over = self._zones.keys() - numbers.keys()
        zones.discard(over)
        for key in over:
            del self._zones[key]
        new = {key: layout.u32(number) for key, number in numbers.items() if key not in self._zones}
        refused = zones.put(new)
        self._zones |= {key: value for key, value in new.items() if key not in refused}

    def publish(self, maps: Mapping[str, Writable]) -> int:
        """Puts in what `withdraw` was told and is not there; how many it were. What does not fit is user space's."""
        if self._names is None:
            return 0
        new = {key: self._wanted[key] for key in self._open if key in self._wanted and key not in self._names}
        refused = maps["names"].put(new)
        self._names |= {key: value for key, value in new.items() if key not in refused}
        self._open = set(refused)
        self._refused = len(refused)
        return len(new) - len(refused)

    def zone_numbers(self) -> dict[str, int]:
        """Path of a sandbox -> number of its zone, for the class of its filter."""
        return {
            sandbox: layout.from_u32(self._zones[key])
            for row in self._rows
            if (key := zone_key(row)) in self._zones
            for sandbox in row.sandboxes
        }
