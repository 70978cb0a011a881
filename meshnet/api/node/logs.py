"""GET /containers/{id}/logs: what a container wrote, and what it writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.inventory import Entry
from meshnet.api.http import flag
from meshnet.api.node import hijack, words
from meshnet.api.node.context import agent_of
from meshnet.errors import MeshnetError
from meshnet.sandbox import logs
from meshnet.sandbox.logs import LogLine, Query


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
    return data if raw else hijack.frame(hijack.NUMBERS[line.stream], data)


async def container_logs(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/logs"""
    entry = inventory.find(agent_of(request), request.match_info["id"])
    query, timestamps = query_of(request), flag(request, "timestamps")
    details = "" if flag(request, "details") else None
    response = web.StreamResponse(headers={"Content-Type": hijack.RAW})
    await response.prepare(request)
    async for line in _lines(entry, query, flag(request, "follow")):
        await response.write(packed(line, timestamps=timestamps, details=details, raw=entry.spec.tty))
    await response.write_eof()
    return response


async def _lines(entry: Entry, query: Query, follow: bool) -> AsyncIterator[LogLine]:
    if follow and entry.container is not None and entry.status == "running":
        async for line in logs.follow(entry.log, query, entry.container.wait()):
            yield line
        return
    for line in logs.select(entry.log, query):
        yield line
