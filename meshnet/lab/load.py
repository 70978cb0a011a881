"""Requests from a host or a task of a lab while something happens to the service: how many were lost, and when."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.lab import enter, tasks
from meshnet.lab.spec import Lab
from meshnet.sandbox.images import PROGRAMS, HostImage

_STARTING = 30.0  # s that the first requests get
_ENDING = 15.0  # s that the last requests get


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: `address` may be a name; `path` with its query; `host` for the header."""

    address: str
    port: int
    path: str
    host: str


def target(url: str) -> Target:
    """A URL taken apart. Raises MeshnetError for one that is not http."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError as error:
        raise MeshnetError(f"{url}: {error}") from None
    plain = all(character.isprintable() and not character.isspace() for character in url)
    if parts.scheme != "http" or not parts.hostname or not plain:
        raise MeshnetError(f"{url}: a URL such as http://172.17.0.2:8080/ is needed")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.hostname, port, path, parts.netloc.rpartition("@")[2])


def during(
    lab: Lab, where: str, asked: Target, work: Callable[[], None], workers: int, pause: float, timeout: float
) -> dict[str, Any]:
    """Asks from `where` while `work` does something; what load.py counted. `pause` and `timeout` in seconds.

    What `work` does begins when the asking has begun, which takes a while on a busy machine.

    Raises MeshnetError if the asking itself ends, NotFoundError for an unknown place, and what `work` raises.
    """
    given = [asked.address, str(asked.port), asked.path, str(workers), f"{pause:g}", f"{timeout:g}", asked.host]
    process = _started(lab, where, given)
    try:
        if _asking(process):
            work()
        said, _ = process.communicate(timeout=timeout + _ENDING)
        found: dict[str, Any] = json.loads(said)
        return found
    except (ValueError, subprocess.TimeoutExpired):
        process.kill()
        raise MeshnetError(f"the requests from {where} ended: {process.communicate()[1].strip()[-200:]}") from None
    except BaseException:
        process.kill()
        process.communicate()
        raise


def _asking(process: subprocess.Popen[str]) -> bool:
    """Waits until requests are sent; whether they are."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _STARTING)
    return bool(readable) and process.stdout.readline() == "asking\n"


def _started(lab: Lab, where: str, given: list[str]) -> subprocess.Popen[str]:
    if lab.host(where) is not None:
        program = [sys.executable, "-I", str(Path(HostImage().programs, "load.py"))]
        words, keep = enter.host_command(lab, where, [*program, *given]), ()
        return netns.run_in(names.node_netns(lab.name, where), lambda: _popen(words, keep))
    task = tasks.find(lab, where)
    enter.check_program(task, f"{PROGRAMS}/load.py")
    words, descriptor = enter.task_process(task, ["/usr/bin/python3", "-I", f"{PROGRAMS}/load.py", *given])
    return _popen(words, (descriptor,))


def _popen(words: list[str], keep: tuple[int, ...]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    # Ctrl-C is for this side, which ends the other: a process group of its own.
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, pass_fds=keep, process_group=0)
