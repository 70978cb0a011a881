"""What a task wrote to stdout and stderr: conmon's k8s-file format, one line per line with its time.

`<RFC 3339 time> stdout|stderr F|P <text>`: P marks a piece of a line that goes on in the next entry of that stream.
conmon begins the file anew when it reaches its size limit, so it is never larger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

LINE_BYTES = 64 * 1024  # a longer line is given in pieces


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line as the task wrote it, without its newline. `time` is RFC 3339 with nanoseconds."""

    time: str
    stream: str
    text: str


def parse(lines: Iterable[bytes]) -> Iterator[LogLine]:
    """Joins partial entries into lines; skips what is not an entry (a file cut in the middle of one)."""
    partial: dict[str, tuple[str, bytes]] = {}
    for raw in lines:
        fields = raw.rstrip(b"\n").split(b" ", 3)
        if len(fields) != 4 or fields[1] not in (b"stdout", b"stderr") or fields[2] not in (b"F", b"P"):
            continue
        time, stream = fields[0].decode(errors="replace"), fields[1].decode()
        first, before = partial.pop(stream, (time, b""))
        text = before + fields[3]
        if fields[2] == b"P" and len(text) < LINE_BYTES:
            partial[stream] = (first, text)
        else:
            yield LogLine(first, stream, text.decode(errors="replace"))
    for stream, (time, text) in partial.items():
        yield LogLine(time, stream, text.decode(errors="replace"))


def read(path: str | Path, *, tail: int | None = None, since: float | None = None) -> list[LogLine]:
    """The lines of a log file, the last `tail` of them, from `since` (seconds since 1970) on; [] if there is none."""
    try:
        with open(path, "rb") as file:
            chosen = (line for line in parse(file) if since is None or _seconds(line.time) >= since)
            return list(deque(chosen, maxlen=tail))
    except FileNotFoundError:
        return []


def _seconds(time: str) -> float:
    # Python reads at most microseconds, conmon writes nanoseconds.
    whole, _, rest = time.partition(".")
    digits = rest[:9]
    zone = rest[len(digits) :] if digits.isdecimal() else "+00:00"
    try:
        return datetime.fromisoformat(whole + (zone or "+00:00")).timestamp() + float(f"0.{digits or 0}")
    except ValueError:
        return 0.0
