"""POST /containers/{id}/attach: a container's own streams, on a connection that is taken over."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from aiohttp import web

from meshnet.api import logform
from meshnet.api.http import flag
from meshnet.api.node import hijack
from meshnet.api.node.containers import entry_of
from meshnet.errors import ConflictError
from meshnet.sandbox import logs as kept
from meshnet.sandbox.attaching import Attachment
from meshnet.sandbox.logs import Query

CHUNK = 8 * 1024  # bytes that conmon takes in one packet


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which streams a client asks for."""

    stdin: bool
    outputs: frozenset[str]
    past: bool
    stream: bool


async def attach(request: web.Request) -> web.StreamResponse:
    """POST /containers/{id}/attach, with `logs`, `stream`, `stdin`, `stdout`, `stderr`.

    A container that was not started yet is attached to before its program runs, so that nothing is missed.
    """
    entry = entry_of(request)
    outputs = frozenset(name for name in logform.NUMBERS if flag(request, name))
    wanted = Wanted(flag(request, "stdin"), outputs, flag(request, "logs"), flag(request, "stream"))
    if entry.status == "exited" and wanted.stream:
        raise ConflictError(f"You cannot attach to a stopped container, start it first: {entry.id}")
    if entry.state == "paused" and wanted.stream:
        raise ConflictError("You cannot attach to a paused container, unpause it first")
    future = entry.attached() if wanted.stream else None
    try:
        reader, writer = await hijack.take(request)
        if wanted.past:
            for line in kept.select(entry.log, Query(outputs)):
                writer.write(logform.packed(line, timestamps=False, raw=entry.spec.tty))
            await writer.drain()
        if future is not None and await _ready(future):
            await _both(future.result(), wanted, entry.spec.tty, reader, writer)
    finally:
        if future is not None and not future.cancel() and not future.cancelled():
            future.result().close()
    return hijack.Taken()


async def _ready(future: asyncio.Future[Attachment]) -> bool:
    """Waits for the container's start; False if it cannot be started."""
    await asyncio.wait([future])
    return not future.cancelled()


async def _both(
    attachment: Attachment, wanted: Wanted, tty: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    entering = asyncio.ensure_future(_inward(reader, attachment)) if wanted.stdin else None
    try:
        while True:
            stream, data = await attachment.read()
            if not stream:
                break
            if stream in wanted.outputs:
                writer.write(data if tty else logform.frame(logform.NUMBERS[stream], data))
                await writer.drain()
    finally:
        if entering is not None:
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)


async def _inward(reader: asyncio.StreamReader, attachment: Attachment) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            await attachment.write(data)
        attachment.write_eof()
