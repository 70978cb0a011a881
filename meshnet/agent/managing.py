"""The manager process of a node: what it is told, and how an agent starts and ends it.

It is a process of its own, in a group of its own: it outlives its agent, and is started and stopped with its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from meshnet import names
from meshnet.agent.settings import MANAGER_FILE, ManagerSettings
from meshnet.control.trust.joining import refusal
from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import cgroup2_root

LOG, SOCKET, STORE = "manager.log", "manager.sock", "store"
GROUP, COMMAND = "manager", "mn-manager"
PATIENCE = 15.0  # s that a manager gets to start, or to end
PAUSE = 0.02


async def start(settings: ManagerSettings) -> dict[str, Any]:
    """Starts the manager of this node and waits until it answers; returns what it says of its swarm (GET /swarm).

    Raises MeshnetError with the end of its log if it does not; then nothing of it is left.
    """
    path, log = settings.save(), Path(settings.run_dir, LOG)
    group = _group(settings.lab, settings.node)
    group.mkdir(parents=True, exist_ok=True)
    process = _spawn(path, log)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            found = await asked(settings.run_dir, "/swarm")
            if found is not None:
                return found
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote no log"]
                raise MeshnetError(f"the manager of this node could not be started: {lines[-1]}", 500)
            await asyncio.sleep(PAUSE)
    except BaseException:
        if process.poll() is None:
            process.kill()
            process.wait()
        forget(settings.run_dir)
        raise


def _spawn(settings: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "meshnet.cli", "manager", "--settings", str(settings)]
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )


async def asked(run_dir: str, path: str) -> dict[str, Any] | None:
    """GET of the manager's own API on this node; None if it does not answer."""
    connector = aiohttp.UnixConnector(str(Path(run_dir, SOCKET)))
    with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
        async with aiohttp.ClientSession(connector=connector) as http, http.get(f"http://manager{path}") as answer:
            found: dict[str, Any] | None = await answer.json() if answer.status == 200 else None
            return found
    return None


async def tell(run_dir: str, path: str, body: Any) -> None:
    """POST to the manager's own API on this node. Raises MeshnetError with its words if it refuses."""
    connector = aiohttp.UnixConnector(str(Path(run_dir, SOCKET)))
    url = f"http://manager{path}"
    async with aiohttp.ClientSession(connector=connector) as http, http.post(url, json=body) as answer:
        if answer.status != 200:
            raise await refusal(answer)


async def stop(lab: str, node: str) -> None:
    """Ends the manager of this node, in order, or by force when it does not follow."""
    deadline = time.monotonic() + PATIENCE
    told = False
    while found := _processes(lab, node):
        late = time.monotonic() > deadline
        for pid in found if late or not told else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told = True
        await asyncio.sleep(PAUSE)


def forget(run_dir: str) -> None:
    """Removes what a manager kept: its swarm is no more."""
    for name in (MANAGER_FILE, SOCKET):
        Path(run_dir, name).unlink(missing_ok=True)
    shutil.rmtree(Path(run_dir, STORE), ignore_errors=True)


def _group(lab: str, node: str) -> Path:
    return cgroup2_root() / names.cgroup(lab, node, GROUP)


def _processes(lab: str, node: str) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for line in (_group(lab, node) / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{line}/comm").read_text().strip() == COMMAND:
                    found.append(int(line))
    return found
