"""memberlist's messages: one type byte, then a msgpack map (hashicorp/memberlist net.go).

The msgpack flavour is the old one: strings and byte strings are both `raw`, and map keys are the Go field names in
alphabetical order. Reading is tolerant as Go is: any key order, unknown and missing keys; writing is exact.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack

from meshnet.gossip import lzw
from meshnet.gossip.types import Address, WireError

PING, INDIRECT_PING, ACK, SUSPECT, ALIVE, DEAD, PUSH_PULL, COMPOUND, USER, COMPRESS = range(10)
ENCRYPT, NACK, CRC, ERROR = range(10, 14)
LABEL = 244

PROTOCOL = bytes((1, 5, 2))
"""Vsn's first half: understands protocols 1 to 5, speaks 2."""

PACKET_LIMIT = 65536
"""Largest content of one datagram after decompression."""
PART_LIMIT = 1024
"""Most messages in one datagram, however they are nested."""
DEPTH_LIMIT = 4

_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException)


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered with an Ack to `source`, or to where the datagram came from. An empty name means whoever is there."""

    seq: int
    name: str
    source: Address | None = None
    source_name: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Please ping `target` for me; with `nack` also say when it does not answer."""

    seq: int
    target: Address
    name: str
    nack: bool
    source: Address | None = None
    source_name: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a Ping or, relayed, to an IndirectPing."""

    seq: int
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Nack:
    """The target of an IndirectPing did not answer the relay."""

    seq: int


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """A stream's peer could not use what it got."""

    text: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """`accuser` got no answer from `name` at this incarnation."""

    incarnation: int
    name: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Dead:
    """`name` is dead, says `accuser`; said by itself, it has left."""

    incarnation: int
    name: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Alive:
    """`name` is there, at this address, with these metadata."""

    incarnation: int
    name: str
    address: Address
    meta: bytes
    versions: bytes


@dataclass(frozen=True, slots=True)
class User:
    """Bytes of the layer above."""

    body: bytes


Message = Ping | IndirectPing | Ack | Nack | ErrorMessage | Suspect | Dead | Alive | User
Fields = dict[bytes, Any]


def unpack_map(data: bytes) -> Fields:
    """The msgpack map that `data` starts with; what follows it is ignored, as Go's decoder does."""
    try:
        value = msgpack.unpackb(data, raw=True)
    except msgpack.exceptions.ExtraData as error:
        value = error.unpacked
    except _UNPACK_ERRORS:
        raise WireError("malformed") from None
    if not isinstance(value, dict):
        raise WireError("malformed")
    return value


def pack_map(fields: dict[str, object]) -> bytes:
    """The fields as go-msgpack writes them: sorted, raw strings."""
    return bytes(msgpack.packb(dict(sorted(fields.items())), use_bin_type=False))


def uint(fields: Fields, key: bytes, bits: int = 32) -> int:
    """An unsigned field, 0 when missing. Raises WireError when it is something else or too large."""
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise WireError("malformed")
    return value


def raw(fields: Fields, key: bytes) -> bytes:
    """A byte string field, empty when missing or nil."""
    value = fields.get(key)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    raise WireError("malformed")


def text(fields: Fields, key: bytes) -> str:
    """A name: UTF-8, at most 255 bytes."""
    value = raw(fields, key)
    if len(value) > 255:
        raise WireError("oversized")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError("malformed") from None


@lru_cache(maxsize=4096)
def pack_ip(address: str) -> bytes:
    """4 or 16 bytes in network order. Raises ValueError for what is not an IP address."""
    return ipaddress.ip_address(address).packed


@lru_cache(maxsize=4096)
def _unpack_ip(data: bytes) -> str:
    address = ipaddress.ip_address(data)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def address(fields: Fields, ip: bytes, port: bytes) -> Address:
    """An address from two fields. Raises WireError when the first is not 4 or 16 bytes."""
    packed = raw(fields, ip)
    if len(packed) not in (4, 16):
        raise WireError("malformed")
    return _unpack_ip(packed), uint(fields, port, 16)


def _source(fields: Fields) -> Address | None:
    return address(fields, b"SourceAddr", b"SourcePort") if raw(fields, b"SourceAddr") else None


def decode_message(data: bytes) -> Message:
    """One message with its type byte. Raises WireError."""
    if not data:
        raise WireError("truncated")
    kind = data[0]
    if kind == USER:
        return User(data[1:])
    if kind not in (PING, INDIRECT_PING, ACK, NACK, ERROR, SUSPECT, DEAD, ALIVE):
        raise WireError("unknown_type")
    fields = unpack_map(data[1:])
    return decode_fields(kind, fields)


def decode_fields(kind: int, fields: Fields) -> Message:
    """The message of this type whose map has been read. Raises WireError."""
    match kind:
        case 0:
            name = text(fields, b"SourceNode")
            return Ping(uint(fields, b"SeqNo"), text(fields, b"Node"), _source(fields), name)
        case 1:
            target = address(fields, b"Target", b"Port")
            nack, name = fields.get(b"Nack") is True, text(fields, b"SourceNode")
            return IndirectPing(uint(fields, b"SeqNo"), target, text(fields, b"Node"), nack, _source(fields), name)
        case 2:
            return Ack(uint(fields, b"SeqNo"), raw(fields, b"Payload") or None)
        case 11:
            return Nack(uint(fields, b"SeqNo"))
        case 13:
            return ErrorMessage(raw(fields, b"Error")[:1024].decode(errors="replace"))
        case 3 | 5:
            name, accuser = text(fields, b"Node"), text(fields, b"From")
            verdict = Suspect if kind == SUSPECT else Dead
            return verdict(uint(fields, b"Incarnation"), _named(name), accuser)
        case 4:
            return decode_alive(fields, b"Node")
    raise WireError("unknown_type")


