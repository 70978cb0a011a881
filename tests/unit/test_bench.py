"""The numbers of a benchmark: statistics, the prober's lines, results as JSON and as text."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from meshnet.bench import compare, html, plots, prober, proxy, report, result, statistics
from meshnet.bench.paths import OPERATIONS, Missing
from meshnet.bench.pressure import Pressure
from meshnet.bench.prober import Samples, Slice
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.statistics import Spread
from meshnet.bench.tables import tables
from meshnet.errors import MeshnetError

QUIET = Pressure(0.0, 0.0, 0.1)


def slices(costs: list[float], disturbed: tuple[int, ...] = ()) -> list[Slice]:
    return [Slice(number, cost, cost, number in disturbed) for number, cost in enumerate(costs)]


def measured(cost: float, ratio: float, error: float = 0.001, aim: float | None = None) -> Measured:
    return Measured(
        Spread(cost, cost * 0.98, cost * 1.02, error * cost, 100),
        Spread(ratio, ratio * 0.98, ratio * 1.02, error * ratio, 100),
        aim,
    )


def some_result(ratio: float = 0.9, error: float = 0.001, pressure: Pressure = QUIET) -> Result:
    rows = (
        ResultRow("one", "the first", "one", False, {name: measured(10, 1) for name in OPERATIONS}, {}),
        ResultRow("two", "the second", "one", False, {"bulk": measured(11.1, ratio, error, 0.95)}, {"udp": "lost"}),
        ResultRow("dark", "hidden", "dark", True, {}, {}),
    )
    missing = (Missing("IPVS", "this kernel has none", "boot another"),)
    table = ResultTable("t", "A table", rows, missing, 100, 5.0, "cpu", pressure)
    return Result({"kernel": "6.1", "method": "fairly"}, (table,), {})


def test_spread_is_what_order_statistics_say() -> None:
    """Median and quartiles are those of the values, and the median's interval has the width that chance gives it."""
    assert statistics.spread([1.0] * (statistics.ENOUGH - 1)) is None
    values = [float(number) for number in range(101)]
    found = statistics.spread(random.Random(1).sample(values, len(values)))
    assert found is not None
    assert (found.low, found.median, found.high) == (25, 50, 75)
    assert 9 <= found.error <= 11  # 0.98 * sqrt(101) places each way


def test_interval_holds_the_true_median() -> None:
    """Of many small samples, at least nine in ten have the true median in their interval."""
    rng = random.Random(2)
    hits = 0
    for _ in range(200):
        found = statistics.spread([rng.gauss(10, 1) for _ in range(40)])
        assert found is not None
        hits += abs(found.median - 10) <= 2 * found.error
    assert hits >= 180


def test_ratios_pair_what_was_measured_together() -> None:
    """A machine that gets slower in the middle changes no ratio."""
    base = [10.0] * 30 + [20.0] * 30
    found = statistics.ratios(slices(base), slices([cost * 1.25 for cost in base]))
    assert set(found) == {0.8}


def test_ratios_take_a_near_round_for_a_missing_one() -> None:
    """A round without a baseline is paired with one close by, and with none that is far away."""
    base = [one for one in slices([10.0] * 40) if one.round in (0, 5)]
    found = statistics.ratios(base, slices([20.0] * 40))
    assert found == [0.5] * (5 + statistics.NEAR - 0 + 1)


def test_disturbed_slices_do_not_count_while_there_are_others() -> None:
    """Slices in which other processes ran are left out, unless too few would be left."""
    some = slices([1.0] * 50, tuple(range(20)))
    assert len(statistics.clean(some)) == 30
    most = slices([1.0] * 50, tuple(range(40)))
    assert len(statistics.clean(most)) == 50


@pytest.mark.parametrize(("wall", "skewed"), [(10.0, False), (11.5, False), (20.0, True), (5.0, True)])
def test_a_clock_that_misses_a_part_is_noticed(wall: float, skewed: bool) -> None:
    """Where the CPU clock and the wall clock disagree on undisturbed slices, the CPU clock is not believed."""
    many = [Slice(number, 10.0, wall, False) for number in range(50)]
    assert statistics.skewed({("a", "bulk"): many}) is skewed


def test_lines_of_the_prober_are_read() -> None:
    """Slices become times per operation; failures keep their reason."""
    samples = Samples()
    for line in ("ready one r 50", "slice 3 one r 50 500000 600000 2", "fail two c connect: refused", "round 3"):
        prober.read(line + "\n", samples)
    assert samples.slices == {("one", "request"): [Slice(3, 10000.0, 12000.0, True)]}
    assert samples.failures == {("two", "connect"): "connect: refused"}
    assert samples.rounds == 4


