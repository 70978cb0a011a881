"""Probers in a lab: in a task, beside it (its namespace without its cgroup), on a node, on a client."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from meshnet import names
from meshnet.kernel import netns
from meshnet.lab import cgroups
from meshnet.lab.enter import EXEC
from meshnet.lab.tasks import find
from meshnet.testing.labs import LabUnderTest

PROGRAM = Path(__file__).with_name("prober.py")
PATIENCE = 40.0
_JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class ProbeError(Exception):
    """An operation failed with an error of the kernel; its text is the errno's name."""


class Probe:
    """A prober that runs. `call` is one operation of prober.py."""

    def __init__(self, namespace: str, group: Path | None, *arguments: str) -> None:
        words = [sys.executable, "-I", "-S", str(PROGRAM), *arguments]
        if group is not None:
            group.mkdir(parents=True, exist_ok=True)
            words = ["/bin/sh", "-c", _JOIN, str(group), *words]
        self._process = netns.run_in(
            namespace,
            lambda: subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE),
        )

    def call(self, operation: str, /, **arguments: Any) -> Any:
        """Runs one operation and returns its result. Raises ProbeError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([operation, arguments]).encode() + b"\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert readable, f"{operation} {arguments} has no result after {PATIENCE} s"
        line = self._process.stdout.readline()
        assert line, f"the prober ended: {self._process.communicate()[1].decode()}"
        kind, value = json.loads(line)
        if kind == "error":
            raise ProbeError(value)
        return value

    def ask(self, host: str, port: int = 8000, count: int = 1) -> list[tuple[str, str]]:
        """`count` connections: (hostname that answered, client's address it saw) each, or ("", errno's name)."""
        return [(name, seen) for name, seen in self.call("ask", host=host, port=port, count=count)]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def on(lab: LabUnderTest, host: str) -> Probe:
    """A prober on a node or client, like a command of `meshnet lab exec`."""
    return Probe(names.node_netns(lab.name, host), cgroups.path(lab.name, host, EXEC))


def inside(lab: LabUnderTest, task: str) -> Probe:
    """A prober that is one of a task's processes as the network sees it: VIPs are translated at its sockets."""
    found = find(lab.spec, task)
    return Probe(found.spec.netns, Path(found.spec.cgroup))


def beside(lab: LabUnderTest, task: str) -> Probe:
    """A prober in a task's namespace but not in its cgroup: VIPs are translated packet by packet.

    Its client ports are its own. The kernel may give a port that is connected to a VIP to another connection, to one of
    the VIP's backends itself (as those of the task's own sockets are): then the one through the VIP is over.
    """
    return Probe(find(lab.spec, task).spec.netns, None, "own-ports")


@contextmanager
def load(probe: Probe, host: str, port: int = 8000, keep: bool = False, kind: str = "tcp") -> Iterator[dict[str, Any]]:
    """Requests flow while the block runs, each with a socket of its own (or all with one, with `keep`).

    `kind`: `tcp`, `udp`, or `connected` for connected UDP sockets. The dict that is yielded has the outcome after the
    block: `answers` per hostname, `errors`, `slowest` (s, the longest request), `failing` (s from the first error to
    the last), `longest` (s without an answer). Of these times those in which the machine stood still are not counted.
    """
    outcome: dict[str, Any] = {}
    label = f"{host}:{port}:{keep}:{kind}"
    probe.call("start", name=label, host=host, port=port, keep=keep, kind=kind)
    try:
        yield outcome
    finally:
        outcome |= probe.call("stop", name=label)


def looking(probe: Probe, host: str, port: int = 8000, keep: bool = False, kind: str = "tcp") -> dict[str, Any]:
    """`answers` and `errors` so far of a load that runs."""
    found: dict[str, Any] = probe.call("look", name=f"{host}:{port}:{keep}:{kind}")
    return found
