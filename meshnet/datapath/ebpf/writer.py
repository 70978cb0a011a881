"""Bringing the maps from what they hold to what they should hold, in an order that leaves no gap.

First all that is new or changed, in the order of `tables.NAMES`: interface records before traffic can come,
endpoints before the services that lead to them, a new set of backends before the service that names it. Then
addresses become tombstones, and what nobody names any more goes, in the opposite order. A packet at any moment
finds either the old state or the new one.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.tables import NAMES, Table, Tables

_LARGER = "raise its size under maps: in lab.yml (map_sizes in an agent's settings)"


class Writable(Protocol):
    """What is needed of `meshnet.kernel.bpf.Map`."""

    max_entries: int

    def put(self, entries: Mapping[bytes, bytes]) -> Mapping[bytes, int]: ...

    def discard(self, keys: Iterable[bytes]) -> int: ...


@dataclass(slots=True)
class Report:
    """What was done, by map; `errors` are lines for a person. `removed_addresses` became tombstones or went."""

    added: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def write(maps: Mapping[str, Writable], current: Mapping[str, Table], wanted: Tables) -> Report:
    """Applies the difference. A map that is full is reported and the rest is still done.

    A service whose new set of backends does not fit keeps the old one.
    """
    report = Report()
    broken: set[int] = set()
    kept: set[int] = set()
    late: Table = {}
    for name in NAMES:
        before = current.get(name, {})
        fresh = {key: value for key, value in wanted[name].items() if before.get(key) != value}
        if name == "endpoints":
            late = {key: value for key, value in fresh.items() if layout.endpoint_kind(value) == layout.REMOVED}
            fresh = {key: value for key, value in fresh.items() if key not in late}
        elif name in ("services", "published"):
            fresh = {
                key: value
                for key, value in fresh.items()
                if not _held_back(maps, name, key, value, before, broken, kept, report)
            }
        refused = _put(maps, name, fresh, report)
        if name == "backends":
            broken = {layout.BackendKey.unpack(key).set for key in refused}
    _put(maps, "endpoints", late, report)
    for name in reversed(NAMES):
        stale = current.get(name, {}).keys() - wanted[name].keys()
        if name == "backends" and kept:
            stale = {key for key in stale if layout.BackendKey.unpack(key).set not in kept}
        gone = maps[name].discard(stale) if stale else 0
        if gone:
            report.removed[name] = gone
    return report


def _held_back(
    maps: Mapping[str, Writable],
    name: str,
    key: bytes,
    value: bytes,
    before: Table,
    broken: set[int],
    kept: set[int],
    report: Report,
) -> bool:
    """Whether a service cannot be switched over: its new set is incomplete, or it has no place in `turns`."""
    service = layout.Service.unpack(value)
    if "turns" in maps and service.turn >= maps["turns"].max_entries:
        _say(report, f"map turns is full ({maps['turns'].max_entries} services and published ports): {_LARGER}")
        return True
    if service.set not in broken:
        return False
    if key in before:
        kept.add(layout.Service.unpack(before[key]).set)
    return True


def _put(maps: Mapping[str, Writable], name: str, entries: Table, report: Report) -> Collection[bytes]:
    """Writes entries; returns the keys of those that were refused. Without entries there need be no map."""
    refused = maps[name].put(entries) if entries else {}
    for code in set(refused.values()):
        if code == errno.ENOMEM:
            _say(report, f"no memory for map {name}")
        else:
            _say(report, f"map {name} is full ({maps[name].max_entries} entries): {_LARGER}")
    if len(entries) > len(refused):
        report.added[name] = report.added.get(name, 0) + len(entries) - len(refused)
    return refused


def _say(report: Report, line: str) -> None:
    if line not in report.errors:
        report.errors.append(line)
