"""Fills an empty volume with what the image has at the mount point, as Docker does on a volume's first use.

The image is a stranger's: its links are followed inside its own tree alone. The volume may be another container's at
the same time: what is copied is put together beside the volume and renamed into it, entry by entry, so that nothing
that somebody plants there can lead the copy astray. A copy that was cut short begins again, one that was whole goes on.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading

PART, WHOLE = "_fill.part", "_fill"
LINKS = 40  # followed at most, as the kernel does
_one_at_a_time = threading.Lock()


def fill(volume: str, root: str, target: str) -> bool:
    """Fills the directory `volume` with `target` of the tree `root`, if it is empty and that is a directory.

    Returns whether something was copied. Blocks as long as that takes. Raises OSError.
    """
    beside = os.path.dirname(volume)
    part, whole = os.path.join(beside, PART), os.path.join(beside, WHOLE)
    with _one_at_a_time:
        shutil.rmtree(part, ignore_errors=True)
        if not os.path.isdir(whole):
            source = inside(root, target)
            if source is None or os.listdir(volume):
                return False
            _copy(source, part)
            _alike(source, volume)
            os.rename(part, whole)
        for name in os.listdir(whole):
            os.rename(os.path.join(whole, name), os.path.join(volume, name))
        os.rmdir(whole)
        return True


def inside(root: str, target: str) -> str | None:
    """The directory that `target` is in the tree below `root`, whose links mean what they mean there; None if none."""
    left = [part for part in reversed(target.split("/")) if part not in ("", ".")]
    found: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del found[-1:]
            continue
        path = os.path.join(root, *found, part)
        try:
            link = os.readlink(path)
        except OSError:
            found.append(part)
            continue
        links += 1
        if links > LINKS:
            return None
        if link.startswith("/"):
            found = []
        left += [step for step in reversed(link.split("/")) if step not in ("", ".")]
    path = os.path.join(root, *found)
    return path if os.path.isdir(path) else None


def _copy(source: str, place: str) -> None:
    """Directories, files and links with their owners, modes and times; nothing else that a file system may hold."""
    os.mkdir(place, 0o700)
    made = []
    for directory, names, files in os.walk(source):
        there = os.path.join(place, os.path.relpath(directory, source))
        for name in (*names, *files):
            old, new = os.path.join(directory, name), os.path.join(there, name)
            mode = os.lstat(old).st_mode
            if stat.S_ISLNK(mode):
                os.symlink(os.readlink(old), new)
            elif stat.S_ISDIR(mode):
                os.mkdir(new, 0o700)
                made.append((old, new))
                continue
            elif stat.S_ISREG(mode):
                shutil.copyfile(old, new)
            else:
                continue
            _alike(old, new)
    for old, new in reversed(made):
        _alike(old, new)


def _alike(old: str, new: str) -> None:
    there = os.lstat(old)
    os.chown(new, there.st_uid, there.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(there.st_mode):
        os.chmod(new, stat.S_IMODE(there.st_mode))
    os.utime(new, ns=(there.st_atime_ns, there.st_mtime_ns), follow_symlinks=False)
