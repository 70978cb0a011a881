"""A wait between two times of the same work, which ends a little early where the process is awake anyway.

A process that slept finds cold caches: to wake costs it more than most of what it wakes for. So what is nearly due is
done with what is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

EARLY = 0.75  # of a rest; what is left of it then may be saved


class Rest:
    """One worker's rest. Others say `nudge()` whenever they are awake, and `end()` if there is something to do."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._ripe = math.inf

    async def take(self, seconds: float) -> None:
        """Waits for so long, or for `end()`, which also counts if it was said before; or for a late `nudge()`."""
        self._ripe = asyncio.get_running_loop().time() + EARLY * seconds
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._over.wait()
            self._over.clear()
        finally:
            self._ripe = math.inf

    def nudge(self) -> None:
        """The process is awake: work that is nearly due may be done now."""
        if asyncio.get_running_loop().time() >= self._ripe:
            self._over.set()

    def end(self) -> None:
        """The rest is over at once."""
        self._over.set()
