"""Running an agent as a process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from meshnet.agent.agent import Agent
from meshnet.agent.server import Server
from meshnet.agent.settings import AgentSettings


class Service(Protocol):
    """Something that is served while the agent runs."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def run(settings: AgentSettings, services: Sequence[Callable[[Agent], Service]] = ()) -> None:
    """Blocks until SIGTERM or SIGINT. The caller is in the node's network namespace and cgroup; tasks survive.

    `services` are started with the agent's own socket, each for this agent, and closed with it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(settings, services))


async def _run(settings: AgentSettings, services: Sequence[Callable[[Agent], Service]]) -> None:
    agent = Agent(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    served: list[Service] = []
    try:
        for make in (Server, *services):
            service = make(agent)
            await service.start()
            served.append(service)
        await agent.run()
    finally:
        for service in reversed(served):
            await service.close()
