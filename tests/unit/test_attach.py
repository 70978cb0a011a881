"""Attaching to a container's streams, by a client that does not stay."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from meshnet.api.node import attach


@pytest.mark.parametrize("runs", [True, False])
def test_a_client_that_has_gone_before_it_is_answered(monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """Its connection to the container is closed; one that it would have got with the start is not made."""
    closed: list[bool] = []

    async def scenario() -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if runs:
            future.set_result(SimpleNamespace(close=lambda: closed.append(True)))
        entry = SimpleNamespace(status="running" if runs else "created", state="running", attached=lambda: future)
        monkeypatch.setattr(attach, "entry_of", lambda _: entry)
        request: Any = SimpleNamespace(query={"stream": "1", "stdout": "1"}, transport=None)
        with pytest.raises(ConnectionResetError):
            await attach.attach(request)
        assert future.cancelled() is not runs
        assert bool(closed) is runs

    asyncio.run(scenario())
