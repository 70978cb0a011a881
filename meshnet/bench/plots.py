"""A result as pictures, one PNG per table; needs matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshnet.bench import modes_plots
from meshnet.bench.result import Result, ResultTable
from meshnet.errors import MeshnetError


def draw(result: Result, folder: Path) -> list[Path]:
    """Writes `<table>.png` for each table, and for each event, into a folder, which is made. MeshnetError without
    matplotlib."""
    figure_class = _figure_class()
    folder.mkdir(parents=True, exist_ok=True)
    under = f"kernel {result.about.get('kernel', '')}, {result.about.get('processor', '')}"
    written = []
    for table in result.tables:
        path = folder / f"{table.key}.png"
        _figure(figure_class, table, under).savefig(path, dpi=130)
        written.append(path)
    for name, figure in modes_plots.figures(figure_class, result.modes, under) if result.modes else ():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=130)
        written.append(path)
    return written


def check() -> None:
    """Raises MeshnetError if pictures cannot be drawn here."""
    _figure_class()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MeshnetError("pictures need matplotlib: pip install 'meshnet[plots]'") from None
    return Figure


def _figure(figure_class: Any, table: ResultTable, under: str) -> Any:
    rows = [row for row in table.rows if not row.hidden]
    figure = figure_class(figsize=(12, 1.4 + 0.34 * len(rows)), layout="constrained")
    figure.suptitle(f"{table.title}: speed against the baseline" + (" (UNDER PRESSURE)" if table.pressure.high else ""))
    axes = figure.subplots(1, len(table.operations), sharey=True, squeeze=False)[0]
    for axis, (operation, what) in zip(axes, table.operations.items(), strict=True):
        for place, row in enumerate(rows):
            found = row.measured.get(operation)
            if found is None:
                continue
            ratio = found.ratio
            reach = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            amount = table.amount(operation, found.cost.median).replace("us", " µs")
            axis.barh(place, ratio.median, xerr=reach, color="#8fb8de", ecolor="#1d2430", capsize=2)
            axis.text(0.02, place, f"{ratio.median:.2f}  ({amount})", va="center", fontsize=8)
        axis.axvline(1, color="#b3261e", linewidth=1)
        axis.set_title(what, fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(rows)), [row.title for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    figure.supxlabel(f"above 1 is faster; whiskers span the quartiles. {under}", fontsize=8)
    return figure
