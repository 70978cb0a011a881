"""The agent's own unix socket, mode 0600 in a directory of mode 0700: what it shows, and how it is told to stop.

`GET /inspect/NAME` answers JSON (lb, dns, members, endpoints, statistics, capabilities); `POST /stop` ends the
tasks and then the agent. Whoever can open the socket is root on this machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from meshnet.agent import inspect
from meshnet.agent.agent import Agent

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves `<run dir>/agent.sock` until `close()`."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(middlewares=[self._once_joined])
        app.router.add_get("/inspect/lb", self._lb)
        for name, view in (
            ("dns", inspect.dns),
            ("members", inspect.members),
            ("endpoints", inspect.endpoints),
            ("statistics", inspect.statistics),
            ("capabilities", inspect.capabilities),
        ):
            app.router.add_get(f"/inspect/{name}", self._handler(view))
        app.router.add_post("/stop", self._stop)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        path = Path(self._agent.settings.run_dir) / "agent.sock"
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(path)).start()
        finally:
            os.umask(mask)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _handler(self, view: Callable[[Agent], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_request: web.Request) -> web.Response:
            return web.json_response(view(self._agent))

        return handle

    @web.middleware
    async def _once_joined(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """503 while the node has no id yet: there is nothing to show, and nothing but itself to stop."""
        if self._agent.joined or request.path == "/stop":
            return await handler(request)
        return web.json_response({"message": "this node has not joined its swarm yet"}, status=503)

    async def _lb(self, _request: web.Request) -> web.Response:
        return web.json_response(await inspect.lb(self._agent))

    async def _stop(self, _request: web.Request) -> web.Response:
        await self._agent.stop_tasks()
        asyncio.get_running_loop().call_soon(self._agent.stop)
        return web.json_response({})
