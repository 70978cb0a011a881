"""Bytes between descriptors of programs and connections."""

from __future__ import annotations

import asyncio
import os
import pty

from meshnet.api.node import pipes


def test_a_terminal_that_ends_gives_what_was_written_before() -> None:
    """What a program wrote right before its end is read, though the terminal answers EIO before anyone asks."""

    async def scenario() -> bytes:
        master, slave = pty.openpty()
        async with pipes.reading(master) as source:
            os.write(slave, b"last words\n")
            os.close(slave)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                while master in loop._selector.get_map():  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0)  # until the transport has met the end
            return await source.read()

    assert asyncio.run(scenario()) == b"last words\r\n"
