"""Starting agents and managers: forked from the process that has their code in memory already.

A fresh Python with all of an agent's imports takes most of a second; a fork takes milliseconds, and its pages are
shared with its siblings. The child gets its own session, its node's network namespace and cgroup, and its log.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.lab import cgroups
from meshnet.lab.interrupts import postponed

LOG_TAIL = 5


@dataclass(frozen=True, slots=True)
class Daemon:
    """One process to start: `role` is `agent` or `manager`; `run` blocks until the process is told to stop."""

    lab: str
    node: str
    role: str
    run: Callable[[], None]

    @property
    def log(self) -> Path:
        return log_path(self.lab, self.node, self.role)


def log_path(lab: str, node: str, role: str) -> Path:
    """Where an agent's or manager's output goes."""
    return Path(names.node_dir(lab, node), f"{role}.log")


def log_tail(lab: str, node: str, role: str, count: int = LOG_TAIL) -> str:
    """The last lines of a log in one line, for an error message."""
    try:
        lines = log_path(lab, node, role).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote no log"
    return " | ".join(line.strip() for line in lines[-count:] if line.strip()) or "its log is empty"


def pids(lab: str, node: str, role: str) -> list[int]:
    """The agent or manager of a node: its process, without what it started in the same group (conmon stays there)."""
    found = []
    for pid in cgroups.processes(cgroups.path(lab, node, role)):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == _comm(role):
                found.append(pid)
    return found


def _comm(role: str) -> str:
    return f"mn-{role}"


def alive(lab: str, node: str, role: str) -> bool:
    """Whether the agent or manager of a node runs."""
    return bool(pids(lab, node, role))


def settle(lab: str, node: str, role: str) -> None:
    """Moves this process, which has one thread, to where an agent or manager of that node belongs, and names it so."""
    cgroups.join(cgroups.path(lab, node, role))
    netns.enter(names.node_netns(lab, node))
    Path("/proc/self/comm").write_text(_comm(role))


def spawn(daemons: list[Daemon]) -> None:
    """Forks every daemon away from this process, which needs to have one thread. Returns once all exist.

    Raises MeshnetError if one could not be put in its place.
    """
    gc.collect()
    gc.freeze()  # what exists now is shared: the collector of a child must not write to it
    try:
        for daemon in daemons:
            with postponed():  # a child that is not in its group yet would not be found again
                _spawn(daemon)
    finally:
        gc.unfreeze()


def _spawn(daemon: Daemon) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Made here and not by the child: one whose lab is taken down meanwhile must not bring a part of it back.
    cgroups.path(daemon.lab, daemon.node, daemon.role).mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setsid()
            if os.fork() == 0:
                _become(daemon, writing)
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    if answer != "ready":
        raise MeshnetError(f"the {daemon.role} of {daemon.node} could not be started: {answer or 'it was killed'}")


def _become(daemon: Daemon, writing: int) -> None:
    """The rest of the daemon's life; never returns."""
    code = 1
    try:
        try:
            _settle(daemon)
        except BaseException as error:
            os.write(writing, str(error).encode()[:500])
            return
        os.write(writing, b"ready")
        os.close(writing)
        _close_from(3)
        daemon.run()
        code = 0
    except MeshnetError as error:
        print(f"meshnet {daemon.role}: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _settle(daemon: Daemon) -> None:
    settle(daemon.lab, daemon.node, daemon.role)
    # Of the parent, a test runner perhaps: its log handlers and its view of warnings.
    logging.root.handlers.clear()
    warnings.simplefilter("default")
    os.chdir("/")
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(daemon.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the process's own
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - the process's own
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - the process's own


def _close_from(first: int) -> None:
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) >= first:
            with contextlib.suppress(OSError):
                os.close(int(entry))
