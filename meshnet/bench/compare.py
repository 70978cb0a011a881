"""Two results beside each other: which ratios changed by more than chance and layout explain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshnet.bench.result import Measured, Result

LAYOUT = 0.01  # where code and tables happen to lie in memory changes a ratio by this much from run to run
_SAME = ("processor", "kernel", "BPF JIT")  # without these, changes are not only meshnet's

Key = tuple[str, str, str]  # table, row, operation


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio then and now. `noise` is how far apart they may be by chance; `sure`: both are well known."""

    before: float
    after: float
    noise: float
    sure: bool

    @property
    def beyond(self) -> bool:
        """Whether it is a change."""
        return self.sure and abs(self.after - self.before) > self.noise

    @property
    def share(self) -> float:
        """The change as a share of what it was: above 0 is faster."""
        return self.after / self.before - 1


def changes(old: Result, new: Result) -> dict[Key, Change]:
    """Every ratio that both results have. A baseline's own ratio is no ratio."""
    before, after = dict(_ratios(old)), dict(_ratios(new))
    return {key: _change(before[key], after[key]) for key in after if key in before}


def _ratios(result: Result) -> Iterator[tuple[Key, Measured]]:
    for table in result.tables:
        for row in table.rows:
            if row.key != row.baseline:
                for operation, measured in row.measured.items():
                    yield (table.key, row.key, operation), measured


def _change(old: Measured, new: Measured) -> Change:
    noise = math.hypot(old.ratio.error, new.ratio.error) + LAYOUT * old.ratio.median
    return Change(old.ratio.median, new.ratio.median, noise, old.ratio.sure and new.ratio.sure)


def lines(old: Result, new: Result, found: Mapping[Key, Change]) -> Iterator[str]:
    """What changed, for a terminal."""
    unsure = sum(not each.sure for each in found.values())
    beyond = {key: each for key, each in found.items() if each.beyond}
    when = old.about.get("when", "an older run")
    yield f"Compared with {when}: {len(beyond)} of {len(found)} ratios changed beyond the noise"
    for name in _SAME:
        if old.about.get(name) != new.about.get(name):
            yield f"  another {name} then: {old.about.get(name)}; now: {new.about.get(name)}"
    for (table, row, operation), each in beyond.items():
        word = "faster" if each.share > 0 else "SLOWER"
        yield f"  {table}, {row}, {operation}: {each.before:.3f} -> {each.after:.3f} ({each.share:+.1%}, {word})"
    if unsure:
        yield f"  {unsure} ratios are not known well enough to be compared: measure longer, or when it is quiet"
