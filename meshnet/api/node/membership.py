"""A node's way into a swarm and out of it: `docker swarm init`, `join`, `leave`, `unlock`."""

from __future__ import annotations

import json
from typing import TypeVar

from aiohttp import web

from meshnet.agent.membership import InitRequest, JoinRequest
from meshnet.api.http import answer, flag
from meshnet.api.node.context import agent_of, body, node_of
from meshnet.codec import from_json
from meshnet.errors import ConflictError, MeshnetError

T = TypeVar("T")


async def init(request: web.Request) -> web.Response:
    """POST /swarm/init -> the node's id"""
    asked = await _read(InitRequest, request)
    return answer(await node_of(request).complete(agent_of(request).membership.init(asked)))


async def join(request: web.Request) -> web.Response:
    """POST /swarm/join"""
    asked = await _read(JoinRequest, request)
    await node_of(request).complete(agent_of(request).membership.join(asked))
    return web.Response()


async def leave(request: web.Request) -> web.Response:
    """POST /swarm/leave"""
    await node_of(request).complete(agent_of(request).membership.leave(flag(request, "force")))
    return web.Response()


async def unlock(_: web.Request) -> web.Response:
    """POST /swarm/unlock: no manager is ever locked."""
    raise ConflictError("swarm is not locked")


async def _read(cls: type[T], request: web.Request) -> T:
    try:
        return from_json(cls, json.loads(await body(request)))
    except (ValueError, RecursionError) as error:
        raise MeshnetError(f"the request body is not JSON: {error}") from None


ROUTES = (
    ("POST", "/swarm/init", init),
    ("POST", "/swarm/join", join),
    ("POST", "/swarm/leave", leave),
    ("POST", "/swarm/unlock", unlock),
)
