"""`meshnet bench growth`: whether a service takes longer to start where there are many already.

Services of two tasks each are created on one network of a swarm, some at a time, until all tasks run; each lot is
followed by as many in a second swarm, which is small and stays so. A lot's cost is its time over that of the small
swarm's lot beside it, so that what else the machine does meets both.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshnet.bench import machine, swarm
from meshnet.bench.swarm import Side
from meshnet.errors import MeshnetError

SERVICES, LOT, STEP = 1000, 20, 100
TASKS = 2
AIM = 1.2  # times the first hundred's cost that the last may have
_PAUSE = 0.05  # s


@dataclass(slots=True)
class Lots:
    """What every lot took in one swarm: seconds by the wall clock, and of CPU time of all that belongs to the lab."""

    side: Side
    group: Path
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def start(self, number: int) -> list[str]:
        """Creates one lot of services and returns their ids once all tasks run."""
        cpu, begin = cpu_seconds(self.group), time.perf_counter()
        found = [swarm.create(self.side, f"lot{number}-{each}", TASKS) for each in range(LOT)]
        self._wait(found)
        self.wall.append(time.perf_counter() - begin)
        self.cpu.append(cpu_seconds(self.group) - cpu)
        return found

    def _wait(self, services: Sequence[str]) -> None:
        deadline = time.monotonic() + swarm.PATIENCE
        waiting = set(services)
        while waiting:
            if time.monotonic() > deadline:
                raise MeshnetError(f"{len(waiting)} of {LOT} services do not run after {swarm.PATIENCE:g} s")
            time.sleep(_PAUSE)
            tasks = self.side.client.get("/tasks", filters={"service": sorted(waiting)})
            running = [task["ServiceID"] for task in tasks if task["Status"]["State"] == "running"]
            waiting = {ident for ident in waiting if running.count(ident) < TASKS}

    def end(self, services: Sequence[str]) -> None:
        """Removes services, until nothing of them is left."""
        for ident in services:
            self.side.client.delete(f"/services/{ident}")
        deadline = time.monotonic() + swarm.PATIENCE
        while self.side.client.get("/tasks"):
            if time.monotonic() > deadline:
                raise MeshnetError(f"tasks of removed services are left after {swarm.PATIENCE:g} s")
            time.sleep(_PAUSE)


def cpu_seconds(group: Path) -> float:
    """CPU time that a cgroup2 group has had (cpu.stat)."""
    found = re.search(r"^usage_usec (\d+)$", (group / "cpu.stat").read_text(), re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0


def measure(grows: Lots, small: Lots, services: int, progress: Callable[[str], object]) -> None:
    """All lots; their times are in both then. Raises MeshnetError if a swarm gets stuck."""
    small.end(small.start(0))  # both are warm
    small.wall.clear()
    small.cpu.clear()
    for number in range(services // LOT):
        progress(f"{number * LOT} of {services} services")
        grows.start(number)
        small.end(small.start(number + 1))


def summary(grows: Lots, small: Lots, load: float) -> dict[str, object]:
    """What was measured as plain data: per hundred services, medians of lots and of their ratios."""
    lots = STEP // LOT
    steps = []
    for first in range(0, len(grows.wall), lots):
        some = slice(first, first + lots)
        steps.append(
            {
                "services": min(first + lots, len(grows.wall)) * LOT,
                "seconds": round(statistics.median(grows.wall[some]), 3),
                "small": round(statistics.median(small.wall[some]), 3),
                "cost": round(_ratio(grows.wall[some], small.wall[some]), 3),
                "cpu": round(statistics.median(grows.cpu[some]), 3),
                "cpu_cost": round(_ratio(grows.cpu[some], small.cpu[some]), 3),
            }
        )
    growth = {key: round(steps[-1][key] / steps[0][key], 3) for key in ("cost", "cpu_cost")}
    about = machine.about() | {"method": _METHOD}
    return {"machine": about, "load": round(load, 2), "steps": steps, "growth": growth}


def _ratio(mine: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median([one / other for one, other in zip(mine, others, strict=True)])


_METHOD = (
    f"Three nodes, services of {TASKS} tasks on one network, {LOT} at a time until all tasks run, then as many in a "
    "second swarm of three nodes that has no others. A cost is the lot's time over that of the second swarm's lot."
)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a terminal."""
    yield f"{LOT} services of {TASKS} tasks more, load {result['load']:g}"
    yield f"{'SERVICES':10}{'SECONDS':10}{'SMALL SWARM':14}{'COST':8}{'CPU SECONDS':14}COST IN CPU TIME"
    for step in result["steps"]:
        yield (
            f"{step['services']:<10}{step['seconds']:<10.3g}{step['small']:<14.3g}{step['cost']:<8.2f}"
            f"{step['cpu']:<14.3g}{step['cpu_cost']:.2f}"
        )
    growth = result["growth"]
    missed = "!" if growth["cost"] > AIM else ""
    yield (
        f"The last {STEP} cost {growth['cost']:.2f} times the first{missed} ({growth['cpu_cost']:.2f} in CPU time). "
        f"Aim: at most {AIM:g}."
    )
    yield f"{result['machine']['processor']}, Linux {result['machine']['kernel']}. {result['machine']['method']}"
