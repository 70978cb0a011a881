"""Processes of containers that are gone a moment before something is done with them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshnet.errors import MeshnetError
from meshnet.sandbox import bundle, cgroup, container, containers, limits, process, runtime
from meshnet.sandbox.container import Container, Processes
from meshnet.sandbox.containers import Containers
from meshnet.sandbox.spec import ContainerSpec


def spec_in(directory: Path) -> ContainerSpec:
    return ContainerSpec("c" * 64, "box", "app", dir=str(directory), cgroup=str(directory / "group"), netns="/dev/null")


def test_a_container_that_ends_before_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first process that is killed before it has joined its group is told in words, as any other fault is."""

    def join(path: str, pid: int) -> None:
        raise ProcessLookupError(3, "No such process")

    gone = subprocess.Popen(["true"])
    gone.wait()

    async def create(*_: object) -> runtime.Started:
        return runtime.Started(gone.pid, gone.pid)

    monkeypatch.setattr(cgroup, "join", join)
    monkeypatch.setattr(runtime, "create", create)
    monkeypatch.setattr(bundle, "config", lambda *_: {})
    monkeypatch.setattr(limits, "apply", lambda *_: None)
    monkeypatch.setattr(containers, "cgroup2_root", lambda: tmp_path)
    image: Any = SimpleNamespace(lower=str(tmp_path), user="")
    made = Containers(SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(MeshnetError, match="ended before it was started"):
        asyncio.run(made._create(spec_in(tmp_path), image, ()))


def test_a_monitor_that_ends_as_it_is_to_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an earlier agent started is reaped by the machine's init: killing it then is no error."""
    monkeypatch.setattr(container, "END_TIMEOUT", 0.0)
    monitor = subprocess.Popen(["sleep", "60"])
    started = process.start_time(monitor.pid)
    assert started is not None

    async def scenario() -> int:
        gone = Processes(monitor.pid, started, monitor.pid, 0)
        watched = Container(spec_in(tmp_path), gone, asyncio.Semaphore())
        whole = watched.wait

        async def wait() -> int:
            monkeypatch.setattr(watched, "wait", whole)
            try:
                return await whole()
            finally:
                monitor.kill()
                monitor.wait()

        monkeypatch.setattr(watched, "wait", wait)
        try:
            async with asyncio.timeout(5):
                return await watched.kill()
        finally:
            watched.release()

    before = len(os.listdir("/proc/self/fd"))
    assert asyncio.run(scenario()) == container.KILLED
    assert len(os.listdir("/proc/self/fd")) == before
