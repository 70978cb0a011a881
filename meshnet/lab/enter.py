"""Running a command on a node, on a client, or in a task: this process goes there and becomes the command.

So the exit status, the terminal and the standard streams are the command's own, with nothing in between.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from meshnet import names
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.kernel import libc, netns
from meshnet.lab import bounded, cgroups, packages, state
from meshnet.lab.spec import Lab
from meshnet.lab.tasks import LabTask
from meshnet.sandbox.runtime import INIT_PID

EXEC = "exec"
CHECK = "MESHNET_CHECK"  # in the environment of what a check runs: its group, below that of each host or task it enters
_CHECK = re.compile(r"check-\d+(/check-\d+)*")
_JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class CommandError(MeshnetError):
    """A command that could not be started; `exit_code` is what a shell would answer (126 or 127)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class GoneError(MeshnetError):
    """The lab went down while something was to be run in it."""

    def __init__(self, lab: str) -> None:
        super().__init__(f"the lab {lab} is being taken down, or is down")


def _check_host(lab: Lab, host: str) -> None:
    if lab.host(host) is None:
        have = ", ".join(one.name for one in lab.hosts)
        raise NotFoundError(f"the lab {lab.name} has no node or client {host}; there are {have}")
    if os.geteuid() != 0:
        raise MeshnetError("entering a lab needs root; run it with sudo")


def enter_host(lab: Lab, host: str) -> None:
    """Moves this process into a node's or client's network namespace and into the group of its commands.

    On a node, the group is what makes the node's published ports answer on 127.0.0.1. Prompts say the host's name.
    Raises NotFoundError for an unknown name, MeshnetError without root.
    """
    cgroups.join(_host_group(lab, host))
    netns.enter(names.node_netns(lab.name, host))
    _called(host)
    os.environ.update(_environment(lab))


def _called(host: str) -> None:
    """Gives this thread, and what it starts, a hostname of its own."""
    libc.unshare(libc.CLONE_NEWUTS)
    socket.sethostname(host)


def current_check() -> str:
    """The group of the check that this process is part of, such as `check-71`; "" if it is part of none."""
    said = os.environ.get(CHECK, "")
    return said if _CHECK.fullmatch(said) else ""


def _host_group(lab: Lab, host: str, check: str = "") -> Path:
    """The group of a host's commands, or the one of a check (by default this process's) below it, made if needed.

    None is made of a lab that goes down, or is: it would stay.
    """
    _check_host(lab, host)
    if state.is_leaving(lab.name) or not netns.exists(names.node_netns(lab.name, host)):
        raise GoneError(lab.name)
    group = cgroups.path(lab.name, host, EXEC)
    group.mkdir(parents=True, exist_ok=True)
    return _below(group, check)


def _task_group(task: LabTask, check: str = "") -> Path:
    """The same of a task. NotFoundError if it has ended."""
    try:
        return _below(Path(task.spec.cgroup), check)
    except OSError:
        raise NotFoundError(f"the task {task.name} has ended") from None


def _below(group: Path, check: str) -> Path:
    for part in filter(None, (check or current_check()).split("/")):
        group /= part
        group.mkdir(exist_ok=True)  # without parents: what has been removed stays so
    return group


def _environment(lab: Lab) -> dict[str, str]:
    """What a command on a node or client finds, too: the lab's programs, this meshnet, and which lab it is in."""
    found = {**packages.environment(lab), "MESHNET_LAB": lab.name}
    folder = os.path.dirname(sys.executable)
    if os.path.exists(f"{folder}/meshnet"):
        found["PATH"] = f"{found.get('PATH') or os.environ.get('PATH', os.defpath)}:{folder}"
    return found


def check_program(task: LabTask, program: str) -> None:
    """Raises CommandError if a task has no such program: the runtime's own answer is hard to tell from a program's.
    NotFoundError as `task_command`."""
    path = next((entry[5:] for entry in _process(task).get("env", ()) if entry.startswith("PATH=")), "")
    folders = [""] if program.startswith("/") else path.split(":")
    if "/" in program.lstrip("/") and not program.startswith("/"):
        return  # below its working directory
    try:
        root = Path(f"/proc/{int(Path(task.spec.dir, INIT_PID).read_text())}/root")
    except (OSError, ValueError):
        return
    for folder in folders:
        place = root / folder.strip("/") / program.strip("/")
        # Links that begin at the task's root lead elsewhere from here; what is there is the runtime's to say.
        if os.path.lexists(place) or any(_leads_out(parent) for parent in place.parents if parent != root):
            return
    raise CommandError(f"{program}: no such command in {task.short}", 127)


