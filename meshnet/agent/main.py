"""Running an agent as a process."""

from __future__ import annotations

import asyncio
import logging
import signal

from meshnet.agent.agent import Agent
from meshnet.agent.server import Server
from meshnet.agent.settings import AgentSettings


def run(settings: AgentSettings) -> None:
    """Blocks until SIGTERM or SIGINT. The caller is in the node's network namespace and cgroup; tasks survive."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(settings))


async def _run(settings: AgentSettings) -> None:
    agent = Agent(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    server = Server(agent)
    await server.start()
    try:
        await agent.run()
    finally:
        await server.close()
