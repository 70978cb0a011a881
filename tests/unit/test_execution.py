"""Programs that are run inside a container on a terminal: the terminal is handed over, and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from meshnet.sandbox import execution


class Running:
    """A program that goes on."""

    pid = 4711

    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_terminal_that_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    """It is taken, and closed again if the client has gone at just that moment."""
    found: list[int] = []
    real = socket.recv_fds

    def receive(*args: Any) -> Any:
        answer = real(*args)
        found.extend(answer[1])
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.cancel()
        return answer

    async def scenario() -> int | None:
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as crun:
            listening.setblocking(False)
            listening.bind(str(tmp_path / "console"))
            listening.listen(1)
            crun.connect(str(tmp_path / "console"))
            socket.send_fds(crun, [b"/dev/pts/0"], [0])
            return await execution._handed_over(listening, Running())  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "recv_fds", receive)
    with contextlib.suppress(asyncio.CancelledError):
        assert asyncio.run(scenario()) == found[0]
    if cancelled:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(found[0])
    else:
        os.close(found[0])


def test_a_client_that_goes_as_the_terminal_comes(tmp_path: Path) -> None:
    """The loop finds both in one turn: the wait ends, and nothing is logged as an error."""
    errors: list[dict[str, Any]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as crun:
            listening.setblocking(False)
            listening.bind(str(tmp_path / "console"))
            listening.listen(1)
            waiting = asyncio.ensure_future(execution._handed_over(listening, Running()))  # type: ignore[arg-type]
            for _ in range(10):  # turns of the loop, until it waits for the connection
                await asyncio.sleep(0)
            crun.connect(str(tmp_path / "console"))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(scenario())
    assert not errors
