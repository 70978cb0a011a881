"""Netlink attributes: length and type (u16 each, host byte order), the value, padding to four bytes (RFC 3549)."""

from __future__ import annotations

import struct

Attributes = dict[int, bytes]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, offset: int = 0) -> Attributes:
    """Type (without flag bits) to value of a row of attributes; stops at one that does not fit."""
    found: Attributes = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
