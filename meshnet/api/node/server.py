"""The Engine API of a node on its unix socket, `<run dir>/docker.sock`, mode 0600 in a directory of mode 0700.

Every route exists with and without `/v1.41` before it. A path that begins like one of `SWARM` and has no route of its
own belongs to the manager. What the node itself must answer about its own membership (`/swarm/init`, `/swarm/join`,
`/swarm/leave`) goes into ROUTES, which come first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from aiohttp import web

from meshnet.agent.agent import Agent
from meshnet.api.http import LIMIT, Handler, middleware
from meshnet.api.node import (
    archive,
    attach,
    containers,
    disk,
    events,
    execs,
    forward,
    images,
    logs,
    membership,
    networks,
    starting,
    stats,
    system,
    unserved,
    uploads,
    volumes,
)
from meshnet.api.node.context import NODE, Node
from meshnet.errors import MeshnetError

SOCKET = "docker.sock"
SWARM = ("services", "tasks", "nodes", "swarm", "secrets", "configs")
GRACE = 0.5  # s that requests in progress get when the agent ends
VERSION = r"/v{version:\d+\.\d+}"
Route = tuple[str, str, Handler]

ROUTES: tuple[Route, ...] = (
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/events", events.events),
    ("GET", "/containers/{id}/logs", logs.container_logs),
    ("POST", "/containers/{id}/attach", attach.attach),
    *archive.ROUTES,
    *disk.ROUTES,
    *containers.ROUTES,
    *starting.ROUTES,
    *stats.ROUTES,
    *execs.ROUTES,
    *unserved.ROUTES,
    *images.ROUTES,
    *membership.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
)


def application(node: Node, routes: Iterable[Route] = ROUTES) -> web.Application:
    """The routes of one node."""
    app = web.Application(middlewares=[middleware], client_max_size=LIMIT)
    app[NODE] = node
    _add_routes(app, routes)
    return app


def learn_routes() -> None:
    """Has Python compile the patterns of the routes, which it remembers: forks of this process need not."""
    _add_routes(web.Application(), ROUTES)


def _add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    found = [*routes, *(("*", f"/{name}{rest}", forward.to_manager) for name in SWARM for rest in ("", "/{rest:.*}"))]
    for method, path, handler in found:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, VERSION + path, handler)


class EngineServer:
    """Serves an agent's Engine API until `close()`. Whoever can open the socket is root on this machine."""

    def __init__(self, agent: Agent) -> None:
        self._node = Node(agent)
        # A client that goes away ends what was only done for it; what must not stop in the middle is shielded.
        self._runner = web.AppRunner(
            application(self._node),
            access_log=None,
            shutdown_timeout=GRACE,
            handler_cancellation=True,
            lingering_time=GRACE,
        )
        self._path = agent.run_dir / SOCKET

    async def start(self) -> None:
        """Listens. Raises MeshnetError if the socket cannot be made."""
        await self._runner.setup()
        self._path.unlink(missing_ok=True)  # of an agent that was killed
        uploads.sweep(self._path.parent)
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
        except OSError as error:
            await self._runner.cleanup()
            raise MeshnetError(f"the agent cannot listen on {self._path}: {error}") from error
        finally:
            os.umask(before)

    def statistics(self) -> dict[str, int]:
        """Connections that are open, and pieces of work that go on behind them."""
        server = self._runner.server
        return {"connections": len(server.connections) if server else 0, "work": self._node.busy}

    async def close(self) -> None:
        await self._runner.cleanup()
        await self._node.close()
        self._path.unlink(missing_ok=True)
