"""From slices to numbers: medians, quartiles, paired ratios, how far to trust them. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshnet.bench.prober import Slice

ENOUGH = 20  # rounds, for any number at all
NEAR = 3  # rounds
GOOD = 0.02  # a ratio whose median is known less well is shown as unsure
SKEWED = 1.3  # wall clock over CPU clock of undisturbed slices, from which the CPU clock is not the whole path's


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles, and half the width of the median's 95 % confidence interval. `count` values."""

    median: float
    low: float
    high: float
    error: float
    count: int

    @property
    def sure(self) -> bool:
        """Whether the median is known within `GOOD` of itself."""
        return self.error <= GOOD * self.median


def spread(values: Sequence[float]) -> Spread | None:
    """What to say of values; None of fewer than `ENOUGH`.

    The confidence interval is that of order statistics: no shape of the distribution is assumed.
    """
    if len(values) < ENOUGH:
        return None
    ordered = sorted(values)
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    reach = 0.98 * math.sqrt(len(ordered))
    first = max(0, math.floor(len(ordered) / 2 - reach))
    last = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
    return Spread(median, low, high, (ordered[last] - ordered[first]) / 2, len(ordered))


def clean(slices: Sequence[Slice]) -> list[Slice]:
    """The slices in which nothing else ran on the CPU; all of them where those would be too few."""
    undisturbed = [each for each in slices if not each.disturbed]
    return undisturbed if len(undisturbed) >= ENOUGH else list(slices)


def ratios(baseline: Sequence[Slice], slices: Sequence[Slice], wall: bool = False) -> list[float]:
    """Speed against the baseline, above 1 is faster: each slice with the baseline's of the same round, or of one at
    most `NEAR` rounds away, so that both saw the same machine."""
    base = {each.round: _time(each, wall) for each in baseline}
    found = []
    for each in slices:
        beside = next((base[at] for at in _near(each.round) if at in base), None)
        if beside is not None and _time(each, wall) > 0:
            found.append(beside / _time(each, wall))
    return found


def _near(round_number: int) -> Iterator[int]:
    yield round_number
    for distance in range(1, NEAR + 1):
        yield round_number - distance
        yield round_number + distance


def costs(slices: Sequence[Slice], wall: bool = False) -> list[float]:
    """Microseconds per operation."""
    return [_time(each, wall) / 1000 for each in slices]


def _time(one: Slice, wall: bool) -> float:
    return one.wall if wall else one.cpu


def skewed(slices: Mapping[tuple[str, str], Sequence[Slice]]) -> bool:
    """Whether the thread's CPU clock misses a part of the paths: a kernel may book softirqs apart from threads, or
    count in whole ticks. Then undisturbed slices took longer, or shorter, by the wall than by that clock."""
    found = [
        each.wall / each.cpu if each.cpu > 0 else math.inf
        for many in slices.values()
        for each in many
        if not each.disturbed
    ]
    if len(found) < ENOUGH:
        return False
    return not 1 / SKEWED < statistics.median(found) < SKEWED
