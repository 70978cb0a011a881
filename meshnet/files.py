"""Small files, written so that whoever reads one, also after a crash, finds the old text or the new one, whole; and
files and trees of others, which may have no end, or be nested in any way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess

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


def remove_tree(path: str | os.PathLike[str], *, ignore_errors: bool = False) -> None:
    """Removes a directory with all in it. shutil's way down needs a part of Python's stack for each level, of which
    whoever fills a volume can make any number. Raises OSError, unless errors are to be passed over."""
    try:
        shutil.rmtree(path, ignore_errors=ignore_errors)
    except RecursionError:
        done = subprocess.run(["rm", "-rf", "--", path], capture_output=True, text=True, check=False)
        if done.returncode and not ignore_errors:
            raise OSError(errno.ENOTEMPTY, done.stderr.strip()[:200], str(path)) from None
