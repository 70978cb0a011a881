"""A run of `meshnet bench paths`: makes everything, measures table by table, takes everything away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from meshnet.bench import bare, machine, peers, prober, statistics
from meshnet.bench import mesh as mesh_paths
from meshnet.bench.mesh import Mesh
from meshnet.bench.paths import Missing, Row, Table, quietly
from meshnet.bench.pressure import Pressure
from meshnet.bench.prober import Samples
from meshnet.bench.proxy import MISSING as NO_PROXY
from meshnet.bench.proxy import Proxy, proxies
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.tables import tables
from meshnet.bench.world import World, world
from meshnet.errors import MeshnetError
from meshnet.kernel import capabilities

Progress = Callable[[str], None]
TOO_FEW = "too few rounds: give it more seconds"
SECONDS, QUICK_SECONDS = 50.0, 12.0  # of measuring, all tables together


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` of measuring, `cpu` to run on (None: the quietest), `only` these tables."""

    seconds: float = SECONDS
    cpu: int | None = None
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that stands while paths are measured."""

    world: World
    mesh: Mesh
    proxies: Mapping[str, Proxy]
    missing: tuple[Missing, ...]
    cpu: int


def run(options: Options, progress: Progress) -> Result:
    """Measures. Raises MeshnetError where it cannot; nothing stays behind in any case."""
    choose(tables({}, ()), options.only)  # a name that is wrong is refused before anything is made
    program = prober.build()
    with stage(options.cpu, progress) as made:
        chosen = choose(tables(made.proxies, made.missing), options.only)
        paths = sum(len(table.rows) for table in chosen)
        measured = []
        for table in chosen:
            seconds = options.seconds * len(table.rows) / paths
            text = prober.job(table, made.world, made.cpu, made.mesh.group())
            measured.append(measure(program, text, made.cpu, table, seconds, progress))
        return Result(machine.about() | {"CPU": str(made.cpu)}, tuple(measured), made.mesh.drops())


@contextmanager
def stage(cpu: int | None, progress: Progress) -> Iterator[Stage]:
    """Namespaces, meshnet's data paths, the constructions they are compared with, and proxies."""
    if cpu is None:
        cpu = machine.quietest_cpu()
    progress("making namespaces, networks and services")
    with ExitStack() as stack:
        made = stack.enter_context(world())
        made.make(peers.LABELS)
        peers.build(made)
        mesh = Mesh(made)
        stack.callback(mesh.close)
        mesh.apply()
        peers.vips(made)
        stack.enter_context(bare.bare(made, peers.UNDERLAY[bare.CLIENT]))
        running = stack.enter_context(proxies(made, cpu))
        missing = _no_ipvs()
        if not missing:
            ways = {vip: mesh_paths.demo(task) for vip, task in peers.DIRECTED.items()}
            peers.ipvs(made, "director", ways, peers.DIRECTED_PORT)
        yield Stage(made, mesh, running, missing if running else (*missing, NO_PROXY), cpu)


def _no_ipvs() -> tuple[Missing, ...]:
    found = next(probe for probe in capabilities.probes() if probe.name == "IPVS")
    if not found.works:
        return (Missing("IPVS", "this kernel has none", found.fix),)
    if which("ipvsadm") is None:
        return (Missing("IPVS", "ipvsadm is not installed", quietly("ipvsadm")),)
    return ()


def choose(all_tables: Sequence[Table], only: Sequence[str]) -> tuple[Table, ...]:
    """The tables with these keys, or all. MeshnetError if there is no such table."""
    known = {table.key: table for table in all_tables}
    for key in only:
        if key not in known:
            raise MeshnetError(f"there is no table {key}; there are {', '.join(known)}")
    return tuple(table for key, table in known.items() if not only or key in only)


def measure(program: Path, text: str, cpu: int, table: Table, seconds: float, progress: Progress) -> ResultTable:
    """One table: runs the prober with the job `text` on a CPU for so long."""
    began: list[float] = []

    def more(samples: Samples) -> bool:
        now = time.monotonic()
        if not began:
            began.append(now)
        passed = now - began[0]
        progress(f"{table.title}: {10 * min(10, int(10 * passed / seconds))} %")
        return passed < seconds

    before, began_at = machine.cpu_time(cpu), time.monotonic()
    samples = prober.probe(program, text, more)
    after = machine.cpu_time(cpu)
    wall = statistics.skewed(_without_proxies(table, samples))
    return ResultTable(
        key=table.key,
        title=table.title,
        rows=tuple(_row(row, samples, wall) for row in table.rows),
        missing=table.missing,
        rounds=samples.rounds,
        seconds=round(time.monotonic() - began_at, 1),
        clock="wall" if wall else "cpu",
        pressure=_pressure(before, after, table, samples),
    )


def _without_proxies(table: Table, samples: Samples) -> dict[tuple[str, str], list[prober.Slice]]:
    alone = {row.key for row in table.rows if not row.way.process}
    return {key: slices for key, slices in samples.slices.items() if key[0] in alone}


def _row(row: Row, samples: Samples, wall: bool) -> ResultRow:
    measured, failures = {}, {}
    for (key, operation), slices in samples.slices.items():
        if key != row.key:
            continue
        kept = slices if row.way.process else statistics.clean(slices)  # a proxy always runs in between
        base = statistics.clean(samples.slices.get((row.baseline, operation), []))
        cost = statistics.spread(statistics.costs(kept, wall))
        ratio = statistics.spread(statistics.ratios(base, kept, wall))
        if cost and ratio:
            measured[operation] = Measured(cost, ratio, row.aim.get(operation), row.tolerance)
        else:
            failures[operation] = TOO_FEW
    failures |= {operation: why for (key, operation), why in samples.failures.items() if key == row.key}
    return ResultRow(row.key, row.title, row.baseline, row.hidden, measured, failures)


def _pressure(before: machine.CpuTime, after: machine.CpuTime, table: Table, samples: Samples) -> Pressure:
    passed = max(after.at - before.at, 0.001)
    slices = [each for many in _without_proxies(table, samples).values() for each in many]
    disturbed = sum(each.disturbed for each in slices) / len(slices) if slices else 0.0
    measured = sum(each.cpu for each in slices)
    whole = max(sum(each.wall for each in slices), 1.0)
    return Pressure(
        stolen=round((after.stolen - before.stolen) / passed, 3),
        others=round(max(0.0, 1 - measured / whole), 3),
        disturbed=round(disturbed, 3),
    )
