"""A blocking netlink socket of any protocol inside a namespace: requests in batches, dumps message by message.

The kernel answers within the system call, so a blocking socket never waits for anybody but the kernel's own lock: a
request costs some 10 microseconds, and a call may be made from a running event loop. (pyroute2's synchronous calls
run an event loop of their own, which fails there, and opening one of its sockets in a namespace forks a process.)
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from meshnet.kernel import netns as namespaces
from meshnet.kernel.attributes import attributes

NLM_F_REQUEST, NLM_F_ACK = 1, 4
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE, _SO_NETNS_COOKIE = 33, 71
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP, _DUMP_INTR, _ACK_TLVS = 0x301, 0x10, 0x200
_BATCH_MESSAGES, _BATCH_BYTES = 64, 32768
_DUMP_TRIES = 10
_NOTHING: frozenset[int] = frozenset()

T = TypeVar("T")


class NetlinkError(OSError):
    """A request that the kernel refused: errno, and a text with what was tried and the kernel's own explanation."""


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded message. `tolerated` are the errno values that count as success; `what` is for error texts."""

    data: bytes
    what: str
    tolerated: frozenset[int] = _NOTHING


def request(kind: int, flags: int, body: bytes, what: str) -> Request:
    """A request from its body: the header of the message (`kind`, `flags`) is put in front."""
    return Request(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0) + body, what)


class Channel:
    """A socket of a netlink protocol in a namespace (name, path or descriptor; None: that of the calling thread)."""

    def __init__(self, protocol: int, netns: str | int | None = None) -> None:
        kind = socket.SOCK_RAW
        if netns is None:
            self._socket = socket.socket(socket.AF_NETLINK, kind | socket.SOCK_CLOEXEC, protocol)
        else:
            self._socket = namespaces.socket_in(netns, socket.AF_NETLINK, kind, protocol)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cookie(self) -> int:
        """The cookie of the namespace, as bpf_get_netns_cookie shows it."""
        value: int = struct.unpack("=Q", self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
        return value

    def send(self, *requests: Request) -> None:
        """Carries out requests in order, many per system call.

        All are tried, also after one fails. Raises NetlinkError for the first that failed.
        """
        errors = self.try_send(requests)
        if errors:
            raise errors[0][1]

    def try_send(self, requests: Iterable[Request]) -> list[tuple[Request, NetlinkError]]:
        """Like `send`, but returns the requests that failed, with their errors, instead of raising."""
        failed: list[tuple[Request, NetlinkError]] = []
        for batch in _batches(requests):
            failed += self._send_batch(batch)
        return failed

    def _send_batch(self, batch: list[Request]) -> list[tuple[Request, NetlinkError]]:
        first = self._sequence + 1
        out = bytearray()
        for request in batch:
            self._sequence += 1
            out += request.data
            struct.pack_into("=II", out, len(out) - len(request.data) + 8, self._sequence, 0)
            out += bytes(-len(out) % 4)
        self._socket.send(out)
        failed: list[tuple[Request, NetlinkError]] = []
        waiting = len(batch)
        while waiting:
            for kind, flags, sequence, payload in self._receive():
                if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                waiting -= 1
                request = batch[sequence - first]
                error = _error(payload, flags, request.what)
                if error is not None and error.errno not in request.tolerated:
                    failed.append((request, error))
        return failed

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(1 << 16)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += max((length + 3) & ~3, 16)

    def dump(self, kind: int, body: bytes, what: str, decode: Callable[[bytes], T | None]) -> list[T]:
        """What `decode` makes of the payload of each message of a dump; None is left out.

        A dump that met a change is begun again. NetlinkError if it is refused, or EINTR after many tries.
        """
        for _ in range(_DUMP_TRIES):
            found, complete = self._dump_once(kind, body, what, decode)
            if complete:
                return found
        raise NetlinkError(errno.EINTR, f"list {what}: changed faster than it could be read")

    def get(self, kind: int, body: bytes, what: str, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of the one message that answers. NetlinkError if the request is refused."""
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            for answer, flags, sequence, payload in self._receive():
                if sequence != self._sequence:
                    continue
                error = _error(payload, flags, what) if answer == _NLMSG_ERROR else None
                if error is not None:
                    raise error
                return decode(payload)

    def _dump_once(
        self, kind: int, body: bytes, what: str, decode: Callable[[bytes], T | None]
    ) -> tuple[list[T], bool]:
        self._sequence += 1
        mine = self._sequence
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_DUMP, mine, 0) + body)
        found: list[T] = []
        complete = True
        while True:
            for answer, flags, sequence, payload in self._receive():
                if sequence != mine:
                    continue
                complete = complete and not flags & _DUMP_INTR
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    error = _error(payload, flags, f"list {what}")
                    if error is not None:
                        raise error
                    return found, complete
                value = decode(payload)
                if value is not None:
                    found.append(value)


def _batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Small enough for one send, and for the answers to fit the receive buffer."""
    batch: list[Request] = []
    size = 0
    for request in requests:
        if batch and (len(batch) >= _BATCH_MESSAGES or size + len(request.data) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += len(request.data)
    if batch:
        yield batch


def _error(payload: bytes, flags: int, what: str) -> NetlinkError | None:
    code: int = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
    if code <= 0:
        return None
    text = os.strerror(code)
    if flags & _ACK_TLVS and len(payload) > 20:
        explanation = attributes(payload, 20).get(1, b"").rstrip(b"\0").decode(errors="replace")
        if explanation:
            text = f"{text} ({explanation})"
    return NetlinkError(code, f"{what}: {text}")
