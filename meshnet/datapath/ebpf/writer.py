"""Bringing the maps from what they hold to what they should hold, in an order that leaves no gap.

First all that is new or changed, in the order of `tables.NAMES`: interface records before traffic can come,
endpoints before the services that lead to them, a new set of backends before the service that names it. Then
addresses become tombstones, and what nobody names any more goes, in the opposite order. A packet at any moment
finds either the old state or the new one.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.tables import NAMES, Table, Tables

_LARGER = "raise its size under maps: in lab.yml (map_sizes in an agent's settings)"


class Writable(Protocol):
    """What is needed of `meshnet.kernel.bpf.Map`."""

    max_entries: int

    def set(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...


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
        for key, value in wanted[name].items():
            if before.get(key) == value:
                continue
            if name == "endpoints" and layout.Endpoint.unpack(value).kind == layout.REMOVED:
                late[key] = value
            elif name in ("services", "published") and _held_back(maps, name, key, value, before, broken, kept, report):
                continue
            elif not _put(maps[name], name, key, value, report) and name == "backends":
                broken.add(layout.BackendKey.unpack(key).set)
    for key, value in late.items():
        _put(maps["endpoints"], "endpoints", key, value, report)
    for name in reversed(NAMES):
        for key in current.get(name, {}).keys() - wanted[name].keys():
            if name == "backends" and layout.BackendKey.unpack(key).set in kept:
                continue
            if maps[name].delete(key):
                report.removed[name] = report.removed.get(name, 0) + 1
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


def _put(table: Writable, name: str, key: bytes, value: bytes, report: Report) -> bool:
    try:
        table.set(key, value)
    except OSError as error:
        if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
            raise
        if error.errno == errno.ENOMEM:
            _say(report, f"no memory for map {name}")
        else:
            _say(report, f"map {name} is full ({table.max_entries} entries): {_LARGER}")
        return False
    report.added[name] = report.added.get(name, 0) + 1
    return True


def _say(report: Report, line: str) -> None:
    if line not in report.errors:
        report.errors.append(line)
