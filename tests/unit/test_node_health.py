"""A manager that finds nodes lost: what comes between the end of a node's term and the writing of that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from swarm import SETTINGS, run, swarm

from meshnet.control.nodes import Heartbeats
from meshnet.control.objects import Changes
from meshnet.control.state import Decide


def test_a_word_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is heard while its loss waits to be written stays ready, so its tasks are not started elsewhere."""
    named: list[str] = []
    expired = Heartbeats.expired

    def spied(beats: Heartbeats, now: float) -> list[str]:
        named.extend(found := expired(beats, now))
        return found

    monkeypatch.setattr(Heartbeats, "expired", spied)

    async def scenario() -> None:
        async with swarm(tmp_path, replace(SETTINGS, heartbeat=0.2)) as it:
            node = await it.node("docker-1")
            manager, ident, written = it.manager, node.client.node_id, asyncio.Event()
            write = manager.state.write

            async def behind_others(decide: Decide) -> Changes:
                if named:  # until others have written, the node comes back
                    monkeypatch.undo()
                    await manager.heard(ident)
                try:
                    return await write(decide)
                finally:
                    if named:
                        written.set()

            monkeypatch.setattr(manager.state, "write", behind_others)
            await node.stop()
            await written.wait()
            assert named == [ident]
            assert manager.view.nodes[ident].status.state == "ready"

    run(scenario)
