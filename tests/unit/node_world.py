"""A node's engine over a manager, without kernel and tasks: what its socket answers about itself and the swarm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from api_world import Api
from swarm import SETTINGS, eventually, run

from meshnet.agent.settings import AgentSettings
from meshnet.api.node.server import EngineServer
from meshnet.api.process import ManagerProcess


def fake_agent(directory: Path, role: str, joined: bool = True) -> Any:
    """As much of an agent as system requests need."""
    settings = AgentSettings("lab", "docker-0", "127.0.0.1", str(directory), role=role, managers=("127.0.0.1:2377",))
    manager = SimpleNamespace(node_id="n1" if joined else "")
    containers = SimpleNamespace(image_names=list)
    return SimpleNamespace(
        settings=settings,
        run_dir=directory,
        joined=joined,
        manager=manager,
        containers=containers,
        runners={},
        ended_tasks={},
        standalones={},
    )


def engine(
    directory: Path, scenario: Callable[[Api], Awaitable[None]], role: str = "manager", joined: bool = True
) -> None:
    """Runs `scenario` against the socket of a node; one with the role `manager` has a manager process."""

    async def inner() -> None:
        process = ManagerProcess(directory / "store", "127.0.0.1:0", directory / "manager.sock", SETTINGS)
        server = EngineServer(fake_agent(directory, role, joined))
        if role == "manager":
            await process.start()
        await server.start()
        try:
            await scenario(Api(process, directory / "docker.sock"))
            await eventually(lambda: not server.statistics()["connections"], f"nothing leaks: {server.statistics()}")
            assert server.statistics() == {"connections": 0, "work": 0}, "nothing leaks"
        finally:
            await server.close()
            if role == "manager":
                await process.stop()
        assert not (directory / "docker.sock").exists()

    run(inner)
