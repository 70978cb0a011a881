"""meshnet's own messages, which ride in memberlist user messages: deltas, version vectors, what was seen and done.

Layout: magic "MN", version 1, kind, then one msgpack array (current msgpack: str and bin are distinct).
Deltas: [sender, [[owner, epoch, base, head, floor, [[seq, network, kind, key, value or nil, signature] ...]] ...]].
Vector: [sender, answer wanted, [[owner, epoch, head] ...]]. Seen: [sender, [[owner, epoch, head] ...]].
Settled: [sender, [[owner, epoch, head] ...]].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from meshnet.gossip.records import SEQ_LIMIT, TEXT_LIMIT, Delta, Position, decode_value
from meshnet.gossip.types import Record, WireError

MAGIC = b"MN\x01"
_DELTAS, _VECTOR, _SEEN, _SETTLED = 1, 2, 3, 4

_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException)


@dataclass(frozen=True, slots=True)
class Deltas:
    """Changes of one or more logs, from `sender`'s copies of them."""

    sender: str
    deltas: tuple[Delta, ...]


@dataclass(frozen=True, slots=True)
class Vector:
    """How far `sender` is with every live owner's log; with `answer` it wants the receiver's vector if that helps."""

    sender: str
    answer: bool
    positions: dict[str, Position]


@dataclass(frozen=True, slots=True)
class Seen:
    """How far `sender` is with some logs: an acknowledgement, or the word that something is missing before it."""

    sender: str
    positions: dict[str, Position]


@dataclass(frozen=True, slots=True)
class Settled:
    """What some logs say, up to here, is in force at `sender`: its kernel and its name servers have it."""

    sender: str
    positions: dict[str, Position]


SyncMessage = Deltas | Vector | Seen | Settled


def encode_sync(message: SyncMessage) -> bytes:
    """The body of the user message."""
    match message:
        case Deltas(sender, deltas):
            return _packed(_DELTAS, [sender, [_delta_fields(delta) for delta in deltas]])
        case Vector(sender, answer, positions):
            return _packed(_VECTOR, [sender, answer, _position_fields(positions)])
        case Seen(sender, positions):
            return _packed(_SEEN, [sender, _position_fields(positions)])
        case Settled(sender, positions):
            return _packed(_SETTLED, [sender, _position_fields(positions)])


def decode_sync(body: bytes, value_limit: int) -> SyncMessage | None:
    """The message, or None for a user message of somebody else. Raises WireError."""
    if not body.startswith(MAGIC):
        return None
    if len(body) < len(MAGIC) + 1:
        raise WireError("truncated")
    try:
        fields: Any = msgpack.unpackb(body[len(MAGIC) + 1 :])
    except _UNPACK_ERRORS:
        raise WireError("malformed") from None
    try:
        match body[len(MAGIC)]:
            case 1:
                sender, deltas = fields
                decoded = tuple(_decode_delta(delta, value_limit) for delta in deltas)
                return Deltas(_text(sender), decoded)
            case 2:
                sender, answer, positions = fields
                return Vector(_text(sender), answer is True, _decode_positions(positions))
            case 3:
                sender, positions = fields
                return Seen(_text(sender), _decode_positions(positions))
            case 4:
                sender, positions = fields
                return Settled(_text(sender), _decode_positions(positions))
    except (ValueError, TypeError):
        raise WireError("malformed") from None
    raise WireError("unknown_type")


def _packed(kind: int, fields: list[object]) -> bytes:
    return MAGIC + bytes((kind,)) + bytes(msgpack.packb(fields))


def _position_fields(positions: dict[str, Position]) -> list[list[object]]:
    return [[owner, epoch, head] for owner, (epoch, head) in positions.items()]


def _delta_fields(delta: Delta) -> list[object]:
    records = [[r.seq, r.network, r.kind, r.key, r.body, r.signature] for r in delta.records]
    return [delta.owner, delta.epoch, delta.base, delta.head, delta.floor, records]


def _decode_positions(fields: Any) -> dict[str, Position]:
    return {_text(owner): (_number(epoch), _number(head)) for owner, epoch, head in fields}


def _decode_delta(fields: Any, value_limit: int) -> Delta:
    owner, epoch, base, head, floor, records = fields
    delta = Delta(_text(owner), _number(epoch), _number(base), _number(head), _number(floor), ())
    decoded: list[Record] = []
    last = delta.base
    for each in records:
        record = _decode_record(delta, each, value_limit)
        if not last < record.seq <= delta.head:
            raise WireError("malformed")
        last = record.seq
        decoded.append(record)
    if delta.base > delta.head or (delta.base and delta.floor > delta.base):
        raise WireError("malformed")
    return Delta(delta.owner, delta.epoch, delta.base, delta.head, delta.floor, tuple(decoded))


def _decode_record(delta: Delta, fields: Any, value_limit: int) -> Record:
    seq, network, kind, key, body, signature = fields
    if not isinstance(signature, bytes) or len(signature) > 512:
        raise WireError("malformed")
    if body is not None and (not isinstance(body, bytes) or len(body) > value_limit):
        raise WireError("oversized")
    value = None if body is None else decode_value(body)
    where = (_text(network), _text(kind), _text(key))
    return Record(delta.owner, delta.epoch, _number(seq), *where, value, signature, body)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value.encode()) > TEXT_LIMIT:
        raise WireError("malformed")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SEQ_LIMIT:
        raise WireError("malformed")
    return value
