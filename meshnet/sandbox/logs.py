"""What a task wrote to stdout and stderr: conmon's k8s-file format, one line per line with its time.

`<RFC 3339 time> stdout|stderr F|P <text>`: P marks a piece of a line that goes on in the next entry of that stream.
conmon begins the file anew when it reaches its size limit, so it is never larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from meshnet.kernel import inotify

LINE_BYTES = 64 * 1024  # a longer line is given in pieces


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line as the task wrote it, without its newline. `time` is RFC 3339 with nanoseconds."""

    time: str
    stream: str
    text: str


class Joiner:
    """Makes lines of entries as they come."""

    def __init__(self) -> None:
        self._partial: dict[str, tuple[str, bytes]] = {}

    def feed(self, raw: bytes) -> LogLine | None:
        """The line that this entry ends; None for a piece, and for what is no entry (a file cut in the middle)."""
        fields = raw.rstrip(b"\n").split(b" ", 3)
        if len(fields) != 4 or fields[1] not in (b"stdout", b"stderr") or fields[2] not in (b"F", b"P"):
            return None
        at, stream = fields[0].decode(errors="replace"), fields[1].decode()
        first, before = self._partial.pop(stream, (at, b""))
        text = before + fields[3]
        if fields[2] == b"P" and len(text) < LINE_BYTES:
            self._partial[stream] = (first, text)
            return None
        return LogLine(first, stream, text.decode(errors="replace"))

    def rest(self) -> Iterator[LogLine]:
        """Lines that never ended."""
        for stream, (first, text) in self._partial.items():
            yield LogLine(first, stream, text.decode(errors="replace"))
        self._partial.clear()


def parse(lines: Iterable[bytes]) -> Iterator[LogLine]:
    """Joins partial entries into lines; skips what is not an entry."""
    joiner = Joiner()
    for raw in lines:
        line = joiner.feed(raw)
        if line is not None:
            yield line
    yield from joiner.rest()


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines: of these streams, the last `tail`, between two times (seconds since 1970); None bounds nothing."""

    streams: frozenset[str] = frozenset({"stdout", "stderr"})
    tail: int | None = None
    since: float | None = None
    until: float | None = None

    def wants(self, line: LogLine) -> bool:
        """Whether the line is of a wanted stream and between the times."""
        if line.stream not in self.streams:
            return False
        if self.since is None and self.until is None:
            return True
        at = seconds(line.time)
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


def read(path: str | Path, *, tail: int | None = None, since: float | None = None) -> list[LogLine]:
    """The lines of a log file, the last `tail` of them, from `since` (seconds since 1970) on; [] if there is none."""
    return select(path, Query(tail=tail, since=since))


def select(path: str | Path, query: Query) -> list[LogLine]:
    """The lines of a log file that the query wants, oldest first; [] if there is no file."""
    try:
        with open(path, "rb") as file:
            return list(deque((line for line in parse(file) if query.wants(line)), maxlen=query.tail))
    except FileNotFoundError:
        return []


async def follow(path: str | Path, query: Query, over: Awaitable[object]) -> AsyncIterator[LogLine]:
    """The lines that the query wants, and then those that come, until `over` is done and all was read.

    The file may be begun anew by its writer, and may be moved away after its end: what was open is read to its end.
    """
    source = _Source(path)
    changed, end = asyncio.Event(), asyncio.ensure_future(over)
    end.add_done_callback(lambda _: changed.set())
    loop = asyncio.get_running_loop()
    watch = inotify.watch(str(Path(path).parent), inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_CLOSE_WRITE)
    loop.add_reader(watch, changed.set)
    try:
        for line in deque(filter(query.wants, source.lines()), maxlen=query.tail):
            yield line
        while True:
            ended = end.done()
            for line in source.lines():
                if query.until is not None and seconds(line.time) > query.until:
                    return
                if query.wants(line):
                    yield line
            if ended:
                for line in filter(query.wants, source.joiner.rest()):
                    yield line
                return
            await _change(changed, query.until)
            inotify.drain(watch)
            if query.until is not None and time.time() > query.until:
                return
    finally:
        end.cancel()
        loop.remove_reader(watch)
        os.close(watch)
        source.close()


async def _change(changed: asyncio.Event, until: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if until is None else max(until - time.time(), 0.0) + 0.001):
            await changed.wait()
    changed.clear()


class _Source:
    """A log file that is read from where the last look ended."""

    def __init__(self, path: str | Path) -> None:
        self.joiner = Joiner()
        self._path, self._rest = path, b""
        self._file: BinaryIO | None = None

    def lines(self) -> Iterator[LogLine]:
        """What has come since the last call, in whole lines."""
        yield from self._read()
        if self._renewed():
            self.close()
            yield from self._read()

    def _read(self) -> Iterator[LogLine]:
        if self._file is None:
            try:
                self._file = open(self._path, "rb")  # noqa: SIM115 kept open, closed by close()
            except FileNotFoundError:
                return
        while chunk := self._file.read(LINE_BYTES):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for raw in whole:
                line = self.joiner.feed(raw)
                if line is not None:
                    yield line

    def _renewed(self) -> bool:
        """Whether another file has the name by now."""
        try:
            return self._file is not None and os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._rest = None, b""


def seconds(time: str) -> float:
    """A line's time as seconds since 1970; 0.0 if it cannot be read."""
    # Python reads at most microseconds, conmon writes nanoseconds.
    whole, _, rest = time.partition(".")
    digits = rest[:9]
    zone = rest[len(digits) :] if digits.isdecimal() else "+00:00"
    try:
        return datetime.fromisoformat(whole + (zone or "+00:00")).timestamp() + float(f"0.{digits or 0}")
    except ValueError:
        return 0.0
