"""A task's cgroup2 group: joined for socket-level balancing, killed as one, removed with all below it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path


def join(path: str, pid: int) -> None:
    """Makes the group if needed and moves a process into it. Raises OSError."""
    os.makedirs(path, exist_ok=True)
    Path(path, "cgroup.procs").write_text(str(pid))


def kill(path: str) -> None:
    """SIGKILL to every process of the group and of those below it (cgroup.kill, Linux 5.14); nothing if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        Path(path, "cgroup.kill").write_text("1")


def freeze(path: str, stop: bool) -> None:
    """Stops every process of the group and of those below it, or lets them go on (cgroup.freeze, Linux 5.2). OSError.

    A frozen process can be killed; other signals wait.
    """
    Path(path, "cgroup.freeze").write_text("1" if stop else "0")


async def frozen_through(path: str, timeout: float) -> None:
    """Waits until the group's processes really stand still, the last of them: the kernel stops them one by one.

    Returns also when the group is gone or let go on meanwhile, and after `timeout` seconds: a process that waits for a
    device stops only then.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while frozen(path) and asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(OSError):
            if "frozen 1" in Path(path, "cgroup.events").read_text().splitlines():
                return
        await asyncio.sleep(0.005)


def frozen(path: str) -> bool:
    """Whether the group was stopped; False if it is gone."""
    try:
        return Path(path, "cgroup.freeze").read_text().strip() == "1"
    except OSError:
        return False


def processes(path: str) -> list[int]:
    """The pids of the group's own processes; none if it is gone."""
    try:
        return [int(line) for line in Path(path, "cgroup.procs").read_text().split()]
    except OSError:
        return []


def try_remove(path: str) -> bool:
    """Removes the group and those below it; False if processes are left there."""
    try:
        with os.scandir(path) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for child in below:
            try_remove(child)
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENODEV):
            raise
        return error.errno == errno.ENODEV
    return True


async def remove(path: str, patience: float = 5.0) -> None:
    """Kills what is in the group and removes it. Waits up to `patience` seconds for the kernel to reap the dead.

    The kernel tells nobody when the last of them is gone, short of a priority poll that asyncio does not have.
    Raises OSError (EBUSY) if a process cannot be killed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not try_remove(path):
        if loop.time() > deadline:
            raise OSError(errno.EBUSY, "processes that cannot be killed are left", path)
        kill(path)
        await asyncio.sleep(0.005)
