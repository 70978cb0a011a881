"""Writing a small file so that whoever reads it, also after a crash, finds the old text or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import os

from meshnet.errors import NoSpaceError


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
