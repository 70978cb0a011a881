"""Being told that a file changed (inotify(7)), as a descriptor that an event loop can watch."""

from __future__ import annotations

import ctypes
import os

IN_MODIFY, IN_CLOSE_WRITE, IN_CREATE = 0x2, 0x8, 0x100
_libc = ctypes.CDLL(None, use_errno=True)
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


def watch(path: str, mask: int = IN_MODIFY | IN_CLOSE_WRITE) -> int:
    """A non-blocking descriptor that becomes readable when the file or directory changes. OSError if it is not there.

    The caller reads it empty (`drain`) and closes it.
    """
    descriptor = _libc.inotify_init1(_FLAGS)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1", path)
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), mask) < 0:
        error = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(error, os.strerror(error), path)
    return int(descriptor)


def drain(descriptor: int) -> None:
    """Takes what was told so far."""
    try:
        while os.read(descriptor, 65536):
            pass
    except BlockingIOError:
        pass
