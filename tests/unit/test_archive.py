"""Archives that a container's files are sent as: what happens when nobody takes them any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import IO, Any

import pytest

from meshnet.api.node import archive
from meshnet.sandbox import copying
from meshnet.sandbox.process import in_own_thread


async def much(_root: int, _path: str, sink: IO[bytes]) -> None:
    """Packs more than any pipe takes, in a thread as the real one."""

    def work() -> None:
        for _ in range(10_000):
            sink.write(bytes(archive.CHUNK))

    await in_own_thread(work)


@pytest.mark.parametrize("turns", range(4))
def test_a_request_that_is_cancelled_twice(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Packing ends with its reader, without a word in the log, also when the reader is cancelled while it waits."""
    monkeypatch.setattr(copying, "pack", much)

    async def read(begun: asyncio.Event) -> None:
        async with contextlib.aclosing(archive._packed(0, "/")) as pieces:
            async for _ in pieces:
                begun.set()
                await asyncio.sleep(0)

    async def main() -> list[Any]:
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
        begun = asyncio.Event()
        reader = asyncio.ensure_future(read(begun))
        await begun.wait()
        reader.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        del reader, others
        gc.collect()
        return said

    assert asyncio.run(main()) == []
