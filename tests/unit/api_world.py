"""A manager whose API is served on a socket, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from swarm import SETTINGS, run

from meshnet.api import services
from meshnet.api.client import EngineClient
from meshnet.api.process import ManagerProcess
from meshnet.control.settings import Settings
from meshnet.errors import MeshnetError


class Api:
    """A manager process in the loop, and the blocking client in a thread."""

    def __init__(self, process: ManagerProcess, socket_path: Path) -> None:
        self.process = process
        self.client = EngineClient(socket_path)
        self.socket_path = socket_path

    async def get(self, path: str, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.get(path, **query))

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.post(path, body, **query))

    async def delete(self, path: str, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.delete(path, **query))

    async def raw(self, text: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer

    async def refused(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, str]:
        with pytest.raises(MeshnetError) as refusal:
            await (self.post(path, body, **query) if method == "POST" else getattr(self, method.lower())(path, **query))
        return refusal.value.status, str(refusal.value)


def served(tmp_path: Path, scenario: Callable[[Api], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def inner() -> None:
        path = tmp_path / "manager.sock"
        process = ManagerProcess(tmp_path / "store", "127.0.0.1:0", path, settings)
        await process.start()
        try:
            await scenario(Api(process, path))
        finally:
            await process.stop()
        assert not path.exists()

    run(inner)


def service(name: str, **more: Any) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "app:1"}}, **more}


def published(port: int, mode: str = "ingress", protocol: str = "tcp") -> dict[str, Any]:
    return {"Protocol": protocol, "TargetPort": 80, "PublishedPort": port, "PublishMode": mode}


def template(**more: Any) -> dict[str, Any]:
    return {"ContainerSpec": {"Image": "app:1"}, **more}


def limiting(monkeypatch: pytest.MonkeyPatch, place: Path, controllers: str = "cpu memory pids") -> None:
    """A machine whose cgroup2 tree accounts for these, whatever this one has."""
    tree = place / "cgroup"
    tree.mkdir()
    for name in ("cgroup.controllers", "cgroup.subtree_control"):
        (tree / name).write_text(controllers)
    monkeypatch.setattr(services, "cgroup2_root", lambda: tree)
