"""Ctrl-C, SIGTERM and SIGHUP: all three end a command as Ctrl-C does, and none in the middle of what must not be half
done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def as_ctrl_c() -> None:
    """From now on SIGTERM and SIGHUP raise `Ended`; one that is ignored, as nohup has it, stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


def exit_status(error: BaseException) -> int:
    """128 and the number of the signal that a KeyboardInterrupt came from."""
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


@contextmanager
def undone() -> Iterator[None]:
    """For work that takes away all it made when it is interrupted: has the interruption say so."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("what was made is removed")
        raise


@contextmanager
def postponed() -> Iterator[None]:
    """A signal that would interrupt the block does so at its end. For blocks that take milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        before[signal.Signals(came[0])](came[0], None)
