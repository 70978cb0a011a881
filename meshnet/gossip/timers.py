"""A heap of deadlines, for a core that has no clock of its own."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[float], None]


class Timer:
    """One deadline. `cancel` makes it never fire, and so does firing."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Action) -> None:
        self.when = when
        self.action: Action | None = action

    def cancel(self) -> None:
        """Forget the action; the heap drops the entry when it comes up."""
        self.action = None


class Timers:
    """Deadlines in seconds on the caller's monotonic clock. Its length is that of what it holds, also of what will
    never fire and has not come up yet."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._ripe: list[tuple[float, int, Timer]] = []  # by when they may run, if anything does
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap) + len(self._ripe)

    def at(self, when: float, action: Action, early: float = 0.0) -> Timer:
        """Run `action(now)` at the first `run` with now >= when; or at one up to `early` before, if something else is
        due then: what need not be on time is not worth a wake of its own."""
        timer = Timer(when, action)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        if early:
            heapq.heappush(self._ripe, (when - early, self._count, timer))
        return timer

    def next(self) -> float | None:
        """The earliest deadline, or None."""
        for heap in (self._heap, self._ripe):
            while heap and heap[0][2].action is None:
                heapq.heappop(heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Run what is due, in order. What an action schedules waits for the next call, so a run always ends."""
        due: list[Timer] = []
        for heap in (self._heap, self._ripe):
            while heap and heap[0][0] <= now:
                due.append(heapq.heappop(heap)[2])
        for timer in due:
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
