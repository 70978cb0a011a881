"""What agents, managers and tasks have written, as it is and as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import daemons, processes, tasks
from meshnet.lab.spec import Lab
from meshnet.sandbox.logs import parse

PAUSE = 0.1


@dataclass(slots=True)
class Source:
    """A log file that is read from where the last look ended. `label` tells its lines from those of others."""

    label: str
    path: Path
    of_task: bool
    _offset: int = field(default=0, init=False)

    def lines(self) -> Iterator[tuple[str, str]]:
        """New whole lines: `stdout` or `stderr`, and the text."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    self._offset = 0  # begun anew at its size limit
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        except PermissionError:
            raise MeshnetError("logs belong to root; run this as root") from None
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        if self.of_task:
            yield from ((line.stream, line.text) for line in parse(whole.splitlines()))
        else:
            yield from (("stdout", line.decode(errors="replace")) for line in whole.splitlines())


def sources(lab: Lab, what: str) -> list[Source]:
    """The logs meant by a node, a task or a service. Raises NotFoundError."""
    if lab.node(what) is not None:
        roles = [daemon.role for node in lab.nodes if node.name == what for daemon in daemons.of_node(lab, node)]
        return [Source(role, processes.log_path(lab.name, what, role), False) for role in roles]
    there = tasks.all_tasks(lab)
    found = [task for task in there if task.service == what]
    if not found:
        try:
            found = [tasks.find(lab, what)]
        except NotFoundError:
            raise NotFoundError(_nothing(lab, what, there)) from None
    return [Source(f"{task.name}@{task.node}", task.log, True) for task in found]


def _nothing(lab: Lab, what: str, there: list[tasks.LabTask]) -> str:
    nodes = ", ".join(node.name for node in lab.nodes)
    services = ", ".join(sorted({task.service for task in there})) or "none"
    return (
        f"the lab {lab.name} has no node {what}, and no task of that name or of a service {what}; nodes are {nodes}; "
        f"services with tasks are {services}; of tasks that have ended: meshnet service logs {what}"
    )


def show(found: Iterable[Source], tail: int | None) -> bool:
    """Prints what is there, the last `tail` lines of each; with several sources, each line begins with its label.

    Returns whether anything is there.
    """
    found, there = list(found), False
    for source in found:
        lines = list(source.lines())
        there |= bool(lines)
        for stream, text in lines if tail is None else lines[max(0, len(lines) - tail) :]:
            _print(source, stream, text, len(found) > 1)
    return there


def follow(found: list[Source], tail: int | None) -> None:
    """Like `show`, and then what comes, until interrupted."""
    show(found, tail)
    while True:
        sys.stdout.flush()
        time.sleep(PAUSE)
        for source in found:
            for stream, text in source.lines():
                _print(source, stream, text, len(found) > 1)


def _print(source: Source, stream: str, text: str, labelled: bool) -> None:
    print(f"{source.label}    | {text}" if labelled else text, file=sys.stderr if stream == "stderr" else sys.stdout)
