"""Before the manager's port: TLS for whoever connects, and a bound on what those cost who have not said who they are.

A connection counts as a stranger's until its handshake has shown a certificate of the swarm. Strangers are few per
address, so that those of one do not send others away, and few in all. Where they are too many the oldest makes room:
an agent that comes back needs milliseconds, and must not wait for idlers on its own node. A newcomer with a token is
one, too, and has enough time to join.

A member's connections may stay for as long as they like. An agent has a hundred at most; of one that has many more,
since it is broken or somebody else's, the oldest makes room as well.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable

HANDSHAKE = 10.0  # s that a peer gets for its part of TLS
STAY = 30.0  # s that a stranger may stay, whatever it does
PER_ADDRESS = 64
STRANGERS = 256
PER_MEMBER = 256
# Bytes of asyncio's read buffer, which each connection keeps; its own 256 KiB are more than all the rest together.
BUFFER = 32 * 1024


class Gate:
    """Makes protocols for a listening socket. `server` makes those that get the decrypted bytes."""

    def __init__(self, server: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self.server, self.context = server, context
        self._strangers: dict[Arrival, str] = {}  # in the order of their arrival -> address
        self._members: dict[str, dict[Arrival, None]] = {}  # whose -> connections, in the order of their arrival
        self._refused = 0
        sslproto.SSLProtocol.max_size = BUFFER

    def __call__(self) -> asyncio.Protocol:
        return Arrival(self)

    def statistics(self) -> dict[str, int]:
        """How many strangers there are, and how many connections were ended since there were too many."""
        refused = {"refused_crowd": self._refused} if self._refused else {}
        return {"strangers": len(self._strangers), **refused}

    def enter(self, arrival: Arrival, address: str) -> None:
        """Has the oldest stranger leave where there would be too many."""
        there = [known for known, source in self._strangers.items() if source == address]
        crowd = there if len(there) >= PER_ADDRESS else list(self._strangers)
        if len(there) >= PER_ADDRESS or len(crowd) >= STRANGERS:
            self._refused += 1
            crowd[0].abort()
        self._strangers[arrival] = address

    def admit(self, arrival: Arrival, member: str) -> None:
        """It has said who it is; has the oldest connection of that member end where there would be too many."""
        self._strangers.pop(arrival, None)
        there = self._members.get(member, {})
        if len(there) >= PER_MEMBER:
            self._refused += 1
            next(iter(there)).abort()
        self._members.setdefault(member, {})[arrival] = None

    def leave(self, arrival: Arrival, member: str) -> None:
        """It has gone."""
        self._strangers.pop(arrival, None)
        there = self._members.get(member, {})
        there.pop(arrival, None)
        if not there:
            self._members.pop(member, None)

    def close(self) -> None:
        """Ends the strangers' connections."""
        for arrival in list(self._strangers):
            arrival.abort()


class Arrival(asyncio.Protocol):
    """One connection: its handshake, and from then on what passes bytes to the server's protocol."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: asyncio.Transport
        self._handler: asyncio.Protocol | None = None
        self._early: list[bytes] = []  # what came before the handler heard of the connection
        self._end: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._member = ""  # whose it is, as its certificate says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = (transport.get_extra_info("peername") or ("",))[0]
        self._gate.enter(self, str(address))
        transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(STAY, self.abort)
        self._handshake = loop.create_task(self._secure(), name=f"handshake with {address}")

    async def _secure(self) -> None:
        loop, gate = asyncio.get_running_loop(), self._gate
        try:
            secured = await loop.start_tls(
                self._transport, self, gate.context, server_side=True, ssl_handshake_timeout=HANDSHAKE
            )
        except OSError:  # ssl.SSLError is one: why is told by the context's own hook
            self._gone()
            return
        if secured is None or secured.is_closing():
            self._gone()
            return
        self._transport = secured
        if shown := secured.get_extra_info("ssl_object").getpeercert():
            self._member = str(shown["subject"])
            self._stays()
            self._gate.admit(self, self._member)
        self._handler = gate.server()
        self._handler.connection_made(secured)
        for data in self._early:
            self._handler.data_received(data)
        self._early.clear()

    def _gone(self) -> None:
        self._gate.leave(self, self._member)
        self._stays()

    def _stays(self) -> None:
        """Nothing ends it any more."""
        if self._end is not None:
            self._end.cancel()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._gone()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._handler is None:
            self._early.append(data)
        else:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        if self._handler is not None:
            self._handler.connection_lost(exc)
            self._handler = None
