"""Taking a connection over for raw streams in both directions, as the Engine does for exec and attach.

A client that asks for it (`Upgrade: tcp`) gets 101 UPGRADED, others 200; from then on the connection carries bytes.
With a terminal they are the terminal's own; without, they come in frames (`logform`).
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import select
import termios
from typing import Any

from aiohttp import web

from meshnet.api.logform import RAW
from meshnet.api.shapes import API_VERSION

BUFFER = 64 * 1024
HEAD_READ = 1.0  # s that a client gets to read the head before the bytes begin


class Taken(web.StreamResponse):
    """What a handler returns that has taken its connection over: nothing is left to be sent."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Tail:
    """Collects what arrived behind the request before the connection was taken over."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Nothing follows."""


class _Protocol(asyncio.StreamReaderProtocol):
    """Reads the taken connection; its end is told to the server's own protocol, which then ends the handler.

    A client that has sent its last byte and one that is gone look the same to who reads. The difference is a hang-up,
    which epoll tells without being asked for anything else.
    """

    def __init__(self, reader: asyncio.StreamReader, before: Any, transport: asyncio.Transport) -> None:
        super().__init__(reader)
        self._before = before
        self._hangup = select.epoll()
        self._hangup.register(transport.get_extra_info("socket").fileno(), 0)
        self._loop_ = asyncio.get_running_loop()
        self._loop_.add_reader(self._hangup.fileno(), transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._loop_.remove_reader(self._hangup.fileno())
        self._hangup.close()
        super().connection_lost(exc)
        self._before.connection_lost(exc)


async def take(request: web.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The request's connection, its head answered and read. The handler must return a `Taken` in the end."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    before: Any = request.protocol
    upgrade = request.headers.get("Upgrade", "").lower() == "tcp"
    tail = _Tail()
    if upgrade:
        before.set_parser(tail)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(BUFFER, loop)
    protocol = _Protocol(reader, before, transport)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    if tail.data:
        reader.feed_data(tail.data)
    line = "101 UPGRADED" if upgrade else "200 OK"
    more = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
    head = f"HTTP/1.1 {line}\r\nContent-Type: {RAW}\r\n{more}Api-Version: {API_VERSION}\r\n\r\n"
    transport.write(head.encode())
    await _head_read(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _head_read(transport: asyncio.Transport) -> None:
    """Waits, a second at most, until the client has read all that was sent.

    docker-py reads the head through a buffer and the bytes behind it from the socket: what comes with the head is lost.
    """
    unread = array.array("i", [0])
    try:
        async with asyncio.timeout(HEAD_READ):
            while not transport.is_closing():
                fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unread)
                if not unread[0] and not transport.get_write_buffer_size():
                    return
                await asyncio.sleep(0.001)
    except TimeoutError:
        return  # then at its own risk
