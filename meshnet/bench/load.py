"""The clients (modes.c) as a process that is told what to do, line by line."""

from __future__ import annotations

import select
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meshnet.bench.modes import Client
from meshnet.bench.timeline import Request
from meshnet.errors import MeshnetError

_PATIENCE = 15.0  # s after the time that a command should take


@dataclass(slots=True)
class Counted:
    """What one client did in one run: operations and errors in `seconds`, questions to the name server, waits (see
    histogram.py), and what each backend answered. Of a trace also every request."""

    operations: int = 0
    errors: int = 0
    seconds: float = 0.0
    questions: int = 0
    waits: Counter[int] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)


def read(lines: Iterable[str]) -> dict[str, Counted]:
    """Takes in the answer to a command."""
    found: dict[str, Counted] = {}
    for line in lines:
        kind, client, *words = line.split()
        one = found.setdefault(client, Counted())
        if kind == "request":
            one.requests.append(Request(int(words[0]), int(words[1]), words[2], words[3]))
        elif kind == "count":
            one.operations, one.errors, took, one.questions = map(int, words)
            one.seconds = took / 1e9
        elif kind == "wait":
            one.waits.update({int(bucket): int(count) for bucket, count in (word.split(":") for word in words)})
        elif kind == "backend":
            one.backends[words[0]] += int(words[1])
    return found


class Load:
    """The process. Everything raises MeshnetError if it ends or hangs."""

    def __init__(self, process: subprocess.Popen[bytes], clients: Iterable[Client]) -> None:
        self._process = process
        self._rest = b""
        self._deadline = 0.0
        self._tell("".join(f"{client.line}\n" for client in dict.fromkeys(clients)))

    def run(self, seconds: float, clients: Sequence[Client]) -> dict[str, Counted]:
        """Has these clients ask at the same time for so long; by key."""
        self._order("run", seconds, clients)
        return self.answer()

    def trace(self, seconds: float, clients: Sequence[Client]) -> None:
        """Begins to note every request, by clients that know nothing and have nothing open; `answer` has it then."""
        self._order("trace", seconds, clients)

    def answer(self) -> dict[str, Counted]:
        """Waits for the end of what was begun."""
        lines: list[str] = []
        while not lines or lines[-1] != "done":
            lines += self._read()
        return read(lines[:-1])

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def _order(self, what: str, seconds: float, clients: Sequence[Client]) -> None:
        self._deadline = time.monotonic() + seconds + _PATIENCE
        self._tell(f"{what} {round(seconds * 1000)} {' '.join(client.key for client in clients)}\n")

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _read(self) -> list[str]:
        """Whole lines, at least one."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            left = max(0.0, self._deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise MeshnetError("the benchmark's clients hang; what was made is removed")
            piece = self._process.stdout.read(1 << 16)
            if not piece:
                raise self._ended()
            self._rest += piece
        whole, _, self._rest = self._rest.rpartition(b"\n")
        return whole.decode(errors="replace").split("\n")

    def _ended(self) -> MeshnetError:
        self._process.kill()
        said = self._process.communicate()[1].decode(errors="replace").strip()
        return MeshnetError(f"the benchmark's clients stopped: {said or 'no reason given'}")
