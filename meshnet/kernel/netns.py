"""Network namespaces with names, as `ip netns` makes them: a bind mount of the namespace under /run/netns.

setns(2) moves one thread. An agent's event loop must never wander, so work inside another namespace is done by a
short-lived thread (about 0.1 ms) that hands back what it opened: a socket stays in the namespace it was opened in.
`ip netns exec` is never used: it costs a process and remounts /sys, which hides bpffs and the cgroup tree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from meshnet.kernel import libc

DIRECTORY = "/run/netns"
_SO_NETNS_COOKIE = 71  # Linux 5.14
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

T = TypeVar("T")


def path(name: str) -> str:
    """Path of the namespace called `name`; what is a path already stays as it is."""
    return name if "/" in name else f"{DIRECTORY}/{name}"


def exists(name: str) -> bool:
    """Whether a namespace is mounted there (a plain file left by a crash in the middle of `create` is none)."""
    try:
        return os.stat(path(name)).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def names(prefix: str = "") -> list[str]:
    """Sorted names under /run/netns that begin with `prefix`, also those that `exists` denies."""
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def open(name: str) -> int:
    """File descriptor of a namespace, by name or path; the caller closes it. Raises FileNotFoundError.

    While one is made or removed a plain file is in its place, which is no namespace.
    """
    fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(fd).st_dev != os.stat("/proc/self/ns/net").st_dev:
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "no network namespace", path(name))
    return fd


def create(name: str) -> None:
    """Makes a namespace with `lo` up. Raises FileExistsError."""
    create_all([name])


def create_all(wanted: Iterable[str]) -> None:
    """Makes several namespaces in one go (one thread). Raises FileExistsError before anything is made."""
    wanted = list(wanted)
    for name in wanted:
        if exists(name):
            raise FileExistsError(errno.EEXIST, f"network namespace {name} exists already")
    _shared_directory()

    def work() -> None:
        for name in wanted:
            os.close(os.open(path(name), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
            try:
                libc.unshare(libc.CLONE_NEWNET)
                libc.mount("/proc/thread-self/ns/net", path(name), "none", libc.MS_BIND)
            except OSError:
                os.unlink(path(name))
                raise
            _loopback_up()

    _in_thread(work)


def delete(name: str) -> bool:
    """Removes a named namespace; the kernel takes it apart once its last process and socket are gone.

    Returns whether there was one.
    """
    with contextlib.suppress(OSError):  # EINVAL: a plain file
        libc.umount(path(name), libc.MNT_DETACH)
    try:
        os.unlink(path(name))
    except FileNotFoundError:
        return False
    return True


def run_in(where: int | str, work: Callable[[], T]) -> T:
    """Calls `work` in a short-lived thread inside a namespace (descriptor, name or path) and returns its result.

    The calling thread does not move. What `work` raises is raised here; FileNotFoundError if there is no such
    namespace.
    """

    def inside() -> T:
        # Opened here: a caller that is interrupted as it waits must not close what this thread is about to enter.
        fd = where if isinstance(where, int) else open(where)
        try:
            libc.setns(fd, libc.CLONE_NEWNET)
        finally:
            if not isinstance(where, int):
                os.close(fd)
        return work()

    return _in_thread(inside)


def visit(wanted: Iterable[str], work: Callable[[int], T]) -> list[T | OSError]:
    """Calls `work` once in each namespace, with its descriptor, all in one thread: for many, cheaper than `run_in`.

    Where a namespace cannot be entered, or `work` raises OSError, the error stands in the place of the result.
    """

    def one(name: str) -> T | OSError:
        try:
            fd = open(name)
            try:
                libc.setns(fd, libc.CLONE_NEWNET)
                return work(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return error

    return _in_thread(lambda: [one(name) for name in wanted])


def run_in_new(work: Callable[[], T]) -> T:
    """Calls `work` in a thread inside a new namespace without a name, which is gone when the thread is."""

    def inside() -> T:
        libc.unshare(libc.CLONE_NEWNET)
        return work()

    return _in_thread(inside)


def run_maybe_in(where: int | str | None, work: Callable[[], T]) -> T:
    """`run_in`, or a plain call when `where` is None: for functions whose default is the caller's namespace."""
    return work() if where is None else run_in(where, work)


def enter(name: str) -> None:
    """Moves the whole process into a namespace: for a freshly forked process that has one thread still.

    Raises RuntimeError when there are more threads, since they would stay behind.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("enter() moves one thread only, and this process has several")
    fd = open(name)
    try:
        libc.setns(fd, libc.CLONE_NEWNET)
    finally:
        os.close(fd)


def socket_in(where: int | str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in another namespace; the caller binds, uses and closes it from anywhere."""
    return run_in(where, lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol))


def cookie(where: int | str | None = None) -> int:
    """The namespace's cookie, as bpf_get_netns_cookie shows it; without an argument that of the calling thread."""
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    with socket.socket(*kind) if where is None else socket_in(where, *kind) as probe:
        value: int = struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
        return value


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("=16sH14x", b"lo", 0)
        flags: int = struct.unpack_from("=H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("=16sH14x", b"lo", flags | _IFF_UP))


def _shared_directory() -> None:
    """Makes /run/netns a shared mount, as iproute2 does, so that a namespace can be deleted from anywhere."""
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    if os.path.ismount(DIRECTORY):
        return
    try:
        libc.mount("", DIRECTORY, "none", libc.MS_SHARED | libc.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: not a mount point yet
            raise
        libc.mount(DIRECTORY, DIRECTORY, "none", libc.MS_BIND | libc.MS_REC)
        libc.mount("", DIRECTORY, "none", libc.MS_SHARED | libc.MS_REC)
