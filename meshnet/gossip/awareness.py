"""Lifeguard's local health: a node that may itself be slow grows patient before it accuses others."""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to `limit` - 1; timeouts stretch by score + 1 (LHA-Probe, arXiv 1707.00788)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.score = 0

    def apply(self, delta: int) -> None:
        """Worse for a positive delta, better for a negative one."""
        self.score = min(max(self.score + delta, 0), self._limit - 1)

    def scale(self, seconds: float) -> float:
        """`seconds`, stretched by how little this node trusts itself."""
        return seconds * (self.score + 1)
