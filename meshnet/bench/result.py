"""A benchmark's result as a value, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnet.bench import modes_result, scale_result
from meshnet.bench.modes_result import Modes
from meshnet.bench.paths import BULK, OPERATIONS, TOLERANCE, Missing
from meshnet.bench.pressure import Pressure
from meshnet.bench.scale_result import Scale
from meshnet.bench.statistics import Spread
from meshnet.errors import MeshnetError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One operation on one path: microseconds of CPU time, and speed against the row's baseline (above 1: faster)."""

    cost: Spread
    ratio: Spread
    aim: float | None = None
    tolerance: float = TOLERANCE

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached, with the tolerance that it allows; None without an aim."""
        return None if self.aim is None else self.ratio.median >= self.aim - self.tolerance


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One path; `failures` says by operation why there is no number."""

    key: str
    title: str
    baseline: str
    hidden: bool
    measured: Mapping[str, Measured]
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Paths that were measured together. `clock` is `cpu`, or `wall` where the CPU clock does not tell, or `rate` where
    the wall clock is meant: several processes work at once, and people ask how many operations they do a second."""

    key: str
    title: str
    rows: tuple[ResultRow, ...]
    missing: tuple[Missing, ...]
    rounds: int
    seconds: float
    clock: str
    pressure: Pressure

    @property
    def operations(self) -> dict[str, str]:
        """Those of `OPERATIONS` that a row of it has, measured or not."""
        tried = {name for row in self.rows for name in (*row.measured, *row.failures)}
        return {name: what for name, what in OPERATIONS.items() if name in tried}

    def amount(self, operation: str, cost: float) -> str:
        """A cost (us) in words: itself, or how many operations, or bytes of a bulk, that are in a second."""
        if self.clock != "rate":
            return f"{cost:.1f}us"
        rate = 1e6 / cost if cost else 0.0
        return f"{rate * BULK / 1e6:,.0f} MB/s" if operation == "bulk" else f"{rate:,.0f}/s"


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run: `about` names machine, kernel, versions and method."""

    about: Mapping[str, str]
    tables: tuple[ResultTable, ...]
    drops: Mapping[str, int]
    scale: Scale | None = None
    modes: Modes | None = None

    @property
    def title(self) -> str:
        """The command that made it."""
        if self.modes:
            return "meshnet bench vip-vs-dnsrr"
        return "meshnet bench scale" if self.scale else "meshnet bench paths"

    @property
    def heading(self) -> str:
        """What it tells."""
        return "VIP against dnsrr" if self.modes else "What paths cost: CPU time per operation"


def dump(result: Result) -> str:
    """As JSON, with a trailing newline."""
    return json.dumps({"format": FORMAT} | dataclasses.asdict(result), indent=1, default=dict) + "\n"


def load(path: Path) -> Result:
    """Reads what `dump` wrote. MeshnetError if it is something else."""
    if path.exists() and not path.is_file():
        raise MeshnetError(f"{path}: a file is needed that meshnet bench has written")
    try:
        value = json.loads(path.read_text())
        if value["format"] != FORMAT:
            raise MeshnetError(f"{path}: its format is {value['format']}, this meshnet reads {FORMAT}: measure again")
        extra = value.get("scale")
        scale = scale_result.from_json(extra) if extra else None
        beside = value.get("modes")
        modes = modes_result.from_json(beside) if beside else None
        return Result(value["about"], tuple(map(_table, value["tables"])), value["drops"], scale, modes)
    except OSError as error:
        raise MeshnetError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise MeshnetError(f"{path}: not a result of meshnet bench ({error})") from None


def _table(value: dict[str, Any]) -> ResultTable:
    rows = tuple(_row(row) for row in value["rows"])
    missing = tuple(Missing(**each) for each in value["missing"])
    return ResultTable(**value | {"rows": rows, "missing": missing, "pressure": Pressure(**value["pressure"])})


def _row(value: dict[str, Any]) -> ResultRow:
    measured = {
        name: Measured(Spread(**each["cost"]), Spread(**each["ratio"]), each["aim"], each.get("tolerance", TOLERANCE))
        for name, each in value["measured"].items()
    }
    return ResultRow(**value | {"measured": measured})
