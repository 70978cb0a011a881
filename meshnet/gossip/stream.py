"""What travels on a TCP stream: push/pull, ping, user messages, with label, encryption and compression around them.

A stream carries one message each way and its length is not announced (unless encrypted), so the parser is fed
bytes until a message is complete. Sealed: type 10, length (32 bits, network order), blob; those five bytes and
the label are authenticated with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack

from meshnet.gossip import codec
from meshnet.gossip.codec import Ack, Alive, ErrorMessage, Fields, Message, Ping, User
from meshnet.gossip.security import Keyring
from meshnet.gossip.types import State, WireError

NODE_LIMIT = 1 << 20
_STATES: tuple[State, ...] = ("alive", "suspect", "dead", "left")


@dataclass(frozen=True, slots=True)
class NodeState:
    """One member in a push/pull exchange."""

    alive: Alive
    state: State


@dataclass(frozen=True, slots=True)
class PushPull:
    """Everything one member knows of all others, and bytes of the layer above."""

    join: bool
    nodes: tuple[NodeState, ...]
    user: bytes


@dataclass(frozen=True, slots=True)
class Compressed:
    """A complete message that is still compressed. Inflating takes long enough to be done elsewhere."""

    fields: Fields
    limit: int

    def inflate(self) -> bytes:
        """The plaintext. Raises WireError."""
        return codec.decompress(self.fields, self.limit)


StreamMessage = PushPull | Ping | Ack | ErrorMessage | User


def encode_stream(message: StreamMessage, keyring: Keyring, label: bytes, nonce: bytes) -> bytes:
    """The bytes to write for one message."""
    header = bytes((codec.LABEL, len(label))) + label if label else b""
    body = _encode(message)
    if not keyring:
        return header + body
    length = len(body) + 29
    prefix = struct.pack("!BI", codec.ENCRYPT, length)
    return header + prefix + keyring.seal(body, prefix + label, nonce)


def _encode(message: StreamMessage) -> bytes:
    match message:
        case PushPull(join, nodes, user):
            head = codec.pack_map({"Nodes": len(nodes), "UserStateLen": len(user), "Join": join})
            return bytes((codec.PUSH_PULL,)) + head + b"".join(map(_encode_state, nodes)) + user
        case User(body):
            return bytes((codec.USER,)) + codec.pack_map({"UserMsgLen": len(body)}) + body
        case _:
            return codec.encode_message(message)


def _encode_state(node: NodeState) -> bytes:
    alive = node.alive
    where: dict[str, object] = {"Addr": codec.pack_ip(alive.address[0]), "Port": alive.address[1]}
    said: dict[str, object] = {"Incarnation": alive.incarnation, "Meta": alive.meta or None, "Vsn": alive.versions}
    return codec.pack_map({"Name": alive.name, "State": _STATES.index(node.state), **where, **said})


class StreamParser:
    """Reads one message. `feed` bytes as they come; it returns the message once it is complete."""

    def __init__(self, keyring: Keyring, label: bytes, limit: int) -> None:
        self._keyring = keyring
        self._label = label
        self._limit = limit
        self._head: bytearray | None = bytearray()
        self._body = _BodyParser(limit)
        self._total = 0

    def feed(self, data: bytes) -> StreamMessage | Compressed | None:
        """The message, or None while more is needed. Raises WireError; the parser is of no use after it."""
        self._total += len(data)
        if self._total > self._limit + 4096:
            raise WireError("oversized")
        if self._head is None:
            return self._body.feed(data)
        self._head += data
        return self._open()

    def inflated(self, plaintext: bytes) -> StreamMessage:
        """The message in what `Compressed.inflate` gave. Raises WireError."""
        parser = _BodyParser(self._limit)
        message = parser.feed(plaintext)
        if message is None or isinstance(message, Compressed):
            raise WireError("malformed")
        return message

    def _open(self) -> StreamMessage | Compressed | None:
        """Take label and encryption off what has come so far."""
        head = self._head
        if head is None or not head:
            return None
        offset = self._label_end(head)
        if offset is None:
            return None
        if not self._keyring:
            self._head = None
            return self._body.feed(bytes(head[offset:]))
        if len(head) < offset + 5:
            if len(head) > offset and head[offset] != codec.ENCRYPT:
                raise WireError("undecryptable")
            return None
        kind, size = struct.unpack_from("!BI", head, offset)
        if kind != codec.ENCRYPT:
            raise WireError("undecryptable")
        if size > self._limit:
            raise WireError("oversized")
        if len(head) < offset + 5 + size:
            return None
        sealed = bytes(head[offset + 5 : offset + 5 + size])
        plaintext = self._keyring.open(sealed, bytes(head[offset : offset + 5]) + self._label)
        self._head = None
        message = self._body.feed(plaintext)
        if message is None:
            raise WireError("truncated")
        return message

    def _label_end(self, head: bytearray) -> int | None:
        """Where the label header ends, None while it is incomplete. Raises WireError for a foreign label."""
        if head[0] != codec.LABEL:
            if self._label:
                raise WireError("bad_label")
            return 0
        if len(head) < 2 or len(head) < 2 + head[1]:
            return None
        if bytes(head[2 : 2 + head[1]]) != self._label:
            raise WireError("bad_label")
        return 2 + head[1]


class _BodyParser:
    """Reads one plain message, object by object."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kind: int | None = None
        self._unpacker = msgpack.Unpacker(raw=True, max_buffer_size=limit + 8192)
        self._fed = 0
        self._header: Fields | None = None
        self._nodes: list[NodeState] = []

    def feed(self, data: bytes) -> StreamMessage | Compressed | None:
        if self._kind is None:
            if not data:
                return None
            self._kind, data = data[0], data[1:]
        try:
            self._unpacker.feed(data)
        except msgpack.exceptions.BufferFull:
            raise WireError("oversized") from None
        self._fed += len(data)
        if self._header is None:
            self._header = self._map()
            if self._header is None:
                return None
        return self._finish(self._kind, self._header)

    def _map(self) -> Fields | None:
        try:
            value = self._unpacker.unpack()
        except msgpack.exceptions.OutOfData:
            return None
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException):
            raise WireError("malformed") from None
        if not isinstance(value, dict):
            raise WireError("malformed")
        return value

    def _finish(self, kind: int, header: Fields) -> StreamMessage | Compressed | None:
        if kind == codec.PUSH_PULL:
            return self._push_pull(header)
        if kind == codec.USER:
            body = self._bytes(codec.uint(header, b"UserMsgLen"))
            return None if body is None else User(body)
        if kind == codec.COMPRESS:
            return Compressed(header, self._limit)
        message: Message = codec.decode_fields(kind, header)
        if isinstance(message, Ping | Ack | ErrorMessage):
            return message
        raise WireError("unknown_type")

    def _push_pull(self, header: Fields) -> PushPull | None:
        count = codec.uint(header, b"Nodes")
        if count > NODE_LIMIT:
            raise WireError("oversized")
        while len(self._nodes) < count:
            fields = self._map()
            if fields is None:
                return None
            state = codec.uint(fields, b"State")
            if state >= len(_STATES):
                raise WireError("malformed")
            self._nodes.append(NodeState(codec.decode_alive(fields, b"Name"), _STATES[state]))
        user = self._bytes(codec.uint(header, b"UserStateLen"))
        if user is None:
            return None
        return PushPull(header.get(b"Join") is True, tuple(self._nodes), user)

    def _bytes(self, count: int) -> bytes | None:
        """The next `count` raw bytes, None while they have not all come."""
        if count > self._limit:
            raise WireError("oversized")
        if self._fed - int(self._unpacker.tell()) < count:
            return None
        return bytes(self._unpacker.read_bytes(count))
