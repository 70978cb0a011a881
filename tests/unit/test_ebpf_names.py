"""Names for the program on lo: what is put into its maps, in which order, and what is left to user space."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.layout import NameKey, NameValue
from meshnet.datapath.ebpf.names import (
    MAX_ANSWERS,
    NAME_SIZE,
    Names,
    Table,
    entries,
    entry,
    fits,
    numbered,
    observed,
    zone_key,
)
from meshnet.datapath.rows import Plan, ZoneRow
from meshnet.dns.names import wire_name


def wire(text: str) -> bytes:
    found = wire_name(text)
    assert found
    return found


def ip(*lasts: int) -> tuple[bytes, ...]:
    return tuple(bytes((10, 0, 0, last)) for last in lasts)


ONE = ZoneRow(("net1",), ("/run/netns/a",), 5, {wire("web"): ip(2), wire("tasks.web"): ip(3, 4)})
TWO = ZoneRow(("net1", "net2"), ("/run/netns/b", "/run/netns/c"), 5, {wire("web"): ip(2), wire("db"): ip(9)})


class FakeMap:
    """A map that notes what is done to it, and can be full."""

    def __init__(self, log: list[tuple[str, bytes]], max_entries: int = 100) -> None:
        self.held: Table = {}
        self.log = log
        self.max_entries = max_entries
        self.error = 0

    def put(self, entries: Mapping[bytes, bytes]) -> dict[bytes, int]:
        refused = {}
        for key, value in entries.items():
            if self.error not in (0, errno.ENOMEM):
                raise OSError(self.error, "refused")
            if self.error or len(self.held.keys() | {key}) > self.max_entries:
                refused[key] = self.error or errno.E2BIG
                continue
            self.log.append(("set", key))
            self.held[key] = value
        return refused

    def discard(self, keys: Iterable[bytes]) -> int:
        wanted = list(keys)
        self.log += [("delete", key) for key in wanted]
        return sum(self.held.pop(key, None) is not None for key in wanted)

    def items(self) -> Table:
        self.log.append(("items", b""))
        return dict(self.held)


class World:
    def __init__(self, room: int = 100) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.maps = {"names": FakeMap(self.log, room), "zones": FakeMap(self.log)}
        self.names = Names()

    def apply(self, *rows: ZoneRow) -> tuple[int, int]:
        self.log.clear()
        return self.names.withdraw(rows, self.maps), self.names.publish(self.maps)

    def known(self) -> set[tuple[int, bytes]]:
        keys = (NameKey.unpack(key) for key in self.maps["names"].held)
        return {(key.zone, key.name.rstrip(b"\0") + b"\0") for key in keys}


def test_entry_is_a_row_of_records() -> None:
    """A value holds whole A records again and again, so that count of them from any of the first count are all."""
    made = entry(7, wire("tasks.web"), ip(3, 4, 5), 5)
    assert made
    key, value = NameKey.unpack(made[0]), NameValue.unpack(made[1])
    assert (key.zone, key.name) == (7, wire("tasks.web").ljust(NAME_SIZE, b"\0"))
    records = [value.records[at : at + 16] for at in range(0, len(value.records), 16)]
    assert len(records) == 31
    assert records[0] == b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\0\0\3"
    for first in range(value.count):
        assert {record[12:] for record in records[first : first + value.count]} == set(ip(3, 4, 5))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b"\x3fx" + b"x" * 62 + b"\x38" + b"y" * 56 + b"\0", ip(2)),
        (b"\3a\0b\0", ip(2)),
        (wire("many"), ip(*range(1, MAX_ANSWERS + 2))),
        (wire("none"), ()),
        (wire("six"), (bytes(16),)),
        (wire("both"), (*ip(2), bytes(16))),
    ],
    ids=["long", "zero inside", "many", "none", "IPv6", "both"],
)
def test_what_user_space_answers(name: bytes, found: tuple[bytes, ...]) -> None:
    """Names that are too long or odd, with no, IPv6 or too many addresses have no entry."""
    assert not fits(name, found)
    row = replace(ONE, names={name: found})
    assert entries((row,), {zone_key(row): 1}, 10) == ({}, 1)


def test_longest_name_and_most_addresses() -> None:
    """A name of exactly the room, and a name with exactly so many addresses, have an entry."""
    longest = b"\x3f" + b"x" * 63 + b"\x36" + b"y" * 54 + b"\0"
    assert len(longest) == NAME_SIZE
    assert fits(longest, ip(2))
    assert fits(wire("many"), ip(*range(MAX_ANSWERS)))


def test_numbers_stay_and_are_not_used_again_soon() -> None:
    """A zone keeps its number while it is there; a new one gets a number that none had lately; they end at 65535."""
    first, second = zone_key(ONE), zone_key(TWO)
    assert numbered((ONE, TWO), {}) == {first: 1, second: 2}
    assert numbered((ONE, TWO), {second: 1}) == {second: 1, first: 2}
    assert numbered((TWO,), {}, last=9) == {second: 10}
    assert numbered((TWO,), {first: 1}, last=0xFFFF) == {second: 2}
    assert numbered((ONE,), {bytes(16): 1} | {n.to_bytes(16, "big"): n for n in range(2, 0x10000)}) == {}


def test_networks_tell_zones_apart() -> None:
    """Another order of the same networks is another zone: names of the first one win."""
    assert zone_key(TWO) != zone_key(replace(TWO, networks=("net2", "net1")))
    assert zone_key(TWO) == zone_key(replace(TWO, names={}, sandboxes=()))


def test_plan_is_written_and_observed() -> None:
    """Names are under their zone's number, every sandbox knows its number, and the maps tell the same again."""
    world = World()
    assert world.apply(ONE, TWO) == (0, 4)
    assert world.known() == {(1, wire("web")), (1, wire("tasks.web")), (2, wire("web")), (2, wire("db"))}
    assert world.names.zone_numbers() == {"/run/netns/a": 1, "/run/netns/b": 2, "/run/netns/c": 2}
    plan = Plan("n", "", zones=(ONE, TWO))
    assert observed(world.maps["names"].held, world.maps["zones"].held, plan) == plan.zones


