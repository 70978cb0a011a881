"""What the engine wants sent: sealed datagrams, and streams to open. The transport takes it from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshnet.gossip import codec
from meshnet.gossip.security import NONCE, OVERHEAD, Keyring
from meshnet.gossip.settings import Settings
from meshnet.gossip.stream import StreamMessage, encode_stream
from meshnet.gossip.types import Address, Counters

PART_OVERHEAD = 2
"""Bytes that a compound spends per part."""
_FRAME = 2 + 5
"""Compound's own head and the CRC."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """Connect to `address`, write `data`; if `reply`, feed what comes back to `Engine.receive_stream(id, ...)`.

    In the end say `Engine.stream_closed(id, ...)`. All of it within `timeout` seconds.
    """

    id: int
    address: Address
    data: bytes
    reply: bool
    timeout: float


class Outbox:
    """Seals and collects. `urandom(n)` gives n random bytes for nonces."""

    def __init__(self, settings: Settings, urandom: Callable[[int], bytes], counters: Counters) -> None:
        self.keyring = Keyring(settings.keys)
        self.datagrams: list[tuple[bytes, Address]] = []
        self.streams: list[StreamRequest] = []
        self._label = settings.label
        self._timeout = settings.stream_timeout
        self._size = settings.packet_size
        self._urandom = urandom
        self._counters = counters
        self._ids = 0

    @property
    def budget(self) -> int:
        """Bytes that the parts of one datagram may take, each with PART_OVERHEAD."""
        label = 2 + len(self._label) if self._label else 0
        return self._size - _FRAME - label - (OVERHEAD if self.keyring else 0)

    def send(self, targets: Iterable[Address], parts: list[bytes], crc: bool = False) -> None:
        """Queue one datagram with these messages for each target. Sealed once: the content is the same."""
        body = codec.compound(parts)
        if crc:
            body = codec.with_crc(body)
        if self.keyring:
            body = self.keyring.seal(body, self._label, self._urandom(NONCE))
        if self._label:
            body = bytes((codec.LABEL, len(self._label))) + self._label + body
        for target in targets:
            self.datagrams.append((body, target))
            self._counters["datagrams_sent"] += 1
            self._counters["datagram_bytes_sent"] += len(body)

    def encode_stream(self, message: StreamMessage) -> bytes:
        """The bytes of one stream message."""
        return encode_stream(message, self.keyring, self._label, self._urandom(NONCE))

    def next_id(self) -> int:
        """A number for a stream that no other stream has."""
        self._ids += 1
        return self._ids

    def open_stream(self, target: Address, message: StreamMessage, reply: bool) -> int:
        """Queue a stream and return its number."""
        data = self.encode_stream(message)
        number = self.next_id()
        self.streams.append(StreamRequest(number, target, data, reply, self._timeout))
        self._counters["streams_opened"] += 1
        self._counters["stream_bytes_sent"] += len(data)
        return number
