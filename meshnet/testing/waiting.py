"""Waiting in tests: for a condition, with a deadline, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 20.0, *, interval: float = 0.01, what: str = "") -> T:
    """Calls `predicate` until it returns something true and returns that.

    `timeout` and `interval` are seconds. Raises AssertionError naming `what` (or the predicate) and its last
    result when the deadline passes.
    """
    deadline = time.monotonic() + timeout
    while True:
        last = time.monotonic() >= deadline  # so that a look that took long is not the last one
        result = predicate()
        if result:
            return result
        if last:
            name = what or getattr(predicate, "__name__", repr(predicate))
            raise AssertionError(f"waited {timeout} s in vain for {name}; last result: {result!r}")
        time.sleep(interval)
