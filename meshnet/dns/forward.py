"""Asks upstream servers what the zone does not know, from the namespace of this process (the node's).

One socket per try: the kernel gives it a port of its own, connected, so that only the asked server can answer, and
the identifier is made anew. What comes back must be a response with that identifier and that question (RFC 5452);
anything else is counted and waited past. Servers are tried in order, three at most; one that refuses, fails or stays
silent gives way to the next. Everything else, NXDOMAIN too, is passed on as it came.
"""

import asyncio
import ipaddress
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Sequence

from meshnet.dns.answer import Transport
from meshnet.dns.query import FLAG_RESPONSE, HEADER, OPCODE_MASK, RCODE_MASK, REFUSED, SERVFAIL, Query

MAX_UPSTREAMS = 3
MAX_DATAGRAM = 65535
LENGTH = struct.Struct("!H")

Upstream = tuple[str, int]


async def ask(
    query: Query, transport: Transport, upstreams: Sequence[Upstream], timeout: float, counts: Counter[str]
) -> bytes | None:
    """The first usable answer to `query`, with the client's identifier, or None when there is none.

    `timeout` is in seconds per server. TCP clients are asked for over TCP, so that a truncated answer is not met twice.
    `counts` gets `upstream_timeout`, `upstream_error`, `upstream_mismatch` and `upstream_failure`.
    """
    for upstream in upstreams[:MAX_UPSTREAMS]:
        identifier = secrets.randbelow(1 << 16)
        message = LENGTH.pack(identifier) + query.message[2:]
        try:
            async with asyncio.timeout(timeout):
                exchange = _ask_tcp if transport == "tcp" else _ask_udp
                response = await exchange(message, query, upstream, counts)
        except TimeoutError:
            counts["upstream_timeout"] += 1
            continue
        except (OSError, EOFError):
            counts["upstream_error"] += 1
            continue
        if response[3] & RCODE_MASK in (SERVFAIL, REFUSED):
            counts["upstream_failure"] += 1
            continue
        return LENGTH.pack(query.identifier) + response[2:]
    return None


async def _ask_udp(message: bytes, query: Query, upstream: Upstream, counts: Counter[str]) -> bytes:
    loop = asyncio.get_running_loop()
    with _socket(upstream, socket.SOCK_DGRAM) as sock:
        sock.connect(upstream)
        await loop.sock_sendall(sock, message)
        while True:
            response = await loop.sock_recv(sock, MAX_DATAGRAM)
            if _is_answer(response, message, query):
                return response
            counts["upstream_mismatch"] += 1


async def _ask_tcp(message: bytes, query: Query, upstream: Upstream, counts: Counter[str]) -> bytes:
    loop = asyncio.get_running_loop()
    with _socket(upstream, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, upstream)
        await loop.sock_sendall(sock, LENGTH.pack(len(message)) + message)
        while True:
            (length,) = LENGTH.unpack(await _receive(sock, LENGTH.size))
            response = await _receive(sock, length)
            if _is_answer(response, message, query):
                return response
            counts["upstream_mismatch"] += 1


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; EOFError if the stream ends before."""
    data = bytearray()
    while len(data) < size:
        chunk = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def _socket(upstream: Upstream, kind: socket.SocketKind) -> socket.socket:
    version = ipaddress.ip_address(upstream[0]).version
    return socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK)


def _is_answer(response: bytes, message: bytes, query: Query) -> bool:
    """Whether `response` answers `message`: identifier, QR, opcode, and the question but for its case.

    A server that could not read the query may answer without a question; then only with an error.
    """
    if len(response) < HEADER.size or response[:2] != message[:2]:
        return False
    _, flags, questions, *_ = HEADER.unpack_from(response)
    if not flags & FLAG_RESPONSE or flags & OPCODE_MASK:
        return False
    if questions == 0:
        return bool(flags & RCODE_MASK)
    question = query.question
    found = response[HEADER.size : HEADER.size + len(question)]
    return questions == 1 and found[:-4].lower() == question[:-4].lower() and found[-4:] == question[-4:]
