"""Volumes of the node."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.agent import Agent
from meshnet.api import filters, words
from meshnet.api.http import answer, flag
from meshnet.api.node.context import agent_of, json_body
from meshnet.codec import from_json
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.files import remove_tree
from meshnet.sandbox.volumes import Volume

FILTERS = ("name", "label", "driver", "dangling")


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] | None = None


def shape(volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": words.stamp(float(int(volume.created))).partition(".")[0].removesuffix("Z") + "Z",
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }


def users(agent: Agent, name: str) -> list[str]:
    """The ids of the containers that use a volume."""
    there = inventory.entries(agent)
    return [entry.id for entry in there if any(mount.volume == name for mount in entry.spec.mounts)]


async def create(request: web.Request) -> web.Response:
    """POST /volumes/create: the one of that name, made if it is not there."""
    agent = agent_of(request)
    asked = from_json(VolumeRequest, await json_body(request))
    name = asked.name or secrets.token_hex(32)
    if asked.driver not in ("", "local"):
        raise NotFoundError(
            f'create {name}: error looking up volume plugin {asked.driver}: plugin "{asked.driver}" not found'
        )
    if asked.driver_opts:
        raise MeshnetError(f"create {name}: options of the local driver are not served; leave out --opt", 501)
    volume, _ = agent.use_volume(name, asked.labels)
    return answer(shape(volume), 201)


async def list_volumes(request: web.Request) -> web.Response:
    """GET /volumes, with `filters`."""
    agent = agent_of(request)
    wanted = filters.parse(request.query.get("filters", ""), FILTERS)
    names = wanted.get("name")

    def matches(volume: Volume) -> bool:
        dangling = ("false", "0") if users(agent, volume.name) else ("true", "1")
        return (
            (names is None or any(name in volume.name for name in names))
            and filters.labels_match(wanted, "label", volume.labels or {})
            and filters.any_equal(wanted, "driver", "local")
            and filters.any_equal(wanted, "dangling", *dangling)
        )

    return answer({"Volumes": [shape(one) for one in agent.volumes.all() if matches(one)], "Warnings": None})


async def inspect(request: web.Request) -> web.Response:
    """GET /volumes/{name}"""
    return answer(shape(agent_of(request).volumes.get(request.match_info["name"])))


async def remove(request: web.Request) -> web.Response:
    """DELETE /volumes/{name}, with `force`: one that is not there is no error then."""
    agent, name = agent_of(request), request.match_info["name"]
    try:
        agent.volumes.get(name)
    except NotFoundError:
        if flag(request, "force"):
            return web.Response(status=204)
        raise
    used = users(agent, name)
    if used:
        raise ConflictError(f"remove {name}: volume is in use - [{', '.join(used)}]")
    await _removed(agent, name)
    return web.Response(status=204)


async def _removed(agent: Agent, name: str) -> None:
    place = agent.volumes.put_away(name)  # whoever makes one of that name meanwhile gets another
    await asyncio.to_thread(remove_tree, place)
    agent.events.publish("volume", "destroy", name, {"driver": "local"})


async def prune(request: web.Request) -> web.Response:
    """POST /volumes/prune: those that no container uses."""
    agent = agent_of(request)
    wanted = filters.parse(request.query.get("filters", ""), ("label", "label!", "all"))
    gone = [
        volume.name
        for volume in agent.volumes.all()
        if not users(agent, volume.name) and filters.labels_match(wanted, "label", volume.labels or {})
    ]
    removed, room = [], 0
    for name in gone:
        size = await asyncio.to_thread(agent.volumes.size, name)
        if users(agent, name):
            continue  # a container was made with it meanwhile
        with contextlib.suppress(NotFoundError):  # somebody else was quicker
            await _removed(agent, name)
            removed.append(name)
            room += size
    return answer({"VolumesDeleted": removed or None, "SpaceReclaimed": room})


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("DELETE", "/volumes/{name}", remove),
)
