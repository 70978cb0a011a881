"""The running kernel's type information (/sys/kernel/btf/vmlinux): where a member of a structure is.

So a program that is compiled at run time fits this kernel, and no kernel headers are needed.
Format: the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = 0xEB9F
_STRUCT, _UNION, _ENUM = 4, 5, 6
_ALIASES = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
# kind -> bytes after the type's 12, fixed and per element
_EXTRA = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0)}
_EXTRA[19] = (0, 12)


@dataclass(frozen=True, slots=True)
class _Type:
    kind: int
    name: int  # offset in the strings
    count: int
    flagged: bool  # a structure with bit fields: offsets carry sizes
    other: int  # size, or the type meant
    at: int  # where its elements begin


class Btf:
    """Types of a kernel, from the bytes of its BTF. ValueError if they are none."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, head, type_at, type_size, text_at, text_size = struct.unpack_from("<HBBIIIII", data)
        if magic != _MAGIC:
            raise ValueError("not BTF of this machine's byte order")
        self._data = data
        self._strings = data[head + text_at : head + text_at + text_size]
        self._types = [_Type(0, 0, 0, False, 0, 0), *self._read(head + type_at, head + type_at + type_size)]
        self._named = {(one.kind, one.name): one for one in self._types if one.kind in (_STRUCT, _ENUM)}

    def _read(self, at: int, end: int) -> Iterator[_Type]:
        while at < end:
            name, info, other = struct.unpack_from("<III", self._data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            yield _Type(kind, name, count, bool(info >> 31), other, at + 12)
            fixed, each = _EXTRA.get(kind, (0, 0))
            at += 12 + fixed + each * count

    def _find(self, kind: int, name: str) -> _Type:
        needle = b"\0" + name.encode() + b"\0"
        at = self._strings.find(needle)
        found = self._named.get((kind, at + 1)) if at >= 0 else None
        if found is None:
            raise KeyError(name)
        return found

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def offset(self, name: str, path: str) -> int:
        """Bytes from the beginning of a structure to a member, `.` between nested ones; through anonymous unions, too.

        KeyError if this kernel has no such structure or member.
        """
        here, total = self._find(_STRUCT, name), 0
        for word in path.split("."):
            found = self._member(here, word)
            if found is None:
                raise KeyError(f"{name}.{path}")
            bits, here = found
            total += bits
        return total // 8

    def _member(self, here: _Type, name: str) -> tuple[int, _Type] | None:
        for at in range(here.at, here.at + 12 * here.count, 12):
            text, kind, bits = struct.unpack_from("<III", self._data, at)
            bits &= 0xFFFFFF if here.flagged else 0xFFFFFFFF
            inner = self._meant(kind)
            if text and self._text(text) == name:
                return bits, inner
            if not text and inner.kind in (_STRUCT, _UNION):
                found = self._member(inner, name)
                if found is not None:
                    return bits + found[0], found[1]
        return None

    def _meant(self, ident: int) -> _Type:
        found = self._types[ident]
        while found.kind in _ALIASES:
            found = self._types[found.other]
        return found

    def enum(self, name: str) -> dict[int, str]:
        """Values (read as unsigned) and names of an enumeration. KeyError if this kernel has none of that name."""
        found = self._find(_ENUM, name)
        pairs = (struct.unpack_from("<II", self._data, found.at + 8 * index) for index in range(found.count))
        return {value: self._text(text) for text, value in pairs}
