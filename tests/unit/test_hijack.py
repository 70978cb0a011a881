"""Connections that are taken over for raw streams."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from aiohttp import web

from meshnet.api.node import hijack

REQUEST = b"POST /start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"


async def start(request: web.Request) -> web.StreamResponse:
    _, writer = await hijack.take(request)
    writer.write(b"bytes")
    await writer.drain()
    return hijack.Taken()


def test_the_head_comes_alone(tmp_path: Path) -> None:
    """A client that is slow to read gets the head by itself: docker-py loses what is read together with it."""

    async def scenario() -> None:
        app = web.Application()
        app.router.add_post("/start", start)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(tmp_path / "s")).start()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.setblocking(False)
            await loop.sock_sendall(client, REQUEST)
            ready = asyncio.Event()
            loop.add_reader(client.fileno(), ready.set)
            async with asyncio.timeout(5):
                await ready.wait()
            loop.remove_reader(client.fileno())
            for _ in range(100):
                await asyncio.sleep(0)  # whatever would be sent now is sent
            head = await loop.sock_recv(client, 65536)
            assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
            assert head.endswith(b"\r\n\r\n")
            async with asyncio.timeout(5):
                assert await loop.sock_recv(client, 65536) == b"bytes"
        await runner.cleanup()

    asyncio.run(scenario())
