"""What a container uses of the machine, from its cgroup, and where that does not account for it from its processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from meshnet.sandbox import cgroup

MICROSECOND = 1000  # ns; cpu.stat counts in microseconds
CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """One look. Times in nanoseconds, memory in bytes; `periods` are the scheduler's, of a container with a quota.

    `disk` is (major, minor, bytes read, bytes written, reads, writes) per device, empty where nobody counts it;
    `interfaces` name -> the eight counters of /proc/net/dev that Docker shows, in its order.
    """

    cpu: int
    cpu_user: int
    cpu_system: int
    periods: int
    throttled: int
    throttled_time: int
    memory: int
    memory_limit: int
    memory_detail: dict[str, int]
    processes: int
    disk: tuple[tuple[int, int, int, int, int, int], ...]
    interfaces: dict[str, tuple[int, ...]]


def look(group: str, init: int) -> Usage:
    """The usage of a container's group; `init` is its first process, for its interfaces. What is gone is zero."""
    cpu = _pairs(os.path.join(group, "cpu.stat"))
    pids = _below(group)
    detail = _pairs(os.path.join(group, "memory.stat"))
    memory = _number(os.path.join(group, "memory.current"))
    count = _number(os.path.join(group, "pids.current"))
    return Usage(
        cpu=cpu.get("usage_usec", 0) * MICROSECOND,
        cpu_user=cpu.get("user_usec", 0) * MICROSECOND,
        cpu_system=cpu.get("system_usec", 0) * MICROSECOND,
        periods=cpu.get("nr_periods", 0),
        throttled=cpu.get("nr_throttled", 0),
        throttled_time=cpu.get("throttled_usec", 0) * MICROSECOND,
        memory=sum(map(_resident, pids)) if memory is None else memory,
        memory_limit=_number(os.path.join(group, "memory.max")) or machine_memory(),
        memory_detail=detail,
        processes=len(pids) if count is None else count,
        disk=_disk(os.path.join(group, "io.stat")),
        interfaces=_interfaces(init),
    )


def machine_cpu() -> int:
    """The time that all processors of the machine have passed, idle or not, in nanoseconds."""
    line = _text("/proc/stat").partition("\n")[0].split()
    return sum(map(int, line[1:9])) * 10**9 // CLOCK


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _below(group: str) -> list[int]:
    """The processes of a group and of those below it."""
    return [pid for path, _, _ in os.walk(group) for pid in cgroup.processes(path)]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    """A file with one number; None if there is none, or it says `max`."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _pairs(path: str) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _resident(pid: int) -> int:
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _disk(path: str) -> tuple[tuple[int, int, int, int, int, int], ...]:
    found = []
    for line in _text(path).splitlines():
        device, *fields = line.split()
        counted = dict(field.split("=", 1) for field in fields if "=" in field)
        major, _, minor = device.partition(":")
        if major.isdecimal() and minor.isdecimal():
            values = [int(counted.get(name, "0")) for name in ("rbytes", "wbytes", "rios", "wios")]
            found.append((int(major), int(minor), values[0], values[1], values[2], values[3]))
    return tuple(found)


def _interfaces(init: int) -> dict[str, tuple[int, ...]]:
    """Bytes, packets, errors and drops received, then sent, of all interfaces but loopback (proc_pid_net_dev)."""
    found = {}
    for line in _text(f"/proc/{init}/net/dev").splitlines():
        name, colon, rest = line.partition(":")
        numbers = rest.split()
        if colon and name.strip() != "lo" and len(numbers) >= 12:
            found[name.strip()] = tuple(map(int, (*numbers[:4], *numbers[8:12])))
    return found
