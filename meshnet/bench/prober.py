"""Running the prober (pp.c): built once with the system's C compiler, fed with a job, read line by line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meshnet.bench.paths import OPERATIONS, Row, Table
from meshnet.bench.world import World
from meshnet.errors import MeshnetError
from meshnet.kernel.bpfbuild import CACHE, in_use

SOURCE = Path(__file__).with_name("pp.c")
FLAGS = ("-O2", "-Wall", "-Wextra")
_LETTERS = {name[0]: name for name in OPERATIONS}
_ROUNDS = 1_000_000  # more than there is ever time for: the reader ends it


@dataclass(frozen=True, slots=True)
class Slice:
    """One millisecond of one path: CPU and wall time in nanoseconds per operation. `disturbed`: another process ran in
    between, so caches were not the path's own."""

    round: int
    cpu: float
    wall: float
    disturbed: bool


@dataclass(slots=True)
class Samples:
    """What the prober said of one table: slices by row and operation, how many operations they had together, and why a
    path gave none."""

    slices: dict[tuple[str, str], list[Slice]] = field(default_factory=dict)
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    rounds: int = 0


def build(source: Path = SOURCE) -> Path:
    """The program of a C source, compiled if this source was not yet. MeshnetError without a C compiler."""
    parts = (source, *sorted(source.parent.glob("*.h")))
    digest = hashlib.sha256(b"".join((" ".join(FLAGS).encode(), *(part.read_bytes() for part in parts)))).hexdigest()[
        :16
    ]
    target = CACHE / f"{source.stem}-{digest}"
    if in_use(target):
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise MeshnetError("the prober is written in C and there is no compiler: apt-get install gcc libc6-dev")
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as file:
        temporary = Path(file.name)
    try:
        command = [compiler, *FLAGS, "-o", str(temporary), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
            raise MeshnetError(f"{compiler} cannot compile {source.name}: {errors[0]}")
        temporary.chmod(0o755)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def job(table: Table, world: World, cpu: int, group: str = "") -> str:
    """The text that the prober reads; see pp.c. `group` is the cgroup of ways that name none, "" for the caller's."""
    lines = [f"cpu {cpu}", f"softirqd {softirqd(cpu)}", f"rounds {_ROUNDS}"]
    ways: dict[str, list[Row]] = {}
    for row in table.rows:
        ways.setdefault(row.way.group or group, []).append(row)
    for here, rows in sorted(ways.items()):  # those in the caller's group first
        lines += [f"cgroup {here}"] if here else []
        lines += [_path(row, world) for row in rows]
    return "\n".join(lines) + "\n"


def _path(row: Row, world: World) -> str:
    way = row.way
    places = f"{world.path(way.client)} {world.path(way.server)} {way.address} {way.port} {way.server_port}"
    return f"path {row.key} {places} {way.operations} {way.process} {way.addresses} {way.ports}"


def probe(program: Path, text: str, more: Callable[[Samples], bool]) -> Samples:
    """Runs a job until `more` says no; it is asked after every round. MeshnetError if the prober fails."""
    samples = Samples()
    process = subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text)
        process.stdin.close()
        for _ in _rounds(process.stdout, samples):
            if not more(samples):
                break
        else:
            assert process.stderr is not None
            raise MeshnetError(f"the prober stopped: {process.stderr.read().strip() or 'no reason given'}")
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return samples


def _rounds(lines: Iterator[str], samples: Samples) -> Iterator[int]:
    """Reads answers into samples; yields when a round is complete."""
    for line in lines:
        read(line, samples)
        if line.startswith("round "):
            yield samples.rounds


def read(line: str, samples: Samples) -> None:
    """Takes in one line of the prober's answer."""
    words = line.split()
    if words[0] == "slice":
        key, letter, count, cpu, wall, switches = words[2], words[3], *map(int, words[4:])
        one = Slice(int(words[1]), cpu / count, wall / count, switches > 0)
        samples.slices.setdefault((key, _LETTERS[letter]), []).append(one)
        samples.operations[key, _LETTERS[letter]] += count
    elif words[0] == "fail":
        samples.failures[words[1], _LETTERS[words[2]]] = " ".join(words[3:])
    elif words[0] == "round":
        samples.rounds = int(words[1]) + 1


def softirqd(cpu: int) -> int:
    """The kernel's thread that runs softirqs of a CPU when there are too many; 0 if it is not to be seen."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text() == f"ksoftirqd/{cpu}\n":
                return int(folder.name)
        except OSError:  # it has just ended
            continue
    return 0
