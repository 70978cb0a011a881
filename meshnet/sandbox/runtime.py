"""The outside programs: conmon, which stays with the container, and crun, which makes it and is gone.

conmon writes the log and the exit code and outlives the agent: it leaves its parent's session, nothing of the
agent's death reaches it, and its state is files in the container's directory. The agent does what crun would do
with cgroups, so crun is told to leave them alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError, StartError
from meshnet.files import replace_text
from meshnet.sandbox import cgroup, memory, process, rootfs
from meshnet.sandbox.images import Image
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.spec import ContainerSpec

LOG = "log"
EXIT = "exit"
INIT_PID = "init.pid"
STATE = "runtime"
LOG_BYTES = 2 * 1024 * 1024
CREATE_TIMEOUT = 30.0
_FAILURE_BYTES = 65536


@cache
def program(name: str, package: str = "") -> str:
    """The path of a program of a Debian package (of its own name if none is said). MeshnetError if it is missing."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise MeshnetError(f"{name} is not installed; run: apt-get install {package or name}", 500)
    return found


@dataclass(frozen=True, slots=True)
class Started:
    """Processes of a created container."""

    init: int
    conmon: int


def crun(directory: str, *words: str) -> list[str]:
    """The command line of crun for the container of this directory."""
    state = os.path.join(directory, STATE)
    return [program("crun"), f"--root={state}", "--cgroup-manager=disabled", *words]


def _conmon(spec: ContainerSpec) -> list[str]:
    directory = spec.dir
    return [
        program("conmon"),
        "--sync",
        *("--cid", spec.id, "--cuuid", spec.id, "--name", spec.name),
        *("--runtime", program("crun"), "--bundle", directory, "--persist-dir", directory),
        *("--container-pidfile", f"{directory}/{INIT_PID}"),
        *("--exit-dir", f"{directory}/exits", "--full-attach", "--no-sync-log", "--no-new-keyring"),
        *("--log-path", f"k8s-file:{directory}/{LOG}", "--log-size-max", str(LOG_BYTES)),
        *("--runtime-arg", f"--root={directory}/{STATE}", "--runtime-arg", "--cgroup-manager=disabled"),
        *(("--terminal",) if spec.tty else ()),
        *(("--stdin",) if spec.open_stdin else ()),
        *(("--leave-stdin-open",) if spec.open_stdin and not spec.stdin_once else ()),
    ]


def write_files(spec: ContainerSpec) -> None:
    """Makes the container's directory and the small files that are mounted into it."""
    os.makedirs(spec.dir, mode=0o700, exist_ok=True)
    for name in (rootfs.ROOTFS, rootfs.WRITES, memory.FOLDER, "exits"):
        os.makedirs(os.path.join(spec.dir, name), exist_ok=True)
    for name, text in (
        ("resolv.conf", spec.resolv_conf),
        ("hosts", spec.hosts or f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{spec.hostname}\n"),
        ("hostname", spec.hostname + "\n"),
    ):
        path = Path(spec.dir, name)
        path.write_text(text)
        path.chmod(0o644)


async def create(spec: ContainerSpec, image: Image, netns: int, files: Sequence[MemoryFile] = ()) -> Started:
    """Starts conmon, which has crun make the container up to the point where its program would run.

    `netns` is a descriptor of the network namespace: the container's mount namespace has no /run/netns, so
    `config.json` must name it as `/proc/<this process>/fd/<netns>`. Raises StartError with crun's own words.
    """
    reading, writing = os.pipe()
    sources = tuple(mount.source for mount in spec.mounts if mount.type != "tmpfs")
    programs = getattr(image, "programs", "")
    layers: tuple[str, ...] = getattr(image, "layers", ())
    conmon: list[int] = []

    def launch() -> None:
        rootfs.enter(spec.dir, image.lower, image.writable, sources, (programs,) if programs else (), layers)
        if files:
            memory.write(spec.dir, files)
        os.chdir("/")
        conmon.append(_spawn_conmon(spec, writing))

    report = process.Output(reading, _FAILURE_BYTES)
    try:
        try:
            await process.in_own_thread(launch)
        finally:
            os.close(writing)
        async with asyncio.timeout(CREATE_TIMEOUT):
            await report.line.wait()
        return Started(_reported_pid(bytes(report.data)), conmon[0])
    except BaseException as error:
        if conmon:
            await asyncio.shield(_end(conmon[0]))
        if isinstance(error, TimeoutError):
            raise MeshnetError(f"cannot start: no answer for {CREATE_TIMEOUT:g} s", 500) from None
        if isinstance(error, OSError):
            raise MeshnetError(f"cannot start: {error}", 500) from error
        raise
    finally:
        report.close()


def _spawn_conmon(spec: ContainerSpec, report: int) -> int:
    words = _conmon(spec)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        words[0],
        words,
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "_OCI_SYNCPIPE": "3"},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, report, 3),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.path.join(spec.dir, "conmon.log"), flags, 0o600),
        ],
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        setsigmask=(),
    )


