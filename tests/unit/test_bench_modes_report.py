"""What `meshnet bench vip-vs-dnsrr` makes of what its clients say: waits, shares, and what clients live through."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshnet.bench import (
    histogram,
    html,
    load,
    modes,
    modes_picture,
    modes_report,
    modes_result,
    modes_run,
    plots,
    report,
    result,
    sharing,
    timeline,
    wrk,
)
from meshnet.bench.load import Counted
from meshnet.bench.modes_result import Event, Lived, Modes, Share, Sliced
from meshnet.bench.pressure import Pressure
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.statistics import Spread
from meshnet.bench.timeline import Request
from meshnet.errors import MeshnetError


def bucket(ns: int) -> int:
    """What modes.c does."""
    units, shift = ns // 100, 0
    while units >> shift >= 2 * histogram.SUB:
        shift += 1
    return shift * histogram.SUB + (units >> shift)


def test_buckets_are_narrow() -> None:
    """A bucket's value is that of everything in it within 3 %, or a twentieth of a microsecond."""
    for ns in (0, 99, 6399, 6400, 12_800, 12_799, 1_000_000, 999_999_999):
        assert histogram.value(bucket(ns)) == pytest.approx(ns / 1000, rel=0.03, abs=0.05)


def test_percentiles_are_those_of_the_values() -> None:
    """A percentile of merged histograms is the values' own; one with too few values beyond it is not told."""
    rng = random.Random(1)
    values = [int(rng.expovariate(1 / 50_000)) for _ in range(10_000)]
    parts = [Counter(map(bucket, values[begin::4])) for begin in range(4)]
    counts = histogram.merged(parts)
    values.sort()
    for share in (0.5, 0.9, 0.99, 0.999):
        found = histogram.percentile(counts, share)
        assert found == pytest.approx(values[int(share * len(values)) - 1] / 1000, rel=0.04)
    assert histogram.percentile(counts, 0.9999) is None
    assert histogram.percentile({}, 0.5) is None


def test_even_shares_are_told_from_chance() -> None:
    """Taking turns is more even than chance, drawing lots is chance, and one backend for all is uneven."""
    turns = sharing.sharing({"a": 100, "b": 101, "c": 100}, 3)
    assert turns is not None
    assert turns.verdict == sharing.EVEN
    assert turns.least == pytest.approx(100 / 301)
    rng = random.Random(2)
    drawn = sharing.sharing(Counter(rng.choice("abc") for _ in range(3000)), 3)
    assert drawn is not None
    assert drawn.verdict == sharing.CHANCE
    assert drawn.chi2 < 4
    one = sharing.sharing({"a": 300}, 3)
    assert one is not None
    assert (one.least, one.most, one.verdict) == (0, 1, sharing.UNEVEN)
    assert one.chi2 == pytest.approx(300)
    assert sharing.sharing({}, 3) is None
    assert sharing.sharing({"a": 5}, 1) is None


