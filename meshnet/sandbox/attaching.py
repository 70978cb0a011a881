"""The standard streams of a running container, through its monitor's socket.

conmon sends what the container writes in packets that begin with a byte, 2 for stdout and 3 for stderr, to everyone who
is connected, and gives the container what they send. A terminal's size goes to it through a FIFO.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from meshnet.errors import ConflictError

SOCKET, SIZES = "attach", "winsz"
PACKET = 64 * 1024
STREAMS = {2: "stdout", 3: "stderr"}


class Attachment:
    """A connection to a container's streams. ConflictError if there is nobody to connect to."""

    def __init__(self, directory: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        # A socket's name may have 107 bytes: so it is named through a descriptor of its directory.
        place = -1
        try:
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._socket.connect(f"/proc/self/fd/{place}/{SOCKET}")
        except OSError as error:
            self._socket.close()
            raise ConflictError(f"the container's streams cannot be attached to: {error.strerror}") from None
        finally:
            if place >= 0:
                os.close(place)

    async def read(self) -> tuple[str, bytes]:
        """What was written next, and to which stream; ("", b"") at the end."""
        loop = asyncio.get_running_loop()
        try:
            packet = await loop.sock_recv(self._socket, PACKET)
        except ConnectionError:
            packet = b""
        return (STREAMS.get(packet[0], "stdout"), packet[1:]) if packet else ("", b"")

    async def write(self, data: bytes) -> None:
        """Gives the container something to read. OSError if it takes nothing any more."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    def write_eof(self) -> None:
        """The container has nothing more to read."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


def resize(directory: str, height: int, width: int) -> None:
    """Sets the size of a container's terminal, in characters. OSError if its monitor is gone."""
    descriptor = os.open(Path(directory, SIZES), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{height} {width}\n")
