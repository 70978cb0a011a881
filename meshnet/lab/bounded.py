"""Running a command to its end with all that it prints, within bounds of time and of memory."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

from meshnet.errors import MeshnetError

LIMIT = 16 * 2**20  # bytes of output and errors together
_CHUNK = 65536
_WRITE = 512  # bytes that a pipe which can be written takes at once


class TooMuchError(MeshnetError):
    """A command that printed more than anybody will read. `output` is how that began."""

    def __init__(self, output: bytes) -> None:
        super().__init__(f"it printed more than {LIMIT // 2**20} MiB")
        self.output = output


def run(
    words: Sequence[str],
    timeout: float | None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """The result has the command's exit status, stdout and stderr, as text in any case.

    Raises subprocess.TimeoutExpired after `timeout` seconds, TooMuchError for more than `LIMIT` bytes; then the command
    is killed.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=env, pass_fds=pass_fds) as process:
        output, errors = bytearray(), bytearray()
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            _converse(process, stdin.encode(), (output, errors), deadline)
            process.wait(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        except (TimeoutError, subprocess.TimeoutExpired):
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout or 0.0, bytes(output), bytes(errors)) from None
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, _text(output), _text(errors))


def _text(printed: bytearray) -> str:
    return printed.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _converse(
    process: subprocess.Popen[bytes], question: bytes, into: tuple[bytearray, bytearray], deadline: float | None
) -> None:
    """Writes the question and reads until both pipes have ended. Raises TimeoutError at the deadline, TooMuchError."""
    assert process.stdin is not None
    with selectors.DefaultSelector() as ready:
        for pipe, printed in zip((process.stdout, process.stderr), into, strict=True):
            assert pipe is not None
            ready.register(pipe, selectors.EVENT_READ, printed)
        ready.register(process.stdin, selectors.EVENT_WRITE)
        while ready.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            for key, _ in ready.select(left):
                if key.data is None:
                    question = _written(process.stdin, question)
                    if not question:
                        ready.unregister(key.fileobj)
                        process.stdin.close()
                    continue
                data = os.read(key.fd, _CHUNK)
                if not data:
                    ready.unregister(key.fileobj)
                key.data.extend(data)
                if sum(map(len, into)) > LIMIT:
                    raise TooMuchError(bytes(key.data[:_CHUNK]))


def _written(pipe: IO[bytes], text: bytes) -> bytes:
    """What is left to write; nothing if nobody reads any more."""
    try:
        return text[os.write(pipe.fileno(), text[:_WRITE]) :] if text else b""
    except BrokenPipeError:
        return b""
