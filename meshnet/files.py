"""Small files: one is written so that whoever reads it, also after a crash, finds the old text or the new one, whole,
and looked at before it is read, since what is no regular file may have no end."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from meshnet.errors import NoSpaceError

PIPE, DEVICE = "a pipe", "a device"
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: PIPE,
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: DEVICE,
    stat.S_IFBLK: DEVICE,
}


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Puts `text` into the file in one step, readable by its owner only.

    NoSpaceError if it does not fit, another OSError for whatever else keeps it from being written; the old text stays.
    """
    fresh = f"{os.fspath(path)}.new"
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    except OSError as error:
        if is_full(error):
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise NoSpaceError(os.path.dirname(fresh)) from None
        raise
    os.replace(fresh, path)


def is_full(error: OSError) -> bool:
    """Whether nothing could be written because the file system is full, or the quota used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def instead_of_file(path: str | os.PathLike[str]) -> str:
    """What is there instead of a regular file, such as "a pipe"; "" for a file, and where nothing can be looked at."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):
        return ""
