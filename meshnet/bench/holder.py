"""A process that holds one node's data path: it programs it again and again, says how long that took and how much
memory it has, and stays until its standard input ends. What it put into the kernel outlives it.

`python -m meshnet.bench.holder` reads its job, one line of JSON, and writes lines of JSON: `{"step": ...}` while it
works, `{"failed": ...}`, and at the end what `measure` returns; then its counters for each line that it reads.

It does what an agent does between hearing of a change and the kernel's having it: plan, names, apply. It has no gossip,
no manager's stream and no tasks of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshnet import names
from meshnet.agent.zones import Zones
from meshnet.bench import population
from meshnet.bench.population import Place, World
from meshnet.bench.scale_mesh import data_path, larger_maps
from meshnet.bench.scale_result import CHANGES, STEPS, Sample
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.datapath.rows import Plan
from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import Objects


@dataclass(frozen=True, slots=True)
class Job:
    """`world` is the lab's name, `space` the node's namespace, `sandbox` the path of its task's. `times`: how often
    everything is programmed, and how often something changes."""

    world: str
    space: str
    sandbox: str
    services: int
    place: Place
    times: int


def measure(job: Job, path: Ebpf, say: Callable[[str], None]) -> dict[str, object]:
    """Programs the node and leaves it with all services; returns the figures.

    MeshnetError where the kernel refuses something.
    """
    node = _Node(job, path)
    empty = population.world(job.place, 0)
    node.program(empty)
    before, maps_before = memory(), map_memory(job)
    known = population.world(job.place, job.services)
    found: dict[str, list[Sample]] = {change: [] for change in CHANGES}
    for number in range(job.times):
        say(f"programming {job.services:,} services: {number + 1} of {job.times}")
        if number:
            node.program(empty)
        found["all"].append(node.program(known))
    figures = {
        "samples": found,
        "memory": {"before": before, "after": memory()},
        "maps": {"before": maps_before, "after": map_memory(job)},
        "left_to_user_space": path.statistics()["names_left_to_user_space"],
    }
    for number in range(-(-job.times // 2)):
        say(f"changing one of {job.services:,} services: {number + 1} of {-(-job.times // 2)}")
        another = population.more(job.place, known, job.services)
        found["service"] += [node.program(another), node.program(known)]
        another = population.changed(job.place, known, number % job.services)
        found["backend"] += [node.program(another), node.program(known)]
    return figures


class _Node:
    """One node and how it is told something."""

    def __init__(self, job: Job, path: Ebpf) -> None:
        self._job = job
        self._path = path
        self._zones = Zones()
        self.plan: Plan | None = None  # an agent keeps it too

    def program(self, known: World) -> Sample:
        clocks = [_clocks()]
        found = population.make_plan(self._job.place, known, self._job.sandbox)
        clocks.append(_clocks())
        found = population.name_rows(self._zones, known, self._job.sandbox, found)
        clocks.append(_clocks())
        asyncio.run(self._path.apply(found))
        clocks.append(_clocks())
        self.plan = found
        pairs = zip(STEPS, clocks[:-1], clocks[1:], strict=True)
        return {step: (after[0] - before[0], after[1] - before[1]) for step, before, after in pairs}


def _clocks() -> tuple[float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def memory() -> dict[str, int]:
    """Bytes of this process: resident, and its proportional share of what is shared (proc(5), smaps_rollup)."""
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        if name in ("Rss:", "Pss:"):
            found[name.rstrip(":").lower()] = int(value) * 1024
    return found


def map_memory(job: Job) -> dict[str, int]:
    """Bytes of each of the node's maps, as the kernel counts them."""
    with Objects(names.pin_dir(job.world, job.place.node)) as objects:
        return {name: each.memory() for name, each in objects.maps.items()}


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    value = json.loads(sys.stdin.readline())
    job = Job(**value | {"place": Place(**value["place"])})

    def say(text: str) -> None:
        _tell({"step": text})

    path = data_path(job.world, job.place.node, job.space, larger_maps(job.services))
    try:
        figures = measure(job, path, say)
    except MeshnetError as error:
        _tell({"failed": str(error)})
        return 1
    _tell(figures)
    for _ in sys.stdin:
        _tell(path.statistics())
    os._exit(0)  # a large heap need not be taken apart


def _tell(value: Mapping[str, object]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())
