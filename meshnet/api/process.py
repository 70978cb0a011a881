"""The manager process of a node: a manager and its Engine API socket, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from meshnet.api.server import ApiServer
from meshnet.control.manager import Manager
from meshnet.control.settings import Settings


class ManagerProcess:
    """`data_dir` holds the store, `listen_address` is host:port for agents, `socket_path` the Engine API.

    Raises MeshnetError if `settings` name no lab.
    """

    def __init__(self, data_dir: Path, listen_address: str, socket_path: Path, settings: Settings) -> None:
        self.manager = Manager(data_dir, listen_address, settings)
        self._api = ApiServer(self.manager, socket_path)

    async def start(self) -> None:
        """Returns when both are served. Raises MeshnetError if one cannot be; then nothing is left running."""
        await self.manager.start()
        try:
            await self._api.start()
        except BaseException:
            await self.manager.stop()
            raise

    async def stop(self) -> None:
        await self._api.stop()
        await self.manager.stop()

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Runs until SIGTERM or SIGINT. `started` is called once both are served."""
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        await self.start()
        try:
            started()
            await end.wait()
        finally:
            await self.stop()
