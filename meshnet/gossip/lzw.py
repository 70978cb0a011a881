"""Go's compress/lzw, least significant bits first, 8-bit literals: what memberlist peers may compress with.

Only decoding: compressing costs more than the bytes it saves, so nothing here compresses what it sends.
"""

from __future__ import annotations

from meshnet.gossip.types import WireError

_CLEAR = 256
_END = 257
_FIRST = 258
_MAX_WIDTH = 12


def decode(data: bytes, limit: int) -> bytes:
    """The decompressed bytes. Raises WireError for a broken stream and for more than `limit` bytes."""
    out = bytearray()
    table: list[bytes] = []
    previous = b""
    width, bits, held = 9, 0, 0
    for byte in data:
        bits |= byte << held
        held += 8
        if held < width:
            continue
        code = bits & ((1 << width) - 1)
        bits >>= width
        held -= width
        if code == _CLEAR:
            table, previous, width = [], b"", 9
            continue
        if code == _END:
            return bytes(out)
        entry = _entry(code, table, previous)
        out += entry
        if len(out) > limit:
            raise WireError("oversized")
        if previous and len(table) < (1 << _MAX_WIDTH) - _FIRST:
            table.append(previous + entry[:1])
        previous = entry
        # the decoder lags one entry behind the encoder: the width grows when the entry to come would not fit
        if width < _MAX_WIDTH and len(table) + 1 + _FIRST > (1 << width):
            width += 1
    raise WireError("truncated")


def _entry(code: int, table: list[bytes], previous: bytes) -> bytes:
    if code < _CLEAR:
        return bytes((code,))
    index = code - _FIRST
    if index < len(table):
        return table[index]
    if index == len(table) and previous:
        return previous + previous[:1]
    raise WireError("malformed")
