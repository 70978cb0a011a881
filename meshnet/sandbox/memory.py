"""Files that a container sees and no disk: a tmpfs in its monitor's mount namespace, gone when the monitor ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnet.kernel import mounts

FOLDER = "files"
ROOM = 1 << 16  # bytes of the tmpfs per file, besides its content


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A file at `target` (absolute, inside). Its content is never shown."""

    target: str
    data: bytes = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


def source(directory: str, index: int) -> str:
    """Where the monitor's namespace has the file with that number, for the runtime to bind it from."""
    return f"{directory}/{FOLDER}/{index}"


def write(directory: str, files: Sequence[MemoryFile]) -> None:
    """Makes the tmpfs below the container's directory and puts the files there. OSError.

    Only for a thread that is in the monitor's own mount namespace.
    """
    place = os.path.join(directory, FOLDER)
    size = sum(len(file.data) + ROOM for file in files)
    mounts.mount("meshnet", place, "tmpfs", mounts.MS_NODEV | mounts.MS_NOSUID, f"size={size},mode=0700")
    for index, file in enumerate(files):
        path = source(directory, index)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.data)
            os.fchown(descriptor, file.uid, file.gid)
            os.fchmod(descriptor, file.mode)
