"""The programs that clients have run, or are about to run, inside the node's containers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from meshnet.agent.inventory import Entry
from meshnet.errors import NotFoundError
from meshnet.sandbox.execution import Execution

MOST = 1024  # that are remembered


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """The body of `POST /containers/{id}/exec`."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    privileged: bool = False


@dataclass(slots=True)
class Exec:
    """One of them. `running` is there while it runs."""

    id: str
    entry: Entry
    request: ExecRequest
    started: bool = False
    running: Execution | None = None
    code: int | None = None
    pid: int = 0
    size: tuple[int, int] | None = None


class Execs:
    """Those of one node; the oldest that have ended are forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, Exec] = {}

    def add(self, entry: Entry, request: ExecRequest) -> Exec:
        made = Exec(secrets.token_hex(32), entry, request)
        self._known[made.id] = made
        for ident in [one.id for one in self._known.values() if one.running is None]:
            if len(self._known) <= MOST:
                break
            if ident != made.id:
                del self._known[ident]
        return made

    def find(self, ident: str) -> Exec:
        """NotFoundError in the Engine's words."""
        found = self._known.get(ident)
        if found is None:
            raise NotFoundError(f"No such exec instance: {ident}")
        return found

    @property
    def running(self) -> int:
        return sum(one.running is not None for one in self._known.values())
