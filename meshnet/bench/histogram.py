"""Waits counted in buckets, as modes_waits.c counts them: 32 from one power of two to the next, within 3 %. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

SUB = 32
TENTH = 10  # the buckets' unit, tenths of a microsecond, in one microsecond
ENOUGH = 10  # values beyond a percentile, for it to be told


def value(bucket: int) -> float:
    """The middle of a bucket, in microseconds."""
    if bucket < 2 * SUB:
        return (bucket + 0.5) / TENTH
    shift = bucket // SUB - 1
    return ((bucket - shift * SUB + 0.5) * (1 << shift)) / TENTH


def merged(many: Iterable[Mapping[int, int]]) -> Counter[int]:
    """Several histograms as one."""
    found: Counter[int] = Counter()
    for each in many:
        found.update(each)
    return found


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """Microseconds within which this share of 1 of the values lies; None if fewer than `ENOUGH` lie beyond it."""
    total = sum(counts.values())
    if round(total * (1 - share), 6) < ENOUGH:
        return None
    passed = 0
    for bucket in sorted(counts):
        passed += counts[bucket]
        if passed >= total * share:
            return value(bucket)
    return None
