"""A result as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshnet.bench import modes_report, scale_report
from meshnet.bench.compare import Change, Key
from meshnet.bench.paths import OPERATIONS
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.statistics import Spread

_COLUMN = 26


def lines(result: Result, changes: Mapping[Key, Change] | None = None) -> Iterator[str]:
    """The whole report, line by line. `changes` since another result are marked in the cells."""
    for table in result.tables:
        yield from _table(table, changes or {})
    if result.scale:
        yield from scale_report.lines(result.scale)
    if result.modes:
        yield from modes_report.lines(result.modes)
    yield from _notes(result)


def _table(table: ResultTable, changes: Mapping[Key, Change]) -> Iterator[str]:
    shown = [row for row in table.rows if not row.hidden]
    width = max(len(row.title) for row in shown) + 2
    yield ""
    yield f"{table.title}  ({table.rounds} rounds, {table.seconds:.0f} s)"
    if table.pressure.high:
        wrong = "rates are too low" if table.clock == "rate" else "costs are too high"
        yield f"  UNDER PRESSURE: {table.pressure}: {wrong}; ratios without `?` hold"
    if table.clock == "wall":
        yield "  wall clock: this kernel's CPU clock of a thread does not have the whole path on it"
    yield "".ljust(width) + "".join(name.upper().ljust(_COLUMN) for name in table.operations).rstrip()
    for row in shown:
        marks = {name: _mark(changes.get((table.key, row.key, name))) for name in table.operations}
        cells = "".join((_cell(table, row, name) + marks[name]).ljust(_COLUMN) for name in table.operations)
        yield (row.title.ljust(width) + cells).rstrip()
    for row in table.rows:
        for why in sorted(set(row.failures.values())):
            names = ", ".join(name for name, said in row.failures.items() if said == why)
            yield f"  not measured: {row.title} ({names}): {why}"


def _cell(table: ResultTable, row: ResultRow, operation: str) -> str:
    found = row.measured.get(operation)
    if found is None:
        return "-"
    cost = f"{table.amount(operation, found.cost.median)} ±{_half(found.cost):.0%}"
    if row.key == row.baseline:
        return f"{cost} 1"
    return f"{cost} {_ratio(found)}"


def _ratio(found: Measured) -> str:
    """The ratio, with a question mark where it is not known well enough, and whether the aim is reached."""
    text = f"{found.ratio.median:.3f}" + ("" if found.ratio.sure else "?")
    if found.aim is None:
        return text
    return f"{text} {'ok' if found.reached else f'<{found.aim:.2f}'}"


def _mark(change: Change | None) -> str:
    return f" {change.share:+.0%}" if change is not None and change.beyond else ""


def _half(spread: Spread) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    return (spread.high - spread.low) / 2 / spread.median if spread.median else 0.0


def _notes(result: Result) -> Iterator[str]:
    yield ""
    for each in sorted({each for table in result.tables for each in table.missing}, key=lambda each: each.title):
        yield f"left out: {each.title}: {each.reason}. {each.fix}"
    for reason, count in result.drops.items():
        yield f"packets were dropped: {reason}: {count}"
    for name, what in OPERATIONS.items():
        if any(name in table.operations for table in result.tables):
            yield f"{name.upper()}: {what}"
    if result.modes:
        yield f"{result.about['processor']}, Linux {result.about['kernel']}. {result.about['method']}"
    if not result.tables:
        return
    if result.modes:
        yield "A rate: how many a second by the wall clock (median, ± half the distance between the quartiles), then"
        yield "the speed against the first row: more than 1 is faster. `?`: not known within 2 %."
        return
    yield "Each: CPU time per operation (median, ± half the distance between the quartiles), then the speed against the"
    yield "nearest row above that says 1: more than 1 is faster. `?`: not known within 2 %. `ok`: the aim is reached,"
    aimed = [each for table in result.tables for row in table.rows for each in row.measured.values() if each.aim]
    slack = max((each.tolerance for each in aimed), default=0)
    yield (f"within {slack}; " if slack else "") + f"`<{aimed[0].aim if aimed else 1:.2f}`: it is not."
