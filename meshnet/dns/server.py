"""The resolver of one task: sockets in, zone and upstream servers behind.

The sockets were bound inside the task's namespace by somebody else; a socket keeps its namespace, so this runs in the
node's, together with the resolvers of all other tasks. At rest a resolver is two registered sockets: no timers, no
threads, no tasks.
"""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from ipaddress import ip_address

from meshnet.dns.answer import OUTCOMES, UDP_MAXIMUM, Drop, Forward, Transport, answer, failure, reply_limit, truncated
from meshnet.dns.forward import LENGTH, Upstream, ask
from meshnet.dns.query import MAX_QUERY, REFUSED, SERVFAIL, Query
from meshnet.dns.zone import Zone

MAX_FORWARDS = 1024
"""Queries that wait for upstream servers at once, as in Swarm; further ones are REFUSED at once."""

MAX_CLIENTS = 128
"""TCP connections at once; further ones are closed at once."""

BATCH = 64
"""Datagrams taken before other sockets get their turn."""

UPSTREAM_TIMEOUT = 1.5
"""Seconds per upstream server: three of them answer or fail before a client's usual 5 s are over."""

IDLE_TIMEOUT = 10.0
"""Seconds without a whole query, or with an unread reply, after which a TCP connection is closed (RFC 7766 §6.2.3)."""

Deliver = Callable[[bytes], None]
Spawn = Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


class Resolver:
    """Answers on `udp` and `tcp`, which are bound and become its own: `stop` closes them.

    `upstreams` are (address, port) in order of preference; without any, names outside the zone get the rcode `unknown`
    at once. `most` are the bytes of a UDP reply.
    `upstream_timeout` and `idle_timeout` are in seconds. Raises ValueError for an upstream address that is none.
    """

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        zone: Zone,
        upstreams: Sequence[Upstream],
        *,
        unknown: int = SERVFAIL,
        most: int = UDP_MAXIMUM,
        upstream_timeout: float = UPSTREAM_TIMEOUT,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        for address, _ in upstreams:
            ip_address(address)
        self._udp = udp
        self._tcp = tcp
        self._zone = zone
        self._upstreams = tuple(upstreams)
        self._unknown, self._most = unknown, most
        self._upstream_timeout = upstream_timeout
        self._idle_timeout = idle_timeout
        self._rng = random.Random()
        self._counts: Counter[str] = Counter()
        self._forwarding = 0
        self._forwards: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to answer in the running loop."""
        self._udp.setblocking(False)
        self._server = await asyncio.start_server(self._serve_client, sock=self._tcp, limit=2 * MAX_QUERY)
        asyncio.get_running_loop().add_reader(self._udp, self._on_datagrams)

    async def stop(self) -> None:
        """Stops answering, gives up what is under way, and closes both sockets; stopping twice does no harm."""
        if self._udp.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._udp)
        if self._server:
            self._server.close()
        self._tcp.close()
        pending = [*self._clients, *self._forwards]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._udp.close()

    def set_zone(self, zone: Zone) -> None:
        """Answers from `zone` from now on."""
        self._zone = zone

    def statistics(self) -> dict[str, int]:
        """Counters since the start and two gauges (`forwarding`, `clients`).

        `queries_udp`, `queries_tcp`; replies by rcode (`reply_noerror`, ...); `forwarded`, and what became of it
        (`upstream_...`); queries without an answer or with a FORMERR by fault (`malformed_...`); `clients_refused` and
        `clients_lost`; `unsent` replies.
        """
        return {**self._counts, "forwarding": self._forwarding, "clients": len(self._clients)}

    def _on_datagrams(self) -> None:
        for _ in range(BATCH):
            try:
                # One byte more than a query may have shows that it had more.
                message, client = self._udp.recvfrom(MAX_QUERY + 1)
            except OSError:
                return
            self._handle(message, "udp", partial(self._send_datagram, client), self._spawn)

    def _send_datagram(self, client: tuple[str, int], data: bytes) -> None:
        try:
            self._udp.sendto(data, client)
        except OSError:
            self._counts["unsent"] += 1

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)
        return task

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        stopped = self._udp.fileno() < 0  # it was accepted before, and nobody would end it
        if task is None or stopped or len(self._clients) >= MAX_CLIENTS:
            self._counts["clients_refused"] += 1
            writer.close()
            return
        self._clients.add(task)
        try:
            # Leaving the group waits for answers that are still to come from upstream.
            async with asyncio.TaskGroup() as group:
                await self._serve_queries(reader, writer, group)
            writer.close()
            async with asyncio.timeout(self._idle_timeout):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            self._counts["clients_lost"] += 1
        finally:
            writer.transport.abort()
            self._clients.discard(task)

    async def _serve_queries(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: asyncio.TaskGroup
    ) -> None:
        """Takes queries until the client ends, idles or misbehaves. Those that go upstream are answered when they can
        be, out of order (RFC 7766 §6.2.1.1)."""

        def deliver(data: bytes) -> None:
            writer.write(LENGTH.pack(len(data)) + data)

        try:
            while True:
                async with asyncio.timeout(self._idle_timeout):
                    await writer.drain()
                    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                    # What is too long is not read at all; the parser sees only that it is.
                    message = await reader.readexactly(length) if length <= MAX_QUERY else bytes(MAX_QUERY + 1)
                if not self._handle(message, "tcp", deliver, group.create_task):
                    return
        except (OSError, EOFError, TimeoutError):
            return

    def _handle(self, message: bytes, transport: Transport, deliver: Deliver, spawn: Spawn) -> bool:
        """Sees to one message: now, or by a task of `spawn`. False when it was dropped."""
        counts = self._counts
        counts[f"queries_{transport}"] += 1
        result = answer(message, self._zone, transport, self._rng, self._most)
        if isinstance(result, Drop):
            counts[f"malformed_{result.reason}"] += 1
            return False
        if isinstance(result, Forward):
            self._forward(result.query, transport, deliver, spawn)
            return True
        if result.reason:
            counts[f"malformed_{result.reason}"] += 1
        counts[f"reply_{result.outcome}"] += 1
        deliver(result.data)
        return True

    def _forward(self, query: Query, transport: Transport, deliver: Deliver, spawn: Spawn) -> None:
        if not self._upstreams:
            self._counts[f"reply_{OUTCOMES[self._unknown]}"] += 1
            deliver(failure(query, self._unknown))
        elif self._forwarding >= MAX_FORWARDS:
            self._counts["reply_refused"] += 1
            deliver(failure(query, REFUSED))
        else:
            self._counts["forwarded"] += 1
            self._forwarding += 1
            spawn(self._ask_upstream(query, transport, deliver)).add_done_callback(self._on_forwarded)

    def _on_forwarded(self, task: "asyncio.Task[None]") -> None:
        self._forwarding -= 1

    async def _ask_upstream(self, query: Query, transport: Transport, deliver: Deliver) -> None:
        data = await ask(query, transport, self._upstreams, self._upstream_timeout, self._counts)
        if data is None:
            self._counts["reply_servfail"] += 1
            data = failure(query, SERVFAIL)
        elif len(data) > reply_limit(query, transport):
            data = truncated(query)
        deliver(data)
