"""How long programming takes and how much memory it needs, for several numbers of services. Plain data."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = ("plan", "names", "apply")
# What is done to a node -> what it is.
CHANGES = {
    "all": "all services at once",
    "service": "one service more, or less",
    "backend": "one backend drains, or is back",
}
Sample = Mapping[str, Sequence[float]]  # step -> seconds by the wall clock, and of CPU time
_OTHERS = 1.3  # wall clock over CPU time, from which others had the CPU


@dataclass(frozen=True, slots=True)
class Programming:
    """One kind of change at one number of services. Seconds: by the wall clock, of CPU time, and what of the CPU time
    each step took; medians, and the least and most of all `times`."""

    services: int
    change: str
    times: int
    wall: float
    wall_least: float
    wall_most: float
    cpu: float
    cpu_least: float
    cpu_most: float
    steps: Mapping[str, float]
    aim: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether it took less than it should; None without an aim, and where others had too much of the CPU."""
        if self.aim is None:
            return None
        if self.wall < self.aim:
            return True
        return None if self.cpu < self.aim and self.wall > _OTHERS * self.cpu else False


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of each map, and of the process that holds the data path (its share of what is shared, and all that is
    resident), before it had any service and with all. `sizes`: entries of maps that had to be larger. `left`: names
    that only the tasks' name servers answer."""

    services: int
    maps: Mapping[str, int]
    maps_before: int
    pss: int
    pss_before: int
    rss: int
    sizes: Mapping[str, int]
    left: int


@dataclass(frozen=True, slots=True)
class Scale:
    """What `meshnet bench scale` finds besides the costs of its paths."""

    programming: tuple[Programming, ...]
    memory: tuple[Memory, ...]


def programming(services: int, change: str, samples: Sequence[Sample], aim: float | None = None) -> Programming:
    """From what a holder measured; at least one sample."""
    walls, cpus = ([sum(each[step][clock] for step in STEPS) for each in samples] for clock in (0, 1))
    return Programming(
        services,
        change,
        len(samples),
        *(statistics.median(walls), min(walls), max(walls)),
        *(statistics.median(cpus), min(cpus), max(cpus)),
        {step: statistics.median(each[step][1] for each in samples) for step in STEPS},
        aim,
    )


def from_json(value: Mapping[str, Any]) -> Scale:
    """The opposite of `dataclasses.asdict`. KeyError or TypeError for something else."""
    return Scale(
        tuple(Programming(**each) for each in value["programming"]), tuple(Memory(**each) for each in value["memory"])
    )
