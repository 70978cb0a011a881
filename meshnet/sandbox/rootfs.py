"""A task's file system: an overlay that only its own processes see, and that ends with them.

The upper layer is a tmpfs of bounded size, so the image (the machine's own root, or an imported one) is never
written. Both mounts are made in a mount namespace that belongs to the container's monitor and nobody else: when
the monitor exits the kernel drops them, also after a crash of everything, and there is nothing to clean.
That namespace also shows the one thing crun asks for: cgroup2 alone at /sys/fs/cgroup (it refuses to work where
version 1 is mounted beside it).

Copying a mount namespace takes as long as it has mounts, and every task's network namespace is one. So containers that
bind nothing of the machine get copies of one that was made with little in it: it shows what the machine's own shows, as
far as they need it, or is not used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence

from meshnet.errors import MeshnetError
from meshnet.kernel import mounts, netns

CGROUP = "/sys/fs/cgroup"
ROOTFS = "rootfs"
WRITES = "writes"

_LAYERS = 16

# What the monitor and the runtime need besides the task's own paths; every other mount is let go.
_BASE = ("/proc", "/sys", "/dev", "/usr/bin", "/usr/sbin", "/usr/lib", "/bin", "/lib", "/lib64", "/etc")


def _needed(point: str, paths: Iterable[str]) -> bool:
    return any(path == point or path.startswith(point.rstrip("/") + "/") for path in paths)


def unneeded(points: Iterable[str], paths: Iterable[str], trees: Iterable[str]) -> list[str]:
    """The mount points that hold none of `paths` and are not inside one of `trees`, in their order.

    A private namespace is a copy of all mounts of the machine, and a copy keeps what it shows alive: network
    namespaces that were deleted, disks that were unmounted. So it keeps only what it needs.
    """
    paths, trees = list(paths), list(trees)
    return [
        point for point in points if not _needed(point, paths) and not any(_needed(tree, (point,)) for tree in trees)
    ]


def _let_go(paths: tuple[str, ...], trees: tuple[str, ...]) -> None:
    # Thousands where many tasks run, and nothing else needs them: they go first, all at once.
    if unneeded([netns.DIRECTORY], paths, trees):
        _detach(netns.DIRECTORY)
    for _ in range(_LAYERS):
        if not sum(_detach(point) for point in unneeded(mounts.mount_points(), paths, trees)):
            return


def _detach(point: str) -> bool:
    """Whether a mount went: not one that went with its parent, nor one that is covered and cannot be named.

    A mount may lie over another one: where /run is shared, each namespace is mounted in /run/netns and below it.
    """
    for layer in range(_LAYERS):
        try:
            mounts.detach(point)
        except OSError:
            return layer > 0
    return True


class _Small:
    """A mount namespace of this process with little in it. It is made when it is first needed, with the mounts that
    this one container needs, which are mostly those that all do."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # a fork that becomes a daemon closes its descriptors

    def forget(self) -> None:
        """Has it made anew."""
        self._lock = threading.Lock()
        self._space: int | None = None

    def enter(self, paths: Sequence[str]) -> bool:
        """Moves the calling thread there, if all of `paths` are the same there as where it is; whether it did."""
        mounts.unshare_root()
        here = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = _identities(paths)
            with self._lock:
                if self._space is None:
                    mounts.unshare_mounts()
                    _let_go((*_BASE, *paths), ())
                    self._space = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            mounts.move(self._space)
            if _identities(paths) == wanted:
                return True
            mounts.move(here)
            return False
        finally:
            os.close(here)


_small = _Small()


def _identities(paths: Iterable[str]) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return found


def enter(
    directory: str,
    lower: str,
    writable: int,
    sources: tuple[str, ...] = (),
    programs: tuple[str, ...] = (),
    layers: tuple[str, ...] = (),
) -> None:
    """Moves the calling thread into a new mount namespace with the task's root file system at `<directory>/rootfs`.

    `lower` is the image's root, `writable` the bound of what the task may write, in bytes; `sources` are paths that
    the container will bind with what is mounted below them, `programs` some that have nothing mounted below, `layers`
    directories that lie over the image's root, the first on top. Only for a thread that ends afterwards; its working
    directory is `directory` then. Raises OSError, or MeshnetError for a path that overlayfs cannot take.
    """
    for path in (lower, *layers):
        if any(character in path for character in ",:\\"):
            raise MeshnetError(f"{path}: overlayfs cannot take a path with a comma, colon or backslash")
    small = not sources and _small.enter((directory, lower, *layers, *programs))
    mounts.unshare_mounts()
    if not small:
        trees = (lower.rstrip("/"), *sources, *layers) if lower != "/" else (*sources, *layers)
        _let_go((*_BASE, directory, lower, *sources, *programs, *layers), trees)
    mounts.mount("cgroup2", CGROUP, "cgroup2", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
    # Relative names, since the task reads these options in its mount table.
    os.chdir(directory)
    mounts.mount("meshnet", WRITES, "tmpfs", mounts.MS_NODEV, f"size={writable},mode=0700")
    upper, work = f"{WRITES}/upper", f"{WRITES}/work"
    os.mkdir(upper, 0o755)
    os.mkdir(work, 0o700)
    # nodev: a task may have CAP_MKNOD, and no device filter stands behind it.
    options = f"lowerdir={':'.join([*_above(layers), lower])},upperdir={upper},workdir={work}"
    mounts.mount("meshnet", ROOTFS, "overlay", mounts.MS_NODEV, options)


def _above(layers: tuple[str, ...]) -> tuple[str, ...]:
    """What to put above the image's root: the layers as a file system of their own, since overlayfs takes no layer
    that is inside another one, and these are inside the machine's root."""
    if not layers:
        return ()
    shown, empty = f"{WRITES}/layers", f"{WRITES}/empty"
    os.mkdir(shown, 0o755)
    os.mkdir(empty, 0o755)
    # Two are the fewest that make an overlay without an upper layer.
    mounts.mount("meshnet", shown, "overlay", mounts.MS_NODEV, f"lowerdir={':'.join([*layers, empty])}")
    return (shown,)
