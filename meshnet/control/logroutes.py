"""The manager's port, the part about logs: how nodes hear what they are asked, and answer.

GET  /v1/nodes/{id}/questions                  newline-delimited JSON: {"ID", "Tasks", ...query}, {"ID", "Close"}, {}
POST /v1/nodes/{id}/logs/{question}/{task}     newline-delimited JSON: {"Time", "Stream", "Text"}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from meshnet.control.admission import PEER
from meshnet.control.logbroker import LogBroker
from meshnet.errors import MeshnetError

SILENCE = 10.0  # s after which an empty line says that the manager is there
READER = 20.0  # s that a node gets to take a line
LINE = 1 << 18  # bytes


def routes(broker: LogBroker) -> list[web.RouteDef]:
    """The handlers over one broker."""

    async def questions(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async for line in broker.questions(request[PEER].identity.node, SILENCE):
                async with asyncio.timeout(READER):
                    await response.write(line)
        except (ConnectionError, TimeoutError):
            pass
        return response

    async def answer(request: web.Request) -> web.Response:
        info = request.match_info
        await broker.answer(request[PEER].identity.node, info["question"], info["task"], _lines(request))
        return web.json_response({})

    return [
        web.get("/v1/nodes/{id}/questions", questions),
        web.post("/v1/nodes/{id}/logs/{question}/{task}", answer),
    ]


async def _lines(request: web.Request) -> AsyncIterator[Mapping[str, Any]]:
    rest = b""
    async for chunk in request.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE:
            raise MeshnetError(f"a line of a log is larger than {LINE} bytes", 413)
        for line in whole:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise MeshnetError("a line of a log is an object")
            yield found
