"""How clients ask for logs, and how lines go to them: of containers, of services and of tasks.

What is written to stdout and stderr comes in frames of one byte of stream number, three zeros, four bytes of length
(big-endian), and the text; of a container with a terminal as it is.
"""

from __future__ import annotations

import struct

from aiohttp import web

from meshnet.api import words
from meshnet.api.http import flag
from meshnet.errors import MeshnetError
from meshnet.sandbox.logs import LogLine, Query

STDIN, STDOUT, STDERR = 0, 1, 2
NUMBERS = {"stdout": STDOUT, "stderr": STDERR}
RAW = "application/vnd.docker.raw-stream"


def frame(stream: int, data: bytes) -> bytes:
    """One piece of a multiplexed stream."""
    return struct.pack(">BxxxL", stream, len(data)) + data


def query_of(request: web.Request) -> Query:
    """Which lines a client asks for. Raises MeshnetError in the Engine's words."""
    streams = frozenset(name for name in ("stdout", "stderr") if flag(request, name))
    if not streams:
        raise MeshnetError("Bad parameters: you must choose at least one stream")
    tail = request.query.get("tail", "all")
    times = {}
    for name in ("since", "until"):
        try:
            times[name] = words.parse_time(request.query.get(name, "")) or None
        except ValueError:
            raise MeshnetError(f"invalid value for {name!r}: {request.query[name]!r} is no time") from None
    return Query(streams, int(tail) if tail.isdecimal() else None, times["since"], times["until"])


def stamped(line: LogLine) -> str:
    """The line's time as the Engine writes it."""
    return line.time.replace("+00:00", "Z")


def packed(line: LogLine, *, timestamps: bool, details: str | None = None, raw: bool = False) -> bytes:
    """A line as it goes to a client; `raw` is for a container with a terminal."""
    text = f"{line.text}\n" if details is None else f"{details} {line.text}\n"
    if timestamps:
        text = f"{stamped(line)} {text}"
    data = text.encode(errors="replace")
    return data if raw else frame(NUMBERS[line.stream], data)
