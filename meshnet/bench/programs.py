"""`meshnet bench programs`: what each BPF program takes of an operation: how often it runs, and for how long.

The paths are those of `meshnet bench paths`, one at a time, so that every run of a program is the path's. The kernel
measures the runs. What a packet costs beside them is the price of devices, helpers' work after the program (a redirect)
and the stacks at both ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshnet import names
from meshnet.bench import bare, mesh, prober
from meshnet.bench.paths import Row, Table
from meshnet.bench.prober import Samples
from meshnet.bench.run import Stage, choose, stage
from meshnet.bench.tables import tables
from meshnet.kernel.bpf import Objects, measured_runs

OPERATIONS = {"r": "request", "c": "connect"}
SECONDS = 0.5  # for each path and operation
_RARE = 0.05  # runs per operation: what is rarer has to do with something else


@dataclass(frozen=True, slots=True)
class Share:
    """A program's part of one operation: `runs` of it, of `ns` each on average. `node` is the path's name for it."""

    node: str
    program: str
    runs: float
    ns: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the programs of a path take of one operation."""

    table: str
    title: str
    operation: str
    shares: tuple[Share, ...]

    @property
    def us(self) -> float:
        """Microseconds, all programs together."""
        return sum(share.runs * share.ns for share in self.shares) / 1000


def run(only: Sequence[str], seconds: float, progress: Callable[[str], None]) -> list[Measured]:
    """Measures every path that has BPF programs on it. `only`: keys of tables. MeshnetError where it cannot."""
    program = prober.build()
    found = []
    with stage(None, progress) as made, _opened(made) as programs, measured_runs():
        for table in choose(tables({}, made.missing), only):
            for row in table.rows:
                for letter, operation in OPERATIONS.items():
                    progress(f"{table.title}: {row.title}")
                    shares = _measure(program, made, row, letter, programs, seconds)
                    if any(share.program != "meshnet_connect4" for share in shares):
                        found.append(Measured(table.title, row.title, operation, shares))
    return found


@contextlib.contextmanager
def _opened(made: Stage) -> Iterator[Mapping[str, Objects]]:
    """The programs of all nodes, by node."""
    with contextlib.ExitStack() as stack:
        found = {}
        for node in (*mesh.NODES, *bare.NODES):
            pins = sorted(path.parent for path in Path(names.pin_dir(made.world.name, node)).parent.glob("*/progs"))
            found[node] = stack.enter_context(Objects(pins[0]))
        yield found


def _measure(
    prober_program: Path, made: Stage, row: Row, letter: str, programs: Mapping[str, Objects], seconds: float
) -> tuple[Share, ...]:
    alone = dataclasses.replace(row, baseline=row.key, way=dataclasses.replace(row.way, operations=letter))
    key = (row.key, OPERATIONS[letter])
    marks: list[tuple[int, dict[tuple[str, str], tuple[int, int]]]] = []
    end = 0.0

    def more(samples: Samples) -> bool:
        nonlocal end
        if not marks:  # the first round is over: everything is warm
            marks.append((samples.operations[key], _runs(programs)))
            end = time.monotonic() + seconds
        if time.monotonic() < end:
            return True
        marks.append((samples.operations[key], _runs(programs)))
        return False

    text = prober.job(Table("alone", "alone", (alone,)), made.world, made.cpu, made.mesh.group())
    prober.probe(prober_program, text, more)
    (first, before), (last, after) = marks
    operations = max(last - first, 1)
    shares = []
    for (node, name), (ns, count) in after.items():
        ran = count - before[node, name][1]
        if ran / operations >= _RARE:
            shares.append(Share(node, name, round(ran / operations, 2), round((ns - before[node, name][0]) / ran)))
    return tuple(shares)


def _runs(programs: Mapping[str, Objects]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(node, name): one.runs() for node, each in programs.items() for name, one in each.progs.items()}


def lines(found: Sequence[Measured]) -> Iterator[str]:
    """The result for a terminal."""
    table = ""
    width = max((len(each.title) for each in found), default=0)
    for each in found:
        if each.table != table:
            table = each.table
            yield ""
            yield table
        shares = ", ".join(f"{s.node} {s.program} {s.runs:.1f} x {s.ns:.0f} ns" for s in each.shares)
        yield f"{each.title:{width}}  {each.operation.upper():8} {each.us:6.2f} us  {shares}"
