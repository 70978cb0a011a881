"""A program started inside a running container, with streams that stay open: what `docker exec` needs.

crun starts it and waits for it; with a terminal, crun hands over the master of a pty that it made inside the
container. It runs in a cgroup of its own below the container's, so that all of it can be ended.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError
from meshnet.files import replace_text
from meshnet.sandbox import cgroup, process, runtime
from meshnet.sandbox.spec import ContainerSpec

HANDOVER = 10.0  # s that crun gets to make a terminal
REAPED = 1.0  # s that what was killed gets to be gone
NOT_STARTED = 126  # what Docker's clients see for a program that cannot be started


@dataclass(frozen=True, slots=True)
class Program:
    """What to run inside: `env` is added to the container's own, `user` and `workdir` replace its if not empty."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    tty: bool = False
    stdin: bool = False


class Execution:
    """One started program. `stdin`, `stdout` and `stderr` are descriptors, None where there is none; with a terminal
    `stdin` and `stdout` are both its master. Whoever takes a descriptor sets it to None here and closes it."""

    def __init__(self, group: str, files: tuple[str, ...], child: subprocess.Popen[bytes]) -> None:
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.stderr: int | None = None
        self.terminal: int | None = None
        self._group, self._files, self._child = group, files, child
        self._pidfd = os.pidfd_open(child.pid)
        self.code: int | None = None
        self.error = ""
        self.left: Callable[[str], None] | None = None  # hears of a group that could not be removed yet

    @property
    def pid(self) -> int:
        """The program's pid as the machine numbers it; 0 before it was started, and if it never was."""
        try:
            return int(Path(self._files[1]).read_text())
        except (OSError, ValueError):
            return 0

    async def started(self) -> bool:
        """Waits until the program runs, or could not be started: then False, and what came on stderr is crun's own."""
        while not self.pid and self.code is None:  # noqa: ASYNC110 nobody tells when crun writes its file
            await asyncio.sleep(0.002)
        return self.pid != 0

    async def wait(self) -> int:
        """The exit code, once the program has ended; `error` says why if it could not be started."""
        if self.code is None:
            await process.readable(self._pidfd)
            code = self._child.wait()
            if not self.pid:
                self.error = _why(self._files[2])
                code = NOT_STARTED
            self.code = 128 - code if code < 0 else code
        return self.code

    def resize(self, height: int, width: int) -> None:
        """Sets the size of the terminal, in characters; nothing without a terminal."""
        if self.terminal is not None and self.code is None:
            size = array.array("H", [height, width, 0, 0])
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, size)

    def kill(self) -> None:
        """Ends the program and what it has started; crun reaps it and ends by itself."""
        for pid in cgroup.processes(self._group):
            if pid != self._child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kills what is left and lets go of descriptors, files and the group."""
        killed = self.code is None
        if killed:
            self.kill()
            try:
                async with asyncio.timeout(1.0):
                    await self.wait()
            except TimeoutError:
                self._child.kill()
                await self.wait()
        for descriptor in {self.stdin, self.stdout, self.stderr, self.terminal}:
            if descriptor is not None:
                os.close(descriptor)
        self.stdin = self.stdout = self.stderr = self.terminal = None
        os.close(self._pidfd)
        for file in self._files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
        # What it left in the background keeps the group; what was killed only has to be reaped.
        with contextlib.suppress(OSError):
            if killed:
                await cgroup.remove(self._group, REAPED)
            elif not cgroup.try_remove(self._group) and self.left is not None:
                self.left(self._group)


async def launch(spec: ContainerSpec, run: dict[str, Any], group: str, program: Program) -> Execution:
    """Starts an OCI `process` object in the container. MeshnetError if no terminal can be had."""
    name = os.path.basename(group)
    files = tuple(os.path.join(spec.dir, f"{name}{suffix}") for suffix in (".json", ".pid", ".log", ".tty"))
    os.mkdir(group)
    replace_text(files[0], json.dumps({**run, "terminal": program.tty}))
    directory = os.open(spec.dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A socket's name may have 107 bytes: so it is named through a descriptor of its directory.
        console = f"/proc/{os.getpid()}/fd/{directory}/{name}.tty"
        words = runtime.crun(spec.dir, f"--log={files[2]}", "--log-format=json", "exec", f"--pid-file={files[1]}")
        if program.tty:
            return await _with_terminal(spec, group, files, words, console)
        return _with_pipes(spec, group, files, words, program.stdin)
    finally:
        os.close(directory)


def _start(spec: ContainerSpec, group: str, words: list[str], streams: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    command = runtime.joining(spec, group, words)
    stdin, stdout, stderr = streams
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)


def _with_pipes(spec: ContainerSpec, group: str, files: tuple[str, ...], words: list[str], stdin: bool) -> Execution:
    child = _start(
        spec,
        group,
        [*words, f"--process={files[0]}", spec.id],
        (subprocess.PIPE if stdin else subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE),
    )
    found = Execution(group, files, child)
    found.stdin = _taken(child.stdin)
    found.stdout, found.stderr = _taken(child.stdout), _taken(child.stderr)
    return found


def _taken(stream: Any) -> int | None:
    """A descriptor of our own, since Python closes its file with the object."""
    if stream is None:
        return None
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor


async def _with_terminal(
    spec: ContainerSpec, group: str, files: tuple[str, ...], words: list[str], console: str
) -> Execution:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.setblocking(False)
        listening.bind(console)
        listening.listen(1)
        null = subprocess.DEVNULL
        child = _start(
            spec, group, [*words, f"--console-socket={console}", f"--process={files[0]}", spec.id], (null, null, null)
        )
        found = Execution(group, files, child)
        try:
            master = await _handed_over(listening, found)
        except BaseException:
            await asyncio.shield(found.close())
            raise
    if master is not None:
        found.terminal, found.stdin, found.stdout = master, os.dup(master), os.dup(master)
    return found


async def _handed_over(listening: socket.socket, found: Execution) -> int | None:
    """The terminal that crun made; None if the program could not be started.

    The loop's own `sock_accept` (Python 3.11) fails loudly if its waiter is cancelled as a connection arrives.
    """
    ended = asyncio.ensure_future(found.wait())
    arrived = asyncio.ensure_future(process.readable(listening.fileno()))
    descriptors: list[int] = []
    try:
        await asyncio.wait([ended, arrived], timeout=HANDOVER, return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done() and not ended.done():
            raise MeshnetError(f"no terminal after {HANDOVER:g} s", 500)
        if not arrived.done() and not found.pid:
            return None
        with listening.accept()[0] as connection:  # also if the program has ended already: its terminal is in the queue
            connection.setblocking(False)
            await process.readable(connection.fileno())
            _, descriptors, _, _ = socket.recv_fds(connection, 1024, 1)
        return descriptors[0] if descriptors else None
    finally:
        for future in (ended, arrived):
            future.cancel()
        try:
            await asyncio.gather(ended, arrived, return_exceptions=True)
        except asyncio.CancelledError:  # nobody gets what had arrived just before
            for descriptor in descriptors:
                os.close(descriptor)
            raise


def _why(log: str) -> str:
    """crun's reason in the words of Docker's runtime."""
    try:
        lines = Path(log).read_text().splitlines()
        text = str(json.loads(lines[-1])["msg"]) if lines else ""
    except (OSError, ValueError, KeyError):
        text = ""
    begin = "OCI runtime exec failed: exec failed: unable to start container process: "
    return f"{begin}{runtime.in_dockers_words(text) or 'the runtime gave no reason'}: unknown"
