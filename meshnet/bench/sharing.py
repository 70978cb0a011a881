"""How evenly backends share what comes. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_CHANCE = 2.0  # standard deviations within which chance is an explanation
EVEN, CHANCE, UNEVEN = "more evenly than by chance", "as evenly as by chance", "unevenly"


@dataclass(frozen=True, slots=True)
class Sharing:
    """`least` and `most`: shares of 1 of one backend. `chi2`: Pearson's, against equal shares, for each degree of
    freedom: about 1 if each connection draws its backend. `verdict` in words."""

    backends: int
    count: int
    least: float
    most: float
    chi2: float
    verdict: str


def sharing(counts: Mapping[str, int], backends: int) -> Sharing | None:
    """From what each backend had; one of the `backends` that had nothing need not be in `counts`. None of nothing, and
    for one backend."""
    total = sum(counts.values())
    backends = max(backends, len(counts))
    if not total or backends < 2:
        return None
    each = [*counts.values(), *[0] * (backends - len(counts))]
    equal, freedom = total / backends, backends - 1
    chi2 = sum((count - equal) ** 2 for count in each) / equal
    return Sharing(backends, total, min(each) / total, max(each) / total, chi2 / freedom, _verdict(chi2, freedom))


def _verdict(chi2: float, freedom: int) -> str:
    """By Wilson and Hilferty: the cube root of chi square for each degree of freedom is about normal."""
    spread = 2 / (9 * freedom)
    deviation = ((chi2 / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    if deviation > _CHANCE:
        return UNEVEN
    return EVEN if deviation < -_CHANCE else CHANCE