def decode_alive(fields: Fields, name: bytes) -> Alive:
    """An alive message, or the same fields of a push/pull state, which names its node differently."""
    meta, versions = raw(fields, b"Meta"), raw(fields, b"Vsn")
    if len(meta) > 512 or len(versions) > 255:
        raise WireError("oversized")
    where = address(fields, b"Addr", b"Port")
    return Alive(uint(fields, b"Incarnation"), _named(text(fields, name)), where, meta, versions)


def _named(name: str) -> str:
    if not name:
        raise WireError("malformed")
    return name


def _source_fields(source: Address | None, name: str) -> dict[str, object]:
    if source is None:
        return {}
    return {"SourceAddr": pack_ip(source[0]), "SourcePort": source[1], "SourceNode": name}


def encode_message(message: Message) -> bytes:
    """One message with its type byte."""
    match message:
        case Ping(seq, name, source, source_name):
            body = {"SeqNo": seq, "Node": name, **_source_fields(source, source_name)}
            return _typed(PING, body)
        case IndirectPing(seq, target, name, nack, source, source_name):
            where: dict[str, object] = {"Target": pack_ip(target[0]), "Port": target[1], "Nack": nack}
            return _typed(INDIRECT_PING, {"SeqNo": seq, "Node": name, **where, **_source_fields(source, source_name)})
        case Ack(seq, payload):
            return _typed(ACK, {"SeqNo": seq, "Payload": payload})
        case Nack(seq):
            return _typed(NACK, {"SeqNo": seq})
        case ErrorMessage(reason):
            return _typed(ERROR, {"Error": reason})
        case Suspect(incarnation, name, accuser):
            return _typed(SUSPECT, {"Incarnation": incarnation, "Node": name, "From": accuser})
        case Dead(incarnation, name, accuser):
            return _typed(DEAD, {"Incarnation": incarnation, "Node": name, "From": accuser})
        case Alive(incarnation, name, where_, meta, versions):
            fields: dict[str, object] = {"Incarnation": incarnation, "Node": name, "Addr": pack_ip(where_[0])}
            return _typed(ALIVE, {**fields, "Port": where_[1], "Meta": meta or None, "Vsn": versions})
        case User(content):
            return bytes((USER,)) + content


def _typed(kind: int, fields: dict[str, object]) -> bytes:
    return bytes((kind,)) + pack_map(fields)


def compound(parts: list[bytes]) -> bytes:
    """Up to 255 messages as one: count, their lengths (16 bits, network order), then they."""
    if len(parts) == 1:
        return parts[0]
    lengths = struct.pack(f"!{len(parts)}H", *map(len, parts))
    return bytes((COMPOUND, len(parts))) + lengths + b"".join(parts)


def with_crc(body: bytes) -> bytes:
    """`body` behind its CRC-32 (IEEE, network order)."""
    return struct.pack("!BI", CRC, zlib.crc32(body)) + body


def split_datagram(data: bytes) -> tuple[list[bytes], str | None]:
    """The messages in a decrypted datagram, unwrapped from CRC, compression and compounds.

    Returns also the reason why a rest was dropped, if any: the readable prefix of a truncated compound is used,
    as memberlist does.
    """
    parts: list[bytes] = []
    try:
        _unwrap(data, parts, 0)
    except WireError as error:
        return parts, error.reason
    return parts, None


def _unwrap(data: bytes, parts: list[bytes], depth: int) -> None:
    if not data:
        raise WireError("truncated")
    if depth > DEPTH_LIMIT or len(parts) >= PART_LIMIT:
        raise WireError("oversized")
    match data[0]:
        case 12:
            if len(data) < 5 or zlib.crc32(data[5:]) != int.from_bytes(data[1:5]):
                raise WireError("bad_crc")
            _unwrap(data[5:], parts, depth + 1)
        case 9:
            _unwrap(decompress(unpack_map(data[1:]), PACKET_LIMIT), parts, depth + 1)
        case 7:
            _unwrap_compound(data, parts, depth)
        case _:
            parts.append(data)


def decompress(fields: Fields, limit: int) -> bytes:
    """The content of a compress message. Raises WireError, also for an algorithm other than LZW."""
    if uint(fields, b"Algo") != 0:
        raise WireError("malformed")
    return lzw.decode(raw(fields, b"Buf"), limit)


def _unwrap_compound(data: bytes, parts: list[bytes], depth: int) -> None:
    if len(data) < 2 or len(data) < 2 + 2 * data[1]:
        raise WireError("truncated")
    offset = 2 + 2 * data[1]
    for length in struct.unpack_from(f"!{data[1]}H", data, 2):
        if offset + length > len(data):
            raise WireError("truncated")
        _unwrap(data[offset : offset + length], parts, depth + 1)
        offset += length
