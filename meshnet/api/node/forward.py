"""Passing a request on to the manager process of this node, and its answer back as it comes."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from meshnet.api.node.context import Node, body, node_of
from meshnet.errors import MeshnetError

# Headers of one connection, not of the message (RFC 9110 section 7.6.1); the rest goes through.
_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}
)


async def to_manager(request: web.Request) -> web.StreamResponse:
    """A request about the swarm: answered by the manager process here, refused on a worker."""
    node = node_of(request)
    node.need_manager()
    sent = await body(request)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    url = URL(f"http://manager{request.raw_path}", encoded=True)
    try:
        answer = await node.session().request(request.method, url, data=sent, headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, OSError) as error:
        raise silent(error) from error
    async with answer:
        return await _pass_back(request, answer)


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in _HOP:
            response.headers[name] = value
    if answer.content_length is not None:
        response.content_length = answer.content_length
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except aiohttp.ClientError:
        request.protocol.force_close()  # the manager broke off: so must we, or the client takes it for the end
        return response
    await response.write_eof()
    return response


def silent(error: Exception) -> MeshnetError:
    """What a client is told when the manager process does not answer."""
    return MeshnetError(f"the manager process of this node does not answer: {error}; is it running?", 503)


async def asked(node: Node, path: str) -> Any:
    """GET of the manager's own API, decoded. MeshnetError with the manager's words if it refuses or is silent."""
    try:
        async with node.session().get(f"http://manager{path}") as answer:
            text = await answer.read()
            if answer.status >= 400:
                raise MeshnetError(str(json.loads(text)["message"]), answer.status)
            return json.loads(text)
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
        raise silent(error) from error