def test_an_event_is_told_by_its_firsts_and_lasts() -> None:
    """Errors, firsts and lasts are counted from the event on; what was wrong before it is kept apart."""
    second = 10**9
    requests = [
        Request(0, second, "refused", "-"),
        Request(2 * second, 3 * second + second // 2, "ok", "old"),
        Request(2 * second, 4 * second, "refused", "-"),
        Request(4 * second, 7 * second, "timeout", "-"),
        Request(5 * second, 6 * second, "ok", "new"),
        Request(8 * second, 9 * second, "ok", "new"),
    ]
    found = timeline.timeline(reversed(requests), 3 * second, {"old"}, {"new"})
    assert found == timeline.Timeline(
        requests=5,
        errors={"refused": 1, "timeout": 1},
        first_error=0.0,
        last_error=1.0,
        first_new=3.0,
        last_old=0.5,
        slowest=1.5,
        before=1,
    )
    assert found.failed == 2


def test_an_event_that_nobody_noticed() -> None:
    """Without errors and without an answer of a backend that came or went there are no times."""
    found = timeline.timeline([Request(0, 5, "ok", "a")], 1, {"b"}, {"c"})
    assert (found.first_error, found.last_error, found.first_new, found.last_old) == (None, None, None, None)
    assert found.failed == found.before == 0


def test_clients_answers_are_read() -> None:
    """Requests, counts, waits and backends come to the client that they are of."""
    lines = ["request x 1 2 ok b1", "request x 3 9 timeout -", "count x 1 1 2000000000 7", "wait x 5:1", "wait y"]
    found = load.read([*lines, "backend x b1 1", "count y 0 0 2000000000 0"])
    assert found["x"].requests == [Request(1, 2, "ok", "b1"), Request(3, 9, "timeout", "-")]
    assert (found["x"].operations, found["x"].errors, found["x"].seconds, found["x"].questions) == (1, 1, 2.0, 7)
    assert found["x"].waits == {5: 1}
    assert found["x"].backends == {"b1": 1}
    assert found["y"].waits == {}


def test_clients_are_distinct() -> None:
    """Every client has a key of its own, short enough for modes.c, and each mode has the same clients."""
    every = [*modes.rate_clients(), *modes.wait_clients(), *modes.living_clients(3)]
    assert len({client.key for client in every}) == len(every)
    assert max(len(client.key) for client in every) < 40
    for clients in (modes.rate_clients(), modes.wait_clients(), modes.living_clients(3)):
        by_mode = {mode: {one.key.partition("-")[2] for one in clients if one.mode == mode} for mode in modes.MODES}
        assert by_mode[modes.VIP] == by_mode[modes.DNSRR]


def sliced(number: int, micro: int, disturbed: bool = False, count: int = 100) -> Sliced:
    """A slice in which each of so many requests took so long, with a question to the name server for each."""
    counted = Counted(count, 0, 0.1, count, Counter({bucket(micro * 1000): count}), Counter(a=50, b=50))
    return Sliced(number, counted, disturbed)


WORDS = {"mode": "vip", "title": "VIP, asks", "loop": "1,000/s", "connections": "new"}


def test_waits_are_of_slices_that_nobody_disturbed() -> None:
    """Percentiles are those of quiet slices, ratios of the same round; what others disturbed is left out."""
    base = [sliced(number, 50 if number < 30 else 100) for number in range(60)]
    mine = [sliced(number, 100 if number < 30 else 200) for number in range(60)]
    mine += [sliced(60 + number, 9000, disturbed=True) for number in range(5)]
    found = modes_result.wait(WORDS, mine, base)
    assert found is not None
    assert found.sure
    assert (found.count, found.failed, found.asked) == (6000, 0, 1000.0)
    assert found.p50 == pytest.approx(100, rel=0.04)
    assert found.p99 == pytest.approx(200, rel=0.04)
    assert found.p999 is None  # six values beyond it
    assert found.p99_low == pytest.approx(100, rel=0.04)
    assert found.p99_high == pytest.approx(200, rel=0.04)
    assert found.ratio is not None
    assert found.ratio.median == pytest.approx(0.5, rel=0.04)


def test_waits_on_a_busy_machine_are_not_sure() -> None:
    """Where hardly a slice was quiet all of them count, and a question mark says so."""
    found = modes_result.wait(WORDS, [sliced(number, 100, disturbed=number > 5) for number in range(60)], [])
    assert found is not None
    assert not found.sure
    assert found.count == 6000
    (grid,) = modes_report.grids(Modes((found,), Pressure(0.0, 0.6, 0.9), (), ()))
    assert "UNDER PRESSURE" in grid[0]
    assert grid[2][1][3].endswith("?")
    assert modes_result.wait(WORDS, [], []) is None


def some_event(**changes: Any) -> Event:
    line = timeline.Timeline(100, {"refused": 3}, 0.25, 6.9, 1.5, None, 0.02)
    lived = Lived("vip", "each", "VIP, asks <now>", "new", dataclasses.replace(line, **changes), 50.0)
    return Event("kill", 7.0, Pressure(0.0, 0.0, 0.0), 0, (lived,))


def some_modes() -> Modes:
    base = [sliced(number, 50) for number in range(60)]
    one = modes_result.wait(WORDS, base, base)
    assert one is not None
    share = sharing.sharing({"a": 10, "b": 12}, 2)
    assert share is not None
    return Modes((one,), Pressure(0.0, 0.0, 0.0), (Share("VIP, asks", "6 at once", share),), (some_event(),))


def some_result() -> Result:
    spread = Spread(100.0, 98.0, 102.0, 0.5, 60)
    one = Spread(1.0, 0.99, 1.01, 0.001, 60)
    rows = (ResultRow("vip-600", "VIP, keeps it", "dnsrr-600", False, {"bulk": Measured(spread, one)}, {}),)
    table = ResultTable("rates", "Rates", rows, (), 60, 5.0, "rate", Pressure(0.0, 0.0, 0.0))
    about = {"kernel": "6.1", "method": "fairly", "processor": "some"}
    return Result(about, (table,), {}, modes=some_modes())


def test_a_result_comes_back_from_its_json(tmp_path: Path) -> None:
    """What `--json` wrote is what `--compare` reads."""
    file = tmp_path / "a.json"
    file.write_text(result.dump(some_result()))
    assert result.load(file) == some_result()


def test_a_result_as_text() -> None:
    """Rates are by the second, errors say of what kind, and what went on at the end of an observation is called so."""
    text = "\n".join(report.lines(some_result()))
    assert "1,311 MB/s" in text  # 128 KiB in 100 us
    assert "CPU time" not in text
    row = next(line for line in text.splitlines() if line.startswith("VIP, asks <now>"))
    assert re.split(r" {2,}", row) == [
        *("VIP, asks <now>", "new", "100", "3 (refused 3)", "0.25", "to the end", "1.50", "-", "20 ms", "50.0")
    ]


def test_an_event_on_a_busy_machine_says_so() -> None:
    """Others' work and clients that were late are in the heading; errors before the event are kept apart."""
    event = dataclasses.replace(some_event(before=2), pressure=Pressure(0.0, 0.4, 0.0), late=1)
    heading, _, rows = modes_report.event(event)
    assert "UNDER PRESSURE: 1 of 1 clients could not ask as often as they should; others had 40% of the CPUs" in heading
    assert rows[1][3] == "3 (refused 3), 2 before"


def test_a_result_as_a_page_and_as_pictures(tmp_path: Path) -> None:
    """The page has every grid and a picture of each event, without a stray mark; each table and event is a PNG."""
    page = html.page(some_result(), {})
    assert "VIP, asks &lt;now&gt;" in page
    assert page.count(modes_picture.LEGEND) == 1
    assert "CPU time" not in page
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'meshnet[plots]'")
    written = plots.draw(some_result(), tmp_path)
    assert [path.name for path in written] == ["rates.png", "latency.png", "kill.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_a_table_that_is_not_there_is_refused() -> None:
    """A wrong name says which there are, before anything is made."""
    with pytest.raises(MeshnetError, match="there is no table x; there are rates, latency, add, drain, update, kill"):
        modes_run.choose(["x"])
    assert modes_run.choose(["node", "rates"]) == ("rates", "node")


WRK = """Running 1s test @ http://10.0.1.2:8000/
  1 threads and 6 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    92.74us  264.61us   6.71ms   97.60%
    Req/Sec    91.11k     8.66k  105.18k    63.64%
  Latency Distribution
     50%   56.00us
     75%   73.00us
     90%  103.00us
     99%    1.02ms
  99617 requests in 1.10s, 19.00MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
Requests/sec:  90561.43
Transfer/sec:     17.27MB
"""


def test_wrk_is_understood() -> None:
    """Rate, percentiles with their units and failed requests are read from wrk's report; anything else is refused."""
    assert wrk.read(WRK) == wrk.Said(90561.43, 56.0, 1020.0, 4)
    assert wrk.read(WRK.replace("  Socket errors: connect 0, read 3, write 0, timeout 1\n", "")).failed == 0
    with pytest.raises(MeshnetError, match="wrk says something else"):
        wrk.read("unable to connect")


def test_what_wrk_says_is_shown(tmp_path: Path) -> None:
    """Where wrk is installed its figures have a table; where not, its absence has a line that says how to get it."""
    found = some_result()
    assert found.modes is not None
    asked = wrk.Asked("VIP", 5, 90000.0, 80000.0, 95000.0, 56.0, 1020.0, 0, Pressure(0.0, 0.5, 0.0))
    with_it = dataclasses.replace(found, modes=dataclasses.replace(found.modes, wrk=(asked,)))
    text = "\n".join(report.lines(with_it))
    assert "90,000 (80,000-95,000)" in text
    assert "full speed. UNDER PRESSURE: others had 50% of the CPUs" in text
    file = tmp_path / "a.json"
    file.write_text(result.dump(with_it))
    assert result.load(file) == with_it
    without = dataclasses.replace(found, tables=(dataclasses.replace(found.tables[0], missing=(wrk.MISSING,)),))
    assert "left out: wrk: it is not installed. apt-get install wrk" in "\n".join(report.lines(without))
