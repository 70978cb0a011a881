"""Nodes."""

from __future__ import annotations

from aiohttp import web

from meshnet.api import filters, lists, shapes, validate
from meshnet.api.http import answer, body_as, flag, manager_of, version_of
from meshnet.control import operations
from meshnet.model import NodeSpec


async def list_nodes(request: web.Request) -> web.Response:
    """GET /nodes, with `filters`."""
    view = manager_of(request).view
    wanted = filters.parse(request.query.get("filters", ""), lists.NODES)
    return answer([shapes.node(item) for item in lists.nodes(view, wanted)])


async def inspect_node(request: web.Request) -> web.Response:
    """GET /nodes/{id}"""
    return answer(shapes.node(filters.find_node(manager_of(request).view, request.match_info["id"])))


async def update_node(request: web.Request) -> web.Response:
    """POST /nodes/{id}/update?version=N"""
    version = version_of(request, "node")
    spec = validate.node_spec(await body_as(NodeSpec, request))
    await manager_of(request).state.write(
        lambda view: operations.update_node(filters.find_node(view, request.match_info["id"]), version, spec)
    )
    return web.Response()


async def remove_node(request: web.Request) -> web.Response:
    """DELETE /nodes/{id}, with `force`."""
    force = flag(request, "force")
    await manager_of(request).state.write(
        lambda view: operations.remove_node(view, filters.find_node(view, request.match_info["id"]), force)
    )
    return web.Response()
