"""Mount namespaces and mounts of the calling thread, by system call: no process is started for a mount.

`unshare` and `setns` of a mount namespace act on one thread. Call them only in a thread made for the purpose that
ends afterwards: a process spawned from that thread lives in its namespace, everything else stays where it was.
"""

from __future__ import annotations

import ctypes
import os

from meshnet.kernel import libc

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def _check(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def unshare_mounts() -> None:
    """Gives the calling thread a mount namespace (and root and working directory) of its own, private both ways."""
    _check(_libc.unshare(CLONE_NEWNS), "mount namespace")
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def move(space: int) -> None:
    """Moves the calling thread into a mount namespace (a descriptor); it must have a root of its own."""
    libc.setns(space, CLONE_NEWNS)


def unshare_root() -> None:
    """Gives the calling thread a root and working directory of its own, so that it alone can chroot."""
    _check(_libc.unshare(CLONE_FS), "root directory")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError with the target as its file name."""
    _check(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()),
        target,
    )


def detach(target: str) -> None:
    """Takes a mount and all below it out of the caller's mount namespace, busy or not (umount2 MNT_DETACH)."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def mount_points() -> list[str]:
    """Mount points of the calling thread's namespace, parents before children, from mountinfo."""
    with open("/proc/thread-self/mountinfo") as table:
        return [_unescape(line.split(" ", 5)[4]) for line in table]


def _unescape(field: str) -> str:
    # The kernel writes space, tab, newline and backslash as three octal digits (seq_path).
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