async def _end(pid: int) -> None:
    """Kills our own child and takes it out of the process table."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await process.readable(pidfd)
        process.reap(pidfd)
    finally:
        os.close(pidfd)


async def end_creation(ident: str) -> None:
    """Kills what works on the container with this id: conmon, crun, and its init as long as that is still crun.

    They are found by their command lines, since an agent may have died before it knew or wrote down who they are.
    Raises MeshnetError if they do not go away.
    """
    seen: set[int] = set()
    for _ in range(1000):
        pids = _creators(ident)
        if not pids:
            for pid in seen:
                process.reap_child(pid)
            return
        seen.update(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)
    raise MeshnetError(f"container {ident[:12]}: processes {pids} cannot be killed", 500)


def _creators(ident: str) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if os.path.basename(words[0]) in (b"conmon", b"crun") and ident.encode() in words:
                found.append(int(name))
    return found


def _reported_pid(report: bytes) -> int:
    try:
        answer = json.loads(report.splitlines()[-1])
        pid = int(answer.get("data", answer.get("pid", -1)))
    except (ValueError, IndexError, AttributeError):
        raise MeshnetError(f"cannot start: conmon said {report[:200]!r}", 500) from None
    if pid <= 0:
        words = " ".join(str(answer.get("message", "no reason given")).split())
        raise StartError(_why(words))
    return pid


def compiled_seccomp(spec: ContainerSpec) -> bytes:
    """The filter that crun compiled for a created container (an array of sock_filter); b"" if it cannot be found."""
    with contextlib.suppress(OSError):
        program = Path(spec.dir, STATE, spec.id, "seccomp.bpf").read_bytes()
        if len(program) % 8 == 0:
            return program
    return b""


async def start(spec: ContainerSpec) -> None:
    """Lets a created container run its program. Raises StartError with crun's words."""
    code, output = await process.run(crun(spec.dir, "start", spec.id), timeout=CREATE_TIMEOUT)
    if code != 0:
        words = " ".join(output.decode(errors="replace").split())
        raise StartError(_why(words or "crun gave no reason"))


def _why(words: str) -> str:
    """Why a container cannot start. Of a program that cannot be run in the words of Docker's runtime: from these its
    clients make the exit status 126 or 127."""
    told = in_dockers_words(words)
    if told == words:
        return f"cannot start: {words}"
    return f"starting container failed: OCI runtime create failed: unable to start container process: {told}: unknown"


def in_dockers_words(words: str) -> str:
    """crun's reason why a program cannot be run as runc would say it; any other as it is."""
    missing = re.search(r"executable file `(.*)` not found", words)
    if missing is not None:
        name = missing[1]
        return f'exec: "{name}": ' + (
            f"stat {name}: no such file or directory" if "/" in name else "executable file not found in $PATH"
        )
    return "exec: permission denied" if words.startswith("open executable: ") else words


# Joins the group first, so that whatever runs in the container can be killed with it; crun's exec leaves the score.
_JOIN = 'echo 0 > "$0/cgroup.procs" && echo "$1" > /proc/self/oom_score_adj && shift && exec "$@"'


def joining(spec: ContainerSpec, group: str, words: Sequence[str]) -> list[str]:
    """A command that runs in a cgroup, and is as likely to be ended for want of memory as the container."""
    return ["/bin/sh", "-c", _JOIN, group, str(spec.oom_score_adj), *words]


async def execute(
    spec: ContainerSpec, run: dict[str, Any], group: str, timeout: float, limit: int
) -> tuple[int | None, bytes]:
    """Runs an OCI `process` object in the container; returns its exit code (None after `timeout`) and its output.

    It has the container's namespaces, capabilities and seccomp profile, and `group`, a cgroup of its own below the
    container's, made here: all of it is killed at the timeout. The caller removes the group.
    """
    file = os.path.join(spec.dir, f"{os.path.basename(group)}.json")
    os.mkdir(group)
    replace_text(file, json.dumps(run))
    words = crun(spec.dir, "exec", f"--process={file}", spec.id)
    code = None
    try:
        code, output = await process.run(
            joining(spec, group, words),
            timeout=timeout,
            limit=limit,
            before_kill=lambda crun: _kill_others(group, crun),
        )
        return code, output
    finally:
        os.unlink(file)
        if code is None:
            cgroup.kill(group)


def _kill_others(group: str, crun: int) -> None:
    # crun reaps what it started and ends. Killed together they would leave a zombie to the machine's init, and until
    # that has reaped it the container's PID namespace cannot end.
    for pid in cgroup.processes(group):
        if pid != crun:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def exit_code(directory: str) -> int | None:
    """The exit code that conmon left in the container's directory (128 + signal if killed); None if there is none."""
    try:
        return int(Path(directory, EXIT).read_text())
    except (FileNotFoundError, ValueError):
        return None
