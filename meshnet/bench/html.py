"""A result as one HTML file that needs nothing else: numbers, bars drawn as SVG, and how they came about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from meshnet.bench import modes_picture, modes_report, scale_report
from meshnet.bench.compare import Change, Key
from meshnet.bench.modes_result import Modes
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.scale_report import Grid

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #1d2430 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2.2em } small, .note { color: #5b6472 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3em .6em; vertical-align: top }
tr + tr td { border-top: 1px solid #e3e6ea } td.n { white-space: nowrap; font-variant-numeric: tabular-nums }
.warn { background: #fff3cd; padding: .4em .8em } .miss, .slow { color: #b3261e } .ok, .fast { color: #1b6e3c }
svg { display: block; margin-top: .2em } dt { font-weight: 600 } dd { margin: 0 0 .4em 1em }
"""
_WIDTH, _HEIGHT = 130, 10  # of a bar's picture, in pixels


def page(result: Result, changes: Mapping[Key, Change]) -> str:
    """The whole page."""
    return "\n".join(_page(result, changes)) + "\n"


def _page(result: Result, changes: Mapping[Key, Change]) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>' + result.title + "</title>"
    yield f"<style>{_STYLE}</style><h1>{result.heading}</h1>"
    yield f"<p>{escape(result.about.get('method', ''))}</p>"
    yield (
        '<p class="note">A cell: median and its quartiles, the ratio and its quartiles (the bar: '
        "the line is 1, the whisker spans the quartiles). <b>?</b>: the ratio is not known within 2 %.</p>"
    )
    for table in result.tables:
        yield from _table(table, changes)
    if result.scale:
        yield from map(_grid, scale_report.grids(result.scale))
        yield from (f'<p class="note">{escape(line)}</p>' for line in scale_report.notes(result.scale))
    if result.modes:
        yield from _modes(result.modes)
    yield "<h2>Where and how</h2><dl>"
    for name, value in result.about.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    for each in dict.fromkeys(each for table in result.tables for each in table.missing):
        yield f"<dt>left out: {escape(each.title)}</dt><dd>{escape(each.reason)}. {escape(each.fix)}</dd>"
    for reason, count in result.drops.items():
        yield f"<dt>packets were dropped</dt><dd>{escape(reason)}: {count}</dd>"
    yield "</dl></html>"


def _grid(grid: Grid) -> str:
    heading, note, rows = grid
    cells = "".join(map(_line, rows))
    return f'<h2>{escape(heading)}</h2><table>{cells}</table><p class="note">{escape(note)}</p>'


def _modes(modes: Modes) -> Iterator[str]:
    """Each grid, and under an event's its picture."""
    yield from map(_grid, modes_report.grids(dataclasses.replace(modes, events=())))
    for event in modes.events:
        yield _grid(modes_report.event(event))
        yield modes_picture.svg(event)


def _line(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells) + "</tr>"


def _table(table: ResultTable, changes: Mapping[Key, Change]) -> Iterator[str]:
    load = table.pressure
    yield f"<h2>{escape(table.title)}</h2>"
    if load.high:
        yield f'<p class="warn">Under pressure: {load}. Measure again when it is quiet.</p>'
    heads = "".join(f"<th>{name}<br><small>{escape(what)}</small></th>" for name, what in table.operations.items())
    yield f"<table><tr><th></th>{heads}</tr>"
    largest = max((each.ratio.high for row in table.rows for each in row.measured.values()), default=1.0)
    for row in table.rows:
        if not row.hidden:
            cells = "".join(_cell(table, row, name, largest, changes) for name in table.operations)
            yield f"<tr><td>{escape(row.title)}</td>{cells}</tr>"
    yield f'</table><p class="note">{table.rounds} rounds in {table.seconds:.0f} s, {table.clock} clock; {load}.</p>'


def _cell(table: ResultTable, row: ResultRow, operation: str, largest: float, changes: Mapping[Key, Change]) -> str:
    found = row.measured.get(operation)
    if found is None:
        return f'<td class="note">{escape(row.failures.get(operation, "—"))}</td>'
    middle, low, high = (
        table.amount(operation, cost).replace("us", " µs")
        for cost in (found.cost.median, found.cost.low, found.cost.high)
    )
    cost = f"{middle} <small>{low}–{high}</small>"
    if row.key == row.baseline:
        return f'<td class="n">{cost}<br>1</td>'
    ratio = f"<b>{found.ratio.median:.2f}</b>{'' if found.ratio.sure else '?'}"
    ratio += f" <small>{found.ratio.low:.2f}–{found.ratio.high:.2f}</small>{_aim(found)}"
    change = changes.get((table.key, row.key, operation))
    if change is not None and change.beyond:
        ratio += f' <span class="{"fast" if change.share > 0 else "slow"}">{change.share:+.1%}</span>'
    return f'<td class="n">{cost}<br>{ratio}{_bar(found, largest)}</td>'


def _aim(found: Measured) -> str:
    if found.aim is None:
        return ""
    return f' <span class="{"ok" if found.reached else "miss"}">aim {found.aim:.2f}</span>'


def _bar(found: Measured, largest: float) -> str:
    def at(value: float) -> float:
        return round(value / max(largest, 1.0) * _WIDTH, 1)

    middle = _HEIGHT / 2
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}"><rect width="{at(found.ratio.median)}" height="{_HEIGHT}" '
        f'fill="#8fb8de"/><path d="M{at(found.ratio.low)} {middle}H{at(found.ratio.high)}" stroke="#1d2430"/>'
        f'<path d="M{at(1)} 0V{_HEIGHT}" stroke="#b3261e"/></svg>'
    )
