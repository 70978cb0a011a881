"""The stream of assignments is never silent for long: a node that hears nothing takes its manager for lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from peers import member, session, shown
from swarm import run, spec, swarm

from meshnet.control import dispatcher
from meshnet.control.trust import tls

BOOKMARK = 0.2


def test_a_node_that_others_changes_pass_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bookmarks come in time also while the swarm changes all the time, but nothing of it is for this node."""
    monkeypatch.setattr(dispatcher, "BOOKMARK", BOOKMARK)

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            me = member(await it.node("docker-1"), it.manager)
            elsewhere = await it.service(spec("web", replicas=0))

            async def changes() -> None:
                for number in range(1_000_000):
                    await it.change(elsewhere, labels={"number": str(number)})
                    await asyncio.sleep(BOOKMARK / 10)

            url = f"https://{it.manager.listen_address}/v1/nodes/{me.node}/assignments?watch=1"
            context = shown(it.manager, me)
            changing = asyncio.create_task(changes())
            try:
                async with http.get(url, ssl=context, server_hostname=tls.SERVER_NAME) as response:
                    lines = [json.loads(await response.content.readline()) for _ in range(5)]
            finally:
                changing.cancel()
            assert [line["type"] for line in lines] == ["snapshot", "trust", "bookmark", "bookmark", "bookmark"]
            assert lines[4]["rev"] > lines[2]["rev"] > lines[0]["rev"]

    run(scenario)
