"""What else went on while something was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pressure:
    """Shares of 1: time that the hypervisor gave to others, time that other processes had within slices, and slices in
    which one of them ran."""

    stolen: float
    others: float
    disturbed: float

    @property
    def high(self) -> bool:
        """Whether numbers of such a run need care."""
        return self.stolen > 0.05 or self.others > 0.25 or self.disturbed > 0.5

    def __str__(self) -> str:
        return (
            f"others ran in {self.disturbed:.0%} of the slices and had {self.others:.0%} of their time, the hypervisor "
            f"took {self.stolen:.0%}"
        )
