"""When the machine stood still: what a test measured then is not what it promises.

On every processor a thread takes naps. One that it wakes from much too late is a time in which the processor was
somebody else's, so that nothing here could be quick. A lost packet or a slow agent holds up no nap.
"""

from __future__ import annotations

import os
import threading
import time

NAP = 0.02  # s
LATE = 0.25  # s by which a nap is too long: more than processes that share a processor wait for one another


class Pulse:
    """Times of standing still, since it was made. Its threads end with a `with` block, or with the process."""

    def __init__(self) -> None:
        self._still: list[tuple[float, float]] = []
        self._beats = dict.fromkeys(os.sched_getaffinity(0), 0.0)
        self._ending = False
        self._threads = [threading.Thread(target=self._beat, args=(each,), daemon=True) for each in self._beats]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Pulse:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join()

    def _beat(self, processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread
        before = time.monotonic()
        while not self._ending:
            time.sleep(NAP)
            now = time.monotonic()
            if now - before > NAP + LATE:
                self._still.append((before + NAP, now))
            self._beats[processor] = before = now

    def moved(self, begin: float, end: float) -> float:
        """Seconds between two times of the monotonic clock, less those in which a processor stood still."""
        asked = time.monotonic()
        while min(self._beats.values()) < asked and time.monotonic() < asked + 10:
            time.sleep(NAP)
        still, last = 0.0, begin
        for first, until in sorted(self._still):
            still += max(0.0, min(until, end) - max(first, last))
            last = max(last, until)
        return end - begin - still
