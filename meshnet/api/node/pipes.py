"""Bytes between descriptors of programs and clients' connections, at the pace of the slower."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from meshnet.api import logform

CHUNK = 32 * 1024


class _Source(asyncio.StreamReaderProtocol):
    """Ends as a stream does, also when reading fails: a terminal whose last program has ended answers EIO.

    As an error, that would hide what was read before it and not taken yet.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


@contextlib.asynccontextmanager
async def reading(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """A reader of a pipe or a terminal, which is closed in the end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(CHUNK, loop)
    file = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: _Source(reader), file)
    try:
        yield reader
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def writing(descriptor: int) -> AsyncIterator[asyncio.StreamWriter]:
    """A writer to a pipe or a terminal, which is closed in the end."""
    loop = asyncio.get_running_loop()
    file = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        yield writer
    finally:
        transport.close()


async def outward(
    descriptor: int,
    to: asyncio.StreamWriter,
    stream: int | None,
    begun: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Sends what a program writes, framed as `stream` (None: as it is), until its end; nothing if it never begun."""
    async with reading(descriptor) as source:
        while data := await source.read(CHUNK):
            if begun is not None and not await begun():
                return
            to.write(data if stream is None else logform.frame(stream, data))
            await to.drain()


async def inward(source: asyncio.StreamReader, descriptor: int) -> None:
    """Gives what a client sends to a program, and its end too."""
    async with writing(descriptor) as to:
        while data := await source.read(CHUNK):
            try:
                to.write(data)
                await to.drain()
            except OSError:
                return  # the program reads no more
