"""A minimal synchronous netlink: requests out, acknowledgements and dumps in, for the few calls that are worth it.

Attaching a program or ending a socket is one message of a fixed shape, sent from a short-lived thread inside some
namespace; an asyncio netlink object there would cost ten times the call itself. (RFC 3549; man 7 netlink.)
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_SIZE = 1 << 16
_MESSAGES = 1 << 20  # bound of one dump


class RawNetlink:
    """One netlink socket of `protocol`; it lives in the network namespace of the thread that makes it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(5)
        self._sequence = 0

    def __enter__(self) -> RawNetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """Sends one message and waits for its acknowledgement. OSError with the kernel's errno if it is refused."""
        for _ in self._exchange(kind, flags | NLM_F_ACK, body):
            pass

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        """Type and body of every message of a dump. OSError if it is refused."""
        return list(self._exchange(kind, NLM_F_DUMP, body))

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        for _ in range(_MESSAGES):
            data = self._socket.recv(_SIZE)
            at = 0
            while at + 16 <= len(data):
                length, got, _flags, sequence, _port = struct.unpack_from("=IHHII", data, at)
                content = data[at + 16 : at + length]
                at += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if got == _DONE:
                    return
                if got == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield got, content


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute: length, type, value, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type (flag bits removed); of one that occurs twice the last."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found
