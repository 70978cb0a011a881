"""The cgroup2 groups of a lab: where its processes live, and how all of them are ended at once."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import cgroup2_root

ROOT = "meshnet"


def path(lab: str, node: str = "", leaf: str = "") -> Path:
    """The group of a lab, of one of its nodes, or of one leaf of that."""
    if not node:
        return cgroup2_root() / ROOT / lab
    return cgroup2_root() / names.cgroup(lab, node, leaf)


def join(group: Path, pid: int = 0) -> None:
    """Moves a process (0: this one) into a group. FileNotFoundError if there is none: it may have just been ended."""
    (group / "cgroup.procs").write_text(str(pid))


def populated(group: Path) -> bool:
    """Whether any process is in the group or below it; False if there is no such group."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise


def processes(group: Path) -> list[int]:
    """The processes of one group, without those below it."""
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise


def end(group: Path, patience: float = 10.0) -> None:
    """Kills every process of a group (cgroup.kill, Linux 5.14), waits until they are gone, and removes the group.

    Raises MeshnetError if it is still there after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while group.is_dir():
        kill(group)  # each time, since one that was being started may have come in
        if not populated(group):
            remove(group)
            if not group.is_dir():
                return
        if time.monotonic() > deadline:
            raise MeshnetError(f"processes in {group} cannot be killed; they wait in the kernel")
        time.sleep(0.002)


def kill(group: Path) -> bool:
    """Kills every process of a group and of those below it; whether there is such a group."""
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return True


def remove(group: Path) -> None:
    """Removes an empty group and those below it; a group that is in use or gone is left alone."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBUSY):
                raise
