"""The same services asked by wrk, where it is installed: somebody else's client, in the same task.

It keeps its connections and asks one address. That is a VIP, or with dnsrr a single backend, as wrk asks for a name
once. iperf3 has no place here: its two connections have to reach the same server, and a VIP gives each a server of its
own.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshnet.bench import machine
from meshnet.bench.modes import CONNECTIONS, PORT
from meshnet.bench.paths import Missing
from meshnet.bench.pressure import Pressure
from meshnet.errors import MeshnetError

MISSING = Missing("wrk", "it is not installed", "apt-get install wrk")
_SECONDS, _PATIENCE = 1, 15.0
_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True, slots=True)
class Said:
    """What wrk says of one run: requests a second, microseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What wrk found of one service: medians of `rounds` runs, the rate with its least and most. `pressure`: meanwhile,
    of all services."""

    title: str
    rounds: int
    rate: float
    least: float
    most: float
    p50: float
    p99: float
    failed: int
    pressure: Pressure


def installed() -> bool:
    """Whether wrk is here."""
    return shutil.which("wrk") is not None


def measure(
    start: Callable[[list[str]], subprocess.Popen[bytes]], group: Path, addresses: Mapping[str, str], rounds: int
) -> tuple[Asked, ...]:
    """Asks each address (by title) in turn for a second, so many rounds. `start` starts a program in the client's
    task; all that is measured runs in the cgroup `group`. MeshnetError if wrk fails."""
    before = machine.work(group)
    found: dict[str, list[Said]] = {title: [] for title in addresses}
    for _ in range(rounds):
        for title, address in addresses.items():
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{_SECONDS}s", "--latency", f"http://{address}:{PORT}/"]
            found[title].append(read(_output(start(command))))
    pressure = Pressure(*machine.shares(before, machine.work(group)), 0.0)
    return tuple(_summary(title, said, pressure) for title, said in found.items())


def _output(process: subprocess.Popen[bytes]) -> str:
    try:
        out, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise MeshnetError("wrk hangs; what was made is removed") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise MeshnetError(f"wrk failed: {(errors or out).decode(errors='replace').strip()}")
    return out.decode(errors="replace")


def read(text: str) -> Said:
    """From wrk's own report (4.1). MeshnetError for something else."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.MULTILINE)
    waits = {name: float(value) * _UNITS[unit] for name, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", text)}
    wrong = re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", text)
    if rate is None or not {"50", "99"} <= waits.keys():
        raise MeshnetError(f"wrk says something else than it should: {text.strip()[:200]}")
    return Said(float(rate[1]), waits["50"], waits["99"], sum(map(int, wrong)))


def _summary(title: str, said: list[Said], pressure: Pressure) -> Asked:
    rates = [each.rate for each in said]
    return Asked(
        title=title,
        rounds=len(said),
        rate=statistics.median(rates),
        least=min(rates),
        most=max(rates),
        p50=statistics.median(each.p50 for each in said),
        p99=statistics.median(each.p99 for each in said),
        failed=sum(each.failed for each in said),
        pressure=pressure,
    )
