"""A node's way into a swarm and out of it: `docker swarm init`, `join`, `leave`, `unlock`."""

from __future__ import annotations

from aiohttp import web

from meshnet.agent.membership import InitRequest, JoinRequest
from meshnet.api.bodies import decoded
from meshnet.api.http import answer, flag
from meshnet.api.node.context import agent_of, body, node_of
from meshnet.codec import from_json
from meshnet.errors import ConflictError


async def init(request: web.Request) -> web.Response:
    """POST /swarm/init -> the node's id"""
    asked = from_json(InitRequest, decoded(await body(request)))
    return answer(await node_of(request).complete(agent_of(request).membership.init(asked)))


async def join(request: web.Request) -> web.Response:
    """POST /swarm/join"""
    asked = from_json(JoinRequest, decoded(await body(request)))
    await node_of(request).complete(agent_of(request).membership.join(asked))
    return web.Response()


async def leave(request: web.Request) -> web.Response:
    """POST /swarm/leave"""
    await node_of(request).complete(agent_of(request).membership.leave(flag(request, "force")))
    return web.Response()


async def unlock(_: web.Request) -> web.Response:
    """POST /swarm/unlock: no manager is ever locked."""
    raise ConflictError("swarm is not locked")


ROUTES = (
    ("POST", "/swarm/init", init),
    ("POST", "/swarm/join", join),
    ("POST", "/swarm/leave", leave),
    ("POST", "/swarm/unlock", unlock),
)
