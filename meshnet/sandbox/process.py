"""Short-lived helper processes, and waiting for any process to end, without a thread or a poll per process.

A pidfd becomes readable when its process ends, whoever its parent is; the event loop watches it like a socket.
asyncio's own subprocesses take a thread each in Python 3.11.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
_HARMLESS = frozenset({signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})


async def readable(descriptor: int) -> None:
    """Returns once the descriptor can be read (a pidfd: once its process has ended)."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (/proc/<pid>/stat field 22); None if it is gone or a zombie.

    With the pid it names a process for good, while a pid alone is used again.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


async def would_drop(pid: int, number: int) -> bool:
    """Whether the kernel drops a deadly signal to this init of a PID namespace, since its action is the default one.

    A blocked signal is kept, for sigwait or signalfd; but a shell blocks all for an instant now and then, so what is
    blocked is looked at again for a tenth of a second. One that waits in sigwait takes the signal too, though /proc
    shows it as not blocked then. False also if the process is gone.
    """
    if number in _HARMLESS or number == signal.SIGKILL:
        return False
    for _ in range(5):
        try:
            with open(f"/proc/{pid}/status") as file:
                rows = dict(line.split(":", 1) for line in file)
        except (FileNotFoundError, ProcessLookupError):
            return False
        bit = 1 << (number - 1)
        if (int(rows["SigCgt"], 16) | int(rows["SigIgn"], 16)) & bit:
            return False
        if not int(rows["SigBlk"], 16) & bit:
            return not _in_sigwait(pid)
        await asyncio.sleep(0.02)
    return False


def _in_sigwait(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/wchan") as file:
            return "sigtimedwait" in file.read()
    except OSError:
        return False


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of the process that has this pid and start time; None if it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time(pid) != started:
        os.close(descriptor)
        return None
    return descriptor


def reap(pidfd: int) -> None:
    """Takes an ended child out of the process table; nothing if it is not our child (a parent died in between)."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def reap_child(pid: int) -> None:
    """Takes an ended child out of the process table, by its pid; nothing if it is no child of ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


async def in_own_thread(function: Callable[[], T]) -> T:
    """Runs a function in a thread that ends with it, for what changes the thread itself (namespaces, root)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return  # nobody waits any more
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there is one where there is no error

    def body() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:  # it belongs to the waiter, whatever it is
            error = raised
        loop.call_soon_threadsafe(finish, result, error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        return await future
    finally:
        # Also when the caller was cancelled: what the thread uses must outlive it.
        thread.join()


class Output:
    """Collects what a pipe carries, up to `limit` bytes; the rest is read and forgotten."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self.data = bytearray()
        self.ended = asyncio.Event()
        self.line = asyncio.Event()  # a whole line is there, or no more will come
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self.read)

    def read(self) -> None:
        """Takes what is there now."""
        while not self.ended.is_set():
            try:
                chunk = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            self.data += chunk[: self._limit - len(self.data)]
            if b"\n" in chunk:
                self.line.set()

    def close(self) -> None:
        """Stops reading; idempotent."""
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self.ended.set()
            self.line.set()


def _end(child: subprocess.Popen[bytes], before_kill: Callable[[int], None] | None) -> None:
    if before_kill is not None:
        before_kill(child.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
    child.kill()
    child.wait()


async def run(
    argv: Sequence[str], *, timeout: float, limit: int = 65536, before_kill: Callable[[int], None] | None = None
) -> tuple[int | None, bytes]:
    """Runs a helper; returns its exit code and what it wrote to stdout and stderr (the first `limit` bytes).

    After `timeout` seconds the helper is killed, and the code is None; `before_kill` gets its pid first and may have
    it end by itself. A helper that ended by a signal has the code 128 + signal. No process is left, also when the
    caller is cancelled.
    """
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)  # noqa: ASYNC220 vfork and exec take a millisecond
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    output = Output(reading, limit)
    pidfd = os.pidfd_open(child.pid)
    timed_out = False
    try:
        async with asyncio.timeout(timeout):
            await readable(pidfd)
    except TimeoutError:
        timed_out = True
    finally:
        if child.poll() is None:
            _end(child, before_kill)
        os.close(pidfd)
        output.read()
        output.close()
    code = child.returncode
    return None if timed_out else (128 - code if code < 0 else code), bytes(output.data)
