"""Stopping a container, as an engine is asked to."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from meshnet.api.node.containers import stopped


def test_a_stop_is_over_when_the_ports_are_free() -> None:
    """Whoever stops a container to start another one on its port is answered when what it had is taken down."""

    async def nothing(*_: object) -> None:
        return

    async def scenario() -> None:
        ended = asyncio.Event()
        container = SimpleNamespace(stop=nothing)
        own = SimpleNamespace(halt=nothing, container=container, ended=ended)
        entry: Any = SimpleNamespace(standalone=own, container=container, spec=SimpleNamespace(stop_signal="SIGTERM"))
        agent: Any = SimpleNamespace(happened=lambda *_, **__: None)
        stopping = asyncio.ensure_future(stopped(agent, entry, None))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not stopping.done()
        ended.set()
        await asyncio.wait_for(stopping, 5)

    asyncio.run(scenario())