def _leads_out(path: Path) -> bool:
    return path.is_symlink() and os.readlink(path).startswith("/")


def _process(task: LabTask) -> dict[str, Any]:
    """What the runtime was told of the task's own process."""
    try:
        found: dict[str, Any] = json.loads(Path(task.spec.dir, "config.json").read_text())["process"]
    except FileNotFoundError:
        raise NotFoundError(f"the task {task.name} does not run yet, or has ended") from None
    return found


def task_command(task: LabTask, command: Sequence[str], terminal: bool) -> list[str]:
    """The command line that runs `command` in a task as the task's own user, with its limits and environment.

    It holds an inheritable descriptor of this process: to be started by it, or to be become. Raises NotFoundError
    for a task that is being made, or has just ended.
    """
    process = {**_process(task), "args": list(command), "terminal": terminal}
    descriptor = os.memfd_create("process", 0)
    os.write(descriptor, json.dumps(process).encode())
    file = f"/proc/self/fd/{descriptor}"
    runtime = ["crun", f"--root={task.spec.dir}/runtime", "--cgroup-manager=disabled"]
    return [*runtime, "exec", f"--process={file}", task.spec.id]


def enter_task(task: LabTask) -> None:
    """Moves this process into a task's group, where what it does is balanced like the task's own traffic."""
    try:
        cgroups.join(_task_group(task))
    except OSError:
        raise NotFoundError(f"the task {task.name} has ended") from None


def become(command: list[str]) -> NoReturn:
    """Replaces this process by a command. Raises CommandError if there is no such program."""
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise CommandError(f"{command[0]}: no such command on this machine", 127) from None
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}", 126) from None


def task_process(task: LabTask, command: Sequence[str], check: str = "") -> tuple[list[str], int]:
    """A command line that runs `command` in a task and in its group, or in that of a check below it, and the descriptor
    that it must be given."""
    group = _task_group(task, check)
    words = task_command(task, command, False)
    return ["/bin/sh", "-c", _JOIN, str(group), *words], int(words[-2].rpartition("/")[2])


def run_in_task(
    task: LabTask, command: Sequence[str], timeout: float | None = None, stdin: str = "", check: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a task and waits; the result has its exit status, stdout and stderr, as text in any case.

    `check` is the check's group that it belongs to. Raises NotFoundError for a task that has ended, and what
    `bounded.run` raises.
    """
    words, descriptor = task_process(task, command, check)
    try:
        return bounded.run(words, timeout, stdin, pass_fds=(descriptor,))
    finally:
        os.close(descriptor)


def host_command(lab: Lab, host: str, command: Sequence[str], check: str = "") -> list[str]:
    """A command line that runs `command` in the group of a host's commands, or in that of a check below it; to be
    started in its network namespace."""
    return ["/bin/sh", "-c", _JOIN, str(_host_group(lab, host, check)), *command]


def run_on_host(
    lab: Lab, host: str, command: Sequence[str], timeout: float | None = None, stdin: str = "", check: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command on a node or client and waits; the result has its exit status, stdout and stderr, as text in
    any case.

    `check` is the check's group that it belongs to. Raises NotFoundError for an unknown name, GoneError if the lab went
    down, and what `bounded.run` raises.
    """
    words = host_command(lab, host, command, check)
    env = {**os.environ, **_environment(lab)}
    if check:
        env[CHECK] = check

    def work() -> subprocess.CompletedProcess[str]:
        _called(host)
        return bounded.run(words, timeout, stdin, env)

    space = names.node_netns(lab.name, host)
    try:
        # A process started by a thread begins in that thread's namespaces.
        return netns.run_in(space, work)
    except FileNotFoundError:
        if netns.exists(space):
            raise
        raise GoneError(lab.name) from None
