"""GET /containers/{id}/logs: what a container wrote, and what it writes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.inventory import Entry
from meshnet.api.http import flag
from meshnet.api.logform import RAW, packed, query_of
from meshnet.api.node.context import agent_of
from meshnet.sandbox import logs
from meshnet.sandbox.logs import LogLine, Query


async def container_logs(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/logs"""
    entry = inventory.find(agent_of(request), request.match_info["id"])
    query, timestamps = query_of(request), flag(request, "timestamps")
    details = "" if flag(request, "details") else None
    response = web.StreamResponse(headers={"Content-Type": RAW})
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
