"""What takes room on a node; and plugins, of which it has none."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.api.http import answer
from meshnet.api.node import container_shapes, images, volumes
from meshnet.api.node.context import agent_of
from meshnet.errors import NotFoundError


async def usage(request: web.Request) -> web.Response:
    """GET /system/df: images, containers and volumes with their sizes in bytes.

    What containers write goes with them and is not counted; images of the catalogue take no room.
    """
    agent = agent_of(request)
    entries = list(inventory.entries(agent))
    used = [agent.containers.image_id(entry.spec.image) for entry in entries]
    shown = [{**row, "Containers": used.count(row["Id"])} for row in images.rows(agent.containers.images).values()]
    return answer(
        {
            "LayersSize": sum(row["Size"] for row in shown),
            "Images": shown,
            "Containers": [container_shapes.summary(agent, entry) for entry in entries],
            "Volumes": [
                {
                    **volumes.shape(volume),
                    "UsageData": {
                        "Size": await asyncio.to_thread(agent.volumes.size, volume.name),
                        "RefCount": len(volumes.users(agent, volume.name)),
                    },
                }
                for volume in agent.volumes.all()
            ],
            "BuildCache": [],
            "BuilderSize": 0,
        }
    )


async def list_plugins(_: web.Request) -> web.Response:
    """GET /plugins: there are none."""
    return answer([])


async def inspect_plugin(request: web.Request) -> web.Response:
    """GET /plugins/{name}/json"""
    raise NotFoundError(f'plugin "{request.match_info["name"]}" not found')


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/system/df", usage),
    ("GET", "/plugins", list_plugins),
    ("GET", "/plugins/{name}/json", inspect_plugin),
)
