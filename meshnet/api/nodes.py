"""Nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiohttp import web

from meshnet.api import filters, lists, shapes, validate
from meshnet.api.http import answer, body_of, flag, manager_of, version_of
from meshnet.codec import from_json
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
    body = await body_of(request)
    spec = validate.node_spec(_said(body, from_json(NodeSpec, body)))
    await manager_of(request).state.write(
        lambda view: operations.update_node(filters.find_node(view, request.match_info["id"]), version, spec)
    )
    return web.Response()


def _said(body: Any, spec: NodeSpec) -> NodeSpec:
    """The spec with nothing taken for granted: a role or an availability that is left out is none."""
    given = {str(name).lower() for name, value in body.items() if value is not None}
    role = spec.role if "role" in given else ""
    return replace(spec, role=role, availability=spec.availability if "availability" in given else "")


async def remove_node(request: web.Request) -> web.Response:
    """DELETE /nodes/{id}, with `force`."""
    force = flag(request, "force")
    await manager_of(request).state.write(
        lambda view: operations.remove_node(view, filters.find_node(view, request.match_info["id"]), force)
    )
    return web.Response()
