"""What `meshnet bench vip-vs-dnsrr` makes of what its clients say: waits, shares, and what clients live through."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from meshnet.bench import histogram, load, modes, sharing, timeline
from meshnet.bench.timeline import Request


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
        Request(3 * second, 4 * second, "refused", "-"),
        Request(4 * second, 7 * second, "timeout", "-"),
        Request(5 * second, 6 * second, "ok", "new"),
        Request(8 * second, 9 * second, "ok", "new"),
    ]
    found = timeline.timeline(reversed(requests), 3 * second, {"old"}, {"new"})
    assert found == timeline.Timeline(
        requests=5,
        errors={"refused": 1, "timeout": 1},
        first_error=1.0,
        last_error=4.0,
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
    every = [*modes.rate_clients(), *modes.wait_clients(), *modes.living_clients()]
    assert len({client.key for client in every}) == len(every)
    assert max(len(client.key) for client in every) < 40
    for clients in (modes.rate_clients(), modes.wait_clients(), modes.living_clients()):
        by_mode = {mode: {one.key.partition("-")[2] for one in clients if one.mode == mode} for mode in modes.MODES}
        assert by_mode[modes.VIP] == by_mode[modes.DNSRR]
