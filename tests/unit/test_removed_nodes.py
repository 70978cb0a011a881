"""Nodes that are removed while they are being told something, or ask for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from peers import FAST, JOIN, member, session, shown
from swarm import Swarm, eventually, run, swarm

from meshnet.codec import to_json
from meshnet.control import dispatcher
from meshnet.control.attachments import Attach
from meshnet.control.operations import remove_node
from meshnet.control.trust.tls import SERVER_NAME


async def removed(it: Swarm, node_id: str) -> None:
    await it.manager.state.write(lambda view: remove_node(view, view.nodes[node_id], force=True))


def test_no_key_after_the_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that is made since a node was removed is not told to that node on the stream that is open still."""
    monkeypatch.setattr(dispatcher, "BATCH", 0.3)  # s in which the new key is made

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node, _ = await it.node("docker-1"), await it.node("docker-2")
            known = node.credentials.gossip
            await removed(it, node.client.node_id)
            await eventually(lambda: it.manager.keeper.trust.gossip.fresh, "a new key is made")
            await eventually(lambda: it.manager.statistics()["streams"] == 1, "the stream has ended")
            assert node.credentials.gossip == known

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [("join", JOIN), ("{node}/attachments", Attach(container_id="a" * 64))],
)
def test_removed_before_it_has_said_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: Any) -> None:
    """A node that is removed while its request is on its way is not there again after it, nor is anything of it."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it, session() as http:
            node, _ = await it.node("docker-1"), await it.node("docker-2")
            ident, manager = node.client.node_id, it.manager
            context = shown(manager, member(node, manager))
            await node.stop()
            arrived, gone, read = asyncio.Event(), asyncio.Event(), dispatcher.read_json

            async def reading(request: web.Request) -> Any:
                arrived.set()
                return await read(request)

            async def slowly() -> AsyncIterator[bytes]:
                text = json.dumps(to_json(body)).encode()
                yield text[:1]
                await gone.wait()
                yield text[1:]

            async def asked() -> int:
                url = f"https://{manager.listen_address}/v1/nodes/{path.format(node=ident)}"
                async with http.post(url, data=slowly(), ssl=context, server_hostname=SERVER_NAME) as response:
                    return response.status

            monkeypatch.setattr(dispatcher, "read_json", reading)
            asking = asyncio.create_task(asked())
            await arrived.wait()
            await removed(it, ident)
            gone.set()
            assert await asking == 404
            assert ident not in manager.view.nodes
            assert not manager.view.tasks_on.get(ident)

    run(scenario)
