"""A blocking rtnetlink socket inside a namespace: requests in batches, dumps as values.

rtnetlink answers within the system call, so a blocking socket never waits for anybody but the kernel's own lock: a
request costs some 10 microseconds, and a call may be made from a running event loop. (pyroute2's synchronous calls
run an event loop of their own, which fails there, and opening one of its sockets in a namespace forks a process.)
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from meshnet.kernel import netns as namespaces
from meshnet.kernel.dumps import Address, Filter, Link, Neighbour, Route, Rule, attributes
from meshnet.kernel.requests import EGRESS, INGRESS, Request

_NETLINK_ROUTE, _SOL_NETLINK = 0, 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_SO_RCVBUFFORCE, _SO_NETNS_COOKIE = 33, 71
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP, _DUMP_INTR, _ACK_TLVS = 0x301, 0x10, 0x200
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETRULE, _RTM_GETTFILTER = 18, 22, 26, 30, 34, 46
_SKIP_STATISTICS = struct.pack("=HHI", 8, 29, 8)  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS
_BATCH_MESSAGES, _BATCH_BYTES = 64, 32768
_DUMP_TRIES = 10

T = TypeVar("T")


class NetlinkError(OSError):
    """A request that the kernel refused: errno, and a text with what was tried and the kernel's own explanation."""


class Netlink:
    """An rtnetlink socket in a namespace (name, path or descriptor; None: that of the calling thread)."""

    def __init__(self, netns: str | int | None = None) -> None:
        kind = socket.SOCK_RAW
        if netns is None:
            self._socket = socket.socket(socket.AF_NETLINK, kind | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        else:
            self._socket = namespaces.socket_in(netns, socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
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

    def _dump(self, kind: int, body: bytes, what: str, decode: Callable[[bytes], T | None]) -> list[T]:
        for _ in range(_DUMP_TRIES):
            found, complete = self._dump_once(kind, body, what, decode)
            if complete:
                return found
        raise NetlinkError(errno.EINTR, f"list {what}: changed faster than it could be read")

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

    def links(self) -> list[Link]:
        """Every device of the namespace."""
        return self._dump(_RTM_GETLINK, bytes(16) + _SKIP_STATISTICS, "links", Link.decode)

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        return next((link for link in self.links() if link.name == name), None)

    def index(self, name: str) -> int:
        """Index of the device of that name. Raises NetlinkError (ENODEV)."""
        link = self.link(name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"no link {name}")
        return link.index

    def addresses(self, family: int = socket.AF_INET) -> list[Address]:
        """Every address of a family."""
        return self._dump(_RTM_GETADDR, struct.pack("=BBBBI", family, 0, 0, 0, 0), "addresses", Address.decode)

    def routes(self, table: int | None = None, family: int = socket.AF_INET) -> list[Route]:
        """The unicast routes of a table, or of all."""
        body = bytes([family]) + bytes(11)
        if table is not None:
            body += struct.pack("=HHI", 8, 15, table)
        try:
            found = self._dump(_RTM_GETROUTE, body, "routes", Route.decode)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # nobody has put a route into this table yet
                return []
            raise
        return [route for route in found if route.kind == 1 and table in (None, route.table)]

    def neighbours(self, index: int = 0, family: int = socket.AF_INET) -> list[Neighbour]:
        """The neighbours of one device, or of all; with AF_BRIDGE the entries of VXLAN devices."""
        body = bytes([family]) + bytes(11)
        if index:
            body += struct.pack("=HHI", 8, 8, index)  # NDA_IFINDEX
        found = self._dump(_RTM_GETNEIGH, body, "neighbours", Neighbour.decode)
        return [neighbour for neighbour in found if index in (0, neighbour.index)]

    def rules(self) -> list[Rule]:
        """The IPv4 rules in the order of their priority."""
        return self._dump(_RTM_GETRULE, bytes([socket.AF_INET]) + bytes(11), "rules", Rule.decode)

    def filters(self, index: int) -> list[Filter]:
        """The BPF programs at ingress and egress of a device; none when it has no clsact."""
        found: list[Filter] = []
        for parent in (INGRESS, EGRESS):
            body = struct.pack("=B3xiIII", 0, index, 0, parent, 0)
            try:
                found += self._dump(_RTM_GETTFILTER, body, f"filters of dev {index}", Filter.decode)
            except NetlinkError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
        return found


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
