"""Everything of a lab that the kernel knows by a number, taken while the lab is up and looked for when it is down.

Names tell only what was not forgotten; numbers also tell of a namespace without a name, a program without a pin.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshnet import names
from meshnet.kernel import netns
from meshnet.lab import down, leftovers
from meshnet.testing.waiting import wait_until

SLOW = 10.0  # s that the kernel gets to take things apart


def _bpftool(*words: str) -> dict[str, list[int]] | None:
    done = subprocess.run(["bpftool", "-j", *words], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def _started(pid: int) -> str:
    """When a process started, so that another one of the same number is told apart; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _namespaces_in_use(wanted: Mapping[int, int]) -> Iterator[int]:
    """Inode numbers of those namespaces (inode to cookie) that a process is in or has mounted.

    The kernel gives an inode number again soon; a cookie never.
    """
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            places = {os.stat(directory / "ns/net").st_ino: directory / "ns/net"}
            for line in (directory / "mountinfo").read_text().splitlines():
                root, point = line.split(" ")[3:5]
                if root.startswith("net:["):
                    places[int(root[5:-1])] = directory / "root" / point[1:]
            yield from (
                inode for inode, path in places.items() if inode in wanted and netns.cookie(str(path)) == wanted[inode]
            )


@dataclass(frozen=True)
class Census:
    """The numbers of one lab."""

    lab: str
    processes: dict[int, str]
    namespaces: dict[int, str]
    cookies: dict[int, int]
    programs: frozenset[int]
    maps: frozenset[int]

    @classmethod
    def take(cls, lab: str) -> Census:
        programs: set[int] = set()
        maps: set[int] = set()
        for pin in Path(f"{names.BPFFS}/meshnet/{lab}").rglob("progs/*"):
            shown = _bpftool("prog", "show", "pinned", str(pin))
            assert shown, pin
            programs.add(shown["id"])  # type: ignore[arg-type]
            maps.update(shown.get("map_ids", ()))
        namespaces = {os.stat(netns.path(name)).st_ino: name for name in down.namespaces(lab)}
        return cls(
            lab,
            {pid: _started(pid) for pid in leftovers.processes(lab)},
            namespaces,
            {inode: netns.cookie(name) for inode, name in namespaces.items()},
            frozenset(programs),
            frozenset(maps),
        )

    def remains(self) -> list[str]:
        """A line for each thing that is still there."""
        found = leftovers.find(self.lab)
        found += [f"process {pid}" for pid, start in self.processes.items() if start and _started(pid) == start]
        used = set(_namespaces_in_use(self.cookies))
        found += [f"namespace {name} (net:[{number}])" for number, name in self.namespaces.items() if number in used]
        found += [f"program {one}" for one in self.programs if _bpftool("prog", "show", "id", str(one))]
        found += [f"map {one}" for one in self.maps if _bpftool("map", "show", "id", str(one))]
        return found

    def assert_gone(self) -> None:
        """Nothing of the lab is left, at the latest when the kernel is done with it."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.remains(), SLOW, interval=0.05)
        left = self.remains()
        assert left == [], left


def of_the_host() -> dict[str, str]:
    """What a lab must never touch: the host's own links, addresses, routes, rules, firewall and forwarding."""
    commands = ("ip -o link", "ip -o addr", "ip route show table all", "ip rule", "nft list ruleset")
    found = {
        command: subprocess.run(command.split(), capture_output=True, text=True, check=False).stdout
        for command in commands
    }
    found["forward"] = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    found["reserved"] = Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text()
    return found
