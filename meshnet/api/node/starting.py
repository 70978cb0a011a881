"""Containers that people start by themselves: create, start, restart, rename, and the networks they are on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.inventory import Entry
from meshnet.agent.standalone import Standalone
from meshnet.api.http import answer
from meshnet.api.node.containers import entry_of, stopped
from meshnet.api.node.context import agent_of, json_body, node_of
from meshnet.api.node.creating import ContainerRequest, EndpointConfig, check_endpoint, check_name, kept_of, wish_of
from meshnet.api.node.networks import held_named, own_named
from meshnet.codec import from_json
from meshnet.errors import ConflictError, MeshnetError, NotFoundError


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The body of `POST /networks/{id}/connect` and `disconnect`."""

    container: str = ""
    endpoint_config: EndpointConfig | None = None
    force: bool = False


async def create(request: web.Request) -> web.Response:
    """POST /containers/create, with `name`."""
    agent = agent_of(request)
    body_ = await json_body(request)
    asked = from_json(ContainerRequest, body_)
    name = request.query.get("name", "")
    if name:
        check_name(agent, name)
    kept, warnings = kept_of(agent, asked, name, body_.get("HostConfig") or {})
    made = Standalone(agent, kept)
    made.keep()
    agent.standalones[made.id] = made
    agent.happened(kept.spec, "create")
    return answer({"Id": made.id, "Warnings": warnings}, 201)


def _own(entry: Entry) -> Standalone:
    """ConflictError for a task's container: the swarm decides about those."""
    if entry.standalone is None:
        raise ConflictError(f"container {entry.name} belongs to a task of the swarm, which starts and stops it")
    return entry.standalone


async def start(request: web.Request) -> web.Response:
    """POST /containers/{id}/start: 304 if it runs."""
    node, entry = node_of(request), entry_of(request)
    if entry.state == "paused":
        raise ConflictError("cannot start a paused container, try unpause instead")
    fresh = await node.complete(_own(entry).start())
    return web.Response(status=204 if fresh else 304)


async def restart(request: web.Request) -> web.Response:
    """POST /containers/{id}/restart, with `t` (seconds). A task's is stopped, and the swarm starts another."""
    node, entry = node_of(request), entry_of(request)
    text = request.query.get("t", "")

    async def again() -> None:
        grace, own = float(text) if text.isdecimal() else None, entry.standalone
        if own is None:
            if entry.status == "running":
                await stopped(node.agent, entry, grace)
            return
        own.staying = True
        try:
            if entry.status == "running":
                await stopped(node.agent, entry, grace)
            await own.ended.wait()
        finally:
            own.staying = False
        await own.start()

    await node.complete(again())
    return web.Response(status=204)


async def rename(request: web.Request) -> web.Response:
    """POST /containers/{id}/rename, with `name`. On its networks it has its old name until it is started again."""
    agent, own = agent_of(request), _own(entry_of(request))
    name = request.query.get("name", "")
    check_name(agent, name)
    before, after = own.kept.spec.name, name.removeprefix("/")
    own.kept.spec = replace(own.kept.spec, name=after)
    own.kept.networks = tuple(
        replace(wish, aliases=tuple(after if alias == before else alias for alias in wish.aliases))
        for wish in own.kept.networks
    )
    own.keep()
    agent.happened(own.kept.spec, "rename", oldName=f"/{before}")
    return web.Response(status=204)


async def connect(request: web.Request) -> web.Response:
    """POST /networks/{id}/connect"""
    node, reference = node_of(request), request.match_info["id"]
    asked = from_json(ConnectRequest, await json_body(request))
    own = _own(inventory.find(node.agent, asked.container))
    if own_named(node.agent, reference) is not None:
        raise MeshnetError(f"{reference}: a container can be connected to networks of the swarm only", 403)
    if asked.endpoint_config is not None:
        check_endpoint(asked.endpoint_config)
    wish = wish_of(reference, asked.endpoint_config, own.kept.spec.name)
    known = held_named(node.agent, reference)
    there = {known.id, known.spec.name} if known is not None else {reference}
    if any(one.target in there for one in own.kept.networks):
        raise MeshnetError(f"endpoint with name {own.kept.spec.name} already exists in network {reference}", 403)
    await node.complete(own.change_networks((*own.kept.networks, wish)))
    node.agent.events.publish("network", "connect", reference, {"container": own.id, "name": reference})
    return web.Response()


async def disconnect(request: web.Request) -> web.Response:
    """POST /networks/{id}/disconnect"""
    node, reference = node_of(request), request.match_info["id"]
    asked = from_json(ConnectRequest, await json_body(request))
    own = _own(inventory.find(node.agent, asked.container))
    known = held_named(node.agent, reference)
    there = {known.id, known.spec.name} if known is not None else {reference}
    left = tuple(one for one in own.kept.networks if one.target not in there)
    if len(left) == len(own.kept.networks):
        raise NotFoundError(f"container {own.id} is not connected to network {reference}")
    await node.complete(own.change_networks(left))
    node.agent.events.publish("network", "disconnect", reference, {"container": own.id, "name": reference})
    return web.Response()


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/containers/create", create),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
)
