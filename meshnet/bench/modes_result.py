"""What `meshnet bench vip-vs-dnsrr` finds besides its rates. Plain data."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshnet.bench import histogram
from meshnet.bench import statistics as spreads
from meshnet.bench.histogram import percentile
from meshnet.bench.load import Counted
from meshnet.bench.pressure import Pressure
from meshnet.bench.sharing import Sharing
from meshnet.bench.statistics import Spread
from meshnet.bench.timeline import Timeline
from meshnet.bench.wrk import Asked

PARTS = 4  # of a run, for how much a 99th percentile moves within it


@dataclass(frozen=True, slots=True)
class Sliced:
    """What a client did in one slice. `disturbed`: others had much of the CPUs meanwhile."""

    round: int
    counted: Counted
    disturbed: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """How long requests of one kind of client took: microseconds, percentiles of all slices that nobody disturbed, or
    of all where those are too few (not `sure`). `p99_low` and `p99_high`: over four parts of the run. `ratio`: the
    baseline's median over this one's, slice by slice in the same round. `asked`: questions to the name server a
    second. `failed`: requests without an answer."""

    mode: str
    title: str
    loop: str
    connections: str
    count: int
    failed: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    p99_low: float | None
    p99_high: float | None
    ratio: Spread | None
    asked: float
    sure: bool


@dataclass(frozen=True, slots=True)
class Share:
    """How connections of one kind of client are spread over the backends."""

    title: str
    connections: str
    sharing: Sharing


@dataclass(frozen=True, slots=True)
class Lived:
    """What one kind of client lived through in one event. `asked`: questions to the name server a second."""

    mode: str
    policy: str
    title: str
    connections: str
    timeline: Timeline
    asked: float


@dataclass(frozen=True, slots=True)
class Event:
    """An event that was observed for `seconds` after it. `late`: clients that could not ask as often as they should."""

    key: str
    seconds: float
    pressure: Pressure
    late: int
    lived: tuple[Lived, ...]


@dataclass(frozen=True, slots=True)
class Modes:
    """Everything. `pressure`: while waits were measured, None if they were not. `wrk`: nothing where it is missing."""

    waits: tuple[Wait, ...]
    pressure: Pressure | None
    shares: tuple[Share, ...]
    events: tuple[Event, ...]
    wrk: tuple[Asked, ...] = ()


def wait(words: Mapping[str, str], slices: Sequence[Sliced], baseline: Sequence[Sliced]) -> Wait | None:
    """From the slices of a client and of the one that it is compared with; None if nothing was answered.

    `words`: mode, title, loop and connections.
    """
    quiet = [one for one in slices if not one.disturbed]
    enough = len(quiet) >= spreads.ENOUGH
    kept = quiet if enough else list(slices)
    counts = histogram.merged(one.counted.waits for one in kept)
    if not counts:
        return None
    seconds = sum(one.counted.seconds for one in slices)
    bounds = [round(len(kept) * part / PARTS) for part in range(PARTS + 1)]
    parts = [
        percentile(histogram.merged(one.counted.waits for one in kept[begin:end]), 0.99)
        for begin, end in itertools.pairwise(bounds)
    ]
    known = [part for part in parts if part is not None]
    return Wait(
        **words,
        count=sum(counts.values()),
        failed=sum(one.counted.errors for one in slices),
        p50=percentile(counts, 0.5),
        p90=percentile(counts, 0.9),
        p99=percentile(counts, 0.99),
        p999=percentile(counts, 0.999),
        p99_low=min(known) if len(known) == PARTS else None,
        p99_high=max(known) if len(known) == PARTS else None,
        ratio=spreads.spread(_ratios(baseline, kept)),
        asked=round(sum(one.counted.questions for one in slices) / seconds, 1) if seconds else 0.0,
        sure=enough,
    )


def _ratios(baseline: Sequence[Sliced], slices: Sequence[Sliced]) -> list[float]:
    """The baseline's median over each slice's, of the same round."""
    base = {one.round: _median(one.counted) for one in baseline}
    found = []
    for one in slices:
        theirs, mine = base.get(one.round), _median(one.counted)
        if theirs and mine:
            found.append(theirs / mine)
    return found


def _median(counted: Counted) -> float | None:
    values = sorted(counted.waits.elements())
    return histogram.value(int(statistics.median_low(values))) if values else None


def from_json(value: Mapping[str, Any]) -> Modes:
    """The opposite of `dataclasses.asdict`. KeyError or TypeError for something else."""
    waits = tuple(
        Wait(**each | {"ratio": Spread(**each["ratio"]) if each["ratio"] else None}) for each in value["waits"]
    )
    shares = tuple(Share(**each | {"sharing": Sharing(**each["sharing"])}) for each in value["shares"])
    pressure = Pressure(**value["pressure"]) if value["pressure"] else None
    wrk = tuple(Asked(**each | {"pressure": Pressure(**each["pressure"])}) for each in value["wrk"])
    return Modes(waits, pressure, shares, tuple(map(_event, value["events"])), wrk)


def _event(value: Mapping[str, Any]) -> Event:
    lived = tuple(Lived(**each | {"timeline": Timeline(**each["timeline"])}) for each in value["lived"])
    return Event(value["key"], value["seconds"], Pressure(**value["pressure"]), value["late"], lived)