def test_same_plan_costs_nothing() -> None:
    """A plan without news about names touches no map, unless they shall be looked at."""
    world = World()
    world.apply(ONE)
    assert (world.apply(ONE), world.log) == ((0, 0), [])
    world.names.forget()
    assert (world.apply(ONE), {kind for kind, _ in world.log}) == ((0, 0), {"items"})


def test_changed_names_go_first() -> None:
    """A name with other addresses is gone before the rest of the plan is applied, and back after it."""
    world = World()
    world.apply(ONE)
    changed = replace(ONE, names={wire("web"): ip(2), wire("tasks.web"): ip(3)})
    assert world.names.withdraw((changed,), world.maps) == 1
    assert world.known() == {(1, wire("web"))}
    assert world.names.publish(world.maps) == 1
    assert world.known() == {(1, wire("web")), (1, wire("tasks.web"))}


def test_failed_apply_leaves_no_stale_name() -> None:
    """When an apply ends between both steps, what changed stays with user space; the next one puts it in."""
    world = World()
    world.apply(ONE)
    changed = replace(ONE, names={wire("web"): ip(7)})
    world.names.withdraw((changed,), world.maps)
    assert world.known() == set()
    assert world.apply(changed) == (0, 1)
    assert world.known() == {(1, wire("web"))}


def test_zone_without_tasks_goes() -> None:
    """The last task of a zone takes its names and its number along; another zone does not get that number next."""
    world = World()
    world.apply(ONE, TWO)
    world.apply(TWO)
    assert world.known() == {(2, wire("web")), (2, wire("db"))}
    assert zone_key(ONE) not in world.maps["zones"].held
    world.apply(replace(TWO, networks=("new",)))
    assert {zone for zone, _ in world.known()} == {3}


def test_next_process_finds_its_numbers() -> None:
    """An agent that starts again changes nothing, and corrects what somebody else changed."""
    world = World()
    world.apply(TWO, ONE)
    world.names = Names()
    assert world.apply(ONE, TWO) == (0, 0)
    stray = NameKey(wire("stray").ljust(NAME_SIZE, b"\0"), 1).pack()
    world.maps["names"].held[stray] = bytes(504)
    del world.maps["names"].held[NameKey(wire("db").ljust(NAME_SIZE, b"\0"), 1).pack()]
    world.names = Names()
    assert world.apply(ONE, TWO) == (1, 1)
    assert layout.from_u32(world.maps["zones"].held[zone_key(ONE)]) == 2


def test_full_map_takes_the_short_names() -> None:
    """What does not fit is left to user space and counted: the longest names of all zones."""
    world = World(room=3)
    assert world.apply(ONE, TWO) == (0, 3)
    assert world.known() == {(1, wire("web")), (2, wire("web")), (2, wire("db"))}
    assert world.names.left == 1
    assert world.apply(ONE, TWO) == (0, 0)
    assert world.names.left == 1


@pytest.mark.parametrize(("error", "fails"), [(errno.ENOMEM, False), (errno.EPERM, True)])
def test_map_that_refuses(error: int, fails: bool) -> None:
    """No memory leaves names to user space, counted once and tried again; any other refusal is an error."""
    world = World()
    world.maps["names"].error = error

    def attempt() -> Any:
        return world.apply(ONE)

    if fails:
        with pytest.raises(OSError):
            attempt()
        return
    assert (attempt(), attempt(), world.names.left) == ((0, 0), (0, 0), 2)
    world.maps["names"].error = 0
    assert (attempt(), world.names.left) == ((0, 2), 0)


NAMES = st.dictionaries(
    st.sampled_from(["a", "b", "web", "db", "tasks.web", "much.longer", "x" * 63]).map(wire),
    st.lists(st.integers(1, 9), max_size=3).map(lambda lasts: ip(*lasts)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), NAMES), min_size=1, max_size=8),
    st.integers(0, 8),
    st.sets(st.integers(0, 7)),
)
def test_following_is_writing_anew(
    plans: list[dict[str, dict[bytes, tuple[bytes, ...]]]], room: int, forgotten: set[int]
) -> None:
    """After any plans the map holds what the last one alone would have put there, and as many names are left out."""
    world = World(room)
    rows: tuple[ZoneRow, ...] = ()
    for number, plan in enumerate(plans):
        rows = tuple(ZoneRow((network,), (), 5, names) for network, names in sorted(plan.items()))
        if number in forgotten:
            world.names.forget()
        world.apply(*rows)
        numbers = {key: layout.from_u32(value) for key, value in world.maps["zones"].held.items()}
        assert numbers.keys() == {zone_key(row) for row in rows}
        wanted, left = entries(rows, numbers, room)
        assert (world.maps["names"].held, world.names.left) == (wanted, left)
