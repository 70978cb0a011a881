"""What an archive's headers may take. tarfile reads a long name or a table of attributes into memory, however long its
header says that it is, and a few compressed kilobytes can say gigabytes."""

from __future__ import annotations

import tarfile

MOST = 1 << 20  # bytes; of paths and attributes that a kernel takes, none is longer
_READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedInfo(tarfile.TarInfo):
    """To be given to tarfile.open: reading raises tarfile.ReadError at a header that is too long."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _READ_WHOLE and not 0 <= self.size <= MOST:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]
