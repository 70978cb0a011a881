"""Large request bodies: written to a file as they arrive, at most so many bytes, and not slower than a bound."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from meshnet.api.node.context import agent_of
from meshnet.errors import MeshnetError

MOST = 8 * 2**30  # bytes
SILENCE = 60.0  # s that a client may send nothing
CHUNK = 2**20
FOLDER = "uploads"


def sweep(run_dir: Path) -> None:
    """Takes away what an agent that was killed had received: before this one listens."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)


@contextlib.asynccontextmanager
async def uploaded(request: web.Request) -> AsyncIterator[str]:
    """The path of a file with the request's body, which goes with the context. MeshnetError if it is too much."""
    place = Path(agent_of(request).run_dir) / FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place) as file:
        size = 0
        while chunk := await _next(request):
            size += len(chunk)
            if size > MOST:
                raise MeshnetError(f"the body is larger than {MOST} bytes", 413)
            await asyncio.to_thread(file.write, chunk)
        file.flush()
        yield file.name


async def _next(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(SILENCE):
            return await request.content.read(CHUNK)
    except TimeoutError:
        raise MeshnetError(f"nothing came for {SILENCE:g} s", 408) from None
