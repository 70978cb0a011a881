"""GET /events on a node: its own, and on a manager the swarm's among them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

from meshnet.api import events as shown
from meshnet.api.node.context import Node, node_of

Json = dict[str, Any]


async def events(request: web.Request) -> web.StreamResponse:
    """GET /events, with `since`, `until` and `filters`."""
    node, asked = node_of(request), shown.asked_of(request)
    past: list[Json] = []
    more: AsyncIterator[Json] | None = None
    if node.manages:
        if asked.since is not None:
            past = [event async for event in _of_swarm(node, f"since={asked.since}&until={time.time()}")]
        more = _of_swarm(node, "")
    return await shown.stream(request, asked, node.agent.events, past, more)


async def _of_swarm(node: Node, query: str) -> AsyncIterator[Json]:
    """The manager's events; none from a manager that does not answer, and none after it has gone."""
    try:
        async with node.session().get(f"http://manager/events?{query}") as answer:
            while line := await answer.content.readline():
                yield json.loads(line)
    except (aiohttp.ClientError, OSError, ValueError):
        return
