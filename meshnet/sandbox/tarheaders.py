"""Archives of strangers: what their headers may take, and what they may claim.

tarfile reads a long name, a table of attributes or the map of a sparse file into memory, however long its header says
that it is, and a few compressed kilobytes can say gigabytes. It also believes lengths: a negative one leads back to a
header that was read before, for ever.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from typing import Any

MOST = 1 << 20  # bytes of one member's headers; of paths and attributes that a kernel takes, none is longer
GLOBAL = 100  # attributes for all that follows; each member gets a copy
BROKEN = (zlib.error, lzma.LZMAError)  # what decompressors say besides OSError and EOFError
_READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedInfo(tarfile.TarInfo):
    """A member whose header is known to be short before it is read."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _READ_WHOLE and self.size > MOST):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class BoundedTar(tarfile.TarFile):
    """Reading raises tarfile.ReadError where a member's headers are too long, or contradict each other.

    `headers` and `data` are bytes so far: of headers, and of what members hold.
    """

    tarinfo = BoundedInfo
    headers = data = 0

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None."""
        source, begin = self.fileobj, self.offset
        header: Any = _Header(source)
        self.fileobj = header
        try:
            member = super().next()
        finally:
            self.fileobj = source
        if member is None or not header.taken:  # the first one is read when the archive is opened, and given later
            return member
        self.headers += header.taken
        if self.offset <= begin:
            raise tarfile.ReadError(f"{member.name[:200]}: a header that leads back")
        if len(self.pax_headers) > GLOBAL or sum(len(each) for each in self.pax_headers.values()) > MOST:
            raise tarfile.ReadError("too many attributes for all members")
        member.pax_headers = {}
        stored = self.offset - member.offset_data
        if member.sparse is not None:
            _check_map(member, stored)
        self.data += stored
        return member


class _Header:
    """An archive's file while one member's headers are read from it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.tell, self.seek = source.tell, source.seek
        self.taken = 0

    def read(self, size: int) -> bytes:
        self.taken += size
        if size < 0 or self.taken > MOST + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {self.taken} bytes")
        return bytes(self._source.read(size))


def pieces(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Where in a file that follows which is held, each as offset and bytes: one piece, unless the file is sparse."""
    found: Any = member.sparse
    return [(0, member.size)] if found is None else found


def _check_map(member: tarfile.TarInfo, stored: int) -> None:
    """The pieces of a sparse file follow one another, within it, and are what the archive holds of it."""
    end = total = 0
    for offset, size in pieces(member):
        if size:
            if size < 0 or offset < end or offset + size > member.size:
                raise tarfile.ReadError(f"{member.name[:200]}: a sparse file whose map is wrong")
            end, total = offset + size, total + size
        elif offset < 0:
            raise tarfile.ReadError(f"{member.name[:200]}: a sparse file whose map is wrong")
    if not total <= stored < total + 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"{member.name[:200]}: a sparse file whose map is wrong")