def test_tables_are_sound() -> None:
    """Every baseline is a row of its table that is its own baseline; keys and server ports are used once."""
    no_ipvs = (Missing("IPVS", "this kernel has none", "boot another"),)
    assert not any(row.key == "ipvs" for table in tables({}, no_ipvs) for row in table.rows)
    for table in tables({}, ()):
        rows = {row.key: row for row in table.rows}
        assert len(rows) == len(table.rows)
        assert all(rows[row.baseline].baseline == row.baseline for row in table.rows)
        places = [(row.way.server, row.way.server_port) for row in table.rows]
        assert len(set(places)) == len(places)
        assert all(set(row.aim) <= set(OPERATIONS) for row in table.rows)


def test_advice_starts_nothing() -> None:
    """What is missing is got by the project's own setup, under which Debian's packages start no service."""
    assert proxy.MISSING.fix == "scripts/setup .venv haproxy (it starts no service, as apt-get alone would)"
    assert "policy-rc.d" in (Path(__file__).parents[2] / "scripts/setup").read_text()


def test_results_survive_json(tmp_path: Path) -> None:
    """What is written is read again as the same value."""
    file = tmp_path / "result.json"
    file.write_text(result.dump(some_result()))
    assert result.load(file) == some_result()


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"format": 1, "tables": 3})])
def test_other_files_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    """A file that is no result is named, with no traceback."""
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(MeshnetError, match=r"other\.json: not a result"):
        result.load(file)


def test_a_pipe_is_no_result(tmp_path: Path) -> None:
    """What could be waited for for ever is refused before anybody reads it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MeshnetError, match="a file is needed"):
        result.load(tmp_path / "pipe")


def test_report_shows_cost_ratio_and_aim() -> None:
    """A cell has the cost, its spread, the ratio, and whether the aim is reached; what is missing is named."""
    text = "\n".join(report.lines(some_result()))
    assert "10.0us ±2% 1" in text
    assert "11.1us ±2% 0.900 <0.95" in text
    assert "not measured: the second (udp): lost" in text
    assert "left out: IPVS: this kernel has none. boot another" in text
    assert "hidden" not in text
    assert "0.940 ok" in "\n".join(report.lines(some_result(0.94)))


def test_report_does_not_pretend() -> None:
    """A ratio that is not well known carries a question mark, and a disturbed run says so."""
    unsure = some_result(error=0.05)
    assert "0.900? <0.95" in "\n".join(report.lines(unsure))
    pressed = some_result(pressure=Pressure(0.2, 0.5, 0.9))
    assert (
        "UNDER PRESSURE: others ran in 90% of the slices and had 50% of their time, the hypervisor took 20%"
        in "\n".join(report.lines(pressed))
    )
    assert "PRESSURE" not in "\n".join(report.lines(some_result()))


def test_wall_clock_is_said() -> None:
    """A table measured by the wall clock says so."""
    table = dataclasses.replace(some_result().tables[0], clock="wall")
    assert "wall clock" in "\n".join(report.lines(dataclasses.replace(some_result(), tables=(table,))))


def test_compare_marks_what_is_beyond_the_noise() -> None:
    """A ratio that moved further than chance explains is marked; one that did not, or is not well known, is not."""
    old = some_result(0.90)
    moved, still, unsure = some_result(0.95), some_result(0.905), some_result(0.95, error=0.05)
    key = ("t", "two", "bulk")
    found = compare.changes(old, moved)
    assert list(found) == [key]
    assert found[key].beyond
    assert "+6%" in "\n".join(report.lines(moved, found))
    text = "\n".join(compare.lines(old, moved, found))
    assert "1 of 1 ratios changed" in text
    assert "t, two, bulk: 0.900 -> 0.950 (+5.6%, faster)" in text
    assert not compare.changes(old, still)[key].beyond
    assert not compare.changes(old, unsure)[key].beyond
    assert "not known well enough" in "\n".join(compare.lines(old, unsure, compare.changes(old, unsure)))


def test_compare_says_that_the_machine_is_another() -> None:
    """Results of another kernel are compared with a warning."""
    other = dataclasses.replace(some_result(), about={"kernel": "6.18"})
    assert "another kernel then: 6.1; now: 6.18" in "\n".join(compare.lines(some_result(), other, {}))


def test_html_is_one_complete_file() -> None:
    """The page has every number, what was left out, machine and method, and refers to nothing outside."""
    page = html.page(some_result(pressure=Pressure(0.2, 0.5, 0.9)), {})
    for text in ("11.1 µs", "<b>0.90</b>", "aim 0.95", "Under pressure", "IPVS", "6.1", "fairly", "lost"):
        assert text in page
    assert not re.search(r"https?:|src=|<link|<script", page)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


class Balanced(HTMLParser):
    """Remembers which elements are open; those that need no end are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self.open.pop() == tag


def test_pictures(tmp_path: Path) -> None:
    """One PNG per table."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'meshnet[plots]'")
    (drawn,) = plots.draw(some_result(), tmp_path / "pictures")
    assert drawn.name == "t.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")
