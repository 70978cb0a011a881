"""The Engine API of a manager on a unix socket. Every route exists with and without `/v1.41` before it."""

from __future__ import annotations

import os
from pathlib import Path

from aiohttp import web

from meshnet.agent.events import Events
from meshnet.api import confidential, events, logs, networks, nodes, services, swarm, system
from meshnet.api.http import LIMIT, MANAGER, Handler, middleware
from meshnet.api.listing import ServiceTexts
from meshnet.control.manager import Manager
from meshnet.errors import MeshnetError

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/events", events.events),
    ("GET", "/swarm", swarm.inspect_swarm),
    ("GET", "/swarm/unlockkey", swarm.unlock_key),
    ("POST", "/swarm/update", swarm.update_swarm),
    ("GET", "/nodes", nodes.list_nodes),
    ("GET", "/nodes/{id}", nodes.inspect_node),
    ("POST", "/nodes/{id}/update", nodes.update_node),
    ("DELETE", "/nodes/{id}", nodes.remove_node),
    ("GET", "/services", services.list_services),
    ("POST", "/services/create", services.create_service),
    ("GET", "/services/{id}", services.inspect_service),
    ("POST", "/services/{id}/update", services.update_service),
    ("DELETE", "/services/{id}", services.remove_service),
    ("GET", "/tasks", services.list_tasks),
    ("GET", "/services/{id}/logs", logs.service_logs),
    ("GET", "/tasks/{id}", services.inspect_task),
    ("GET", "/tasks/{id}/logs", logs.task_logs),
    ("GET", "/secrets", confidential.list_secrets),
    ("POST", "/secrets/create", confidential.create_secret),
    ("GET", "/secrets/{id}", confidential.inspect_secret),
    ("POST", "/secrets/{id}/update", confidential.update_secret),
    ("DELETE", "/secrets/{id}", confidential.remove_secret),
    ("GET", "/configs", confidential.list_configs),
    ("POST", "/configs/create", confidential.create_config),
    ("GET", "/configs/{id}", confidential.inspect_config),
    ("POST", "/configs/{id}/update", confidential.update_config),
    ("DELETE", "/configs/{id}", confidential.remove_config),
    ("GET", "/networks", networks.list_networks),
    ("POST", "/networks/create", networks.create_network),
    ("POST", "/networks/prune", networks.prune_networks),
    ("GET", "/networks/{id}", networks.inspect_network),
    ("DELETE", "/networks/{id}", networks.remove_network),
)


def application(manager: Manager) -> web.Application:
    """The routes over one manager."""
    app = web.Application(middlewares=[middleware], client_max_size=LIMIT)
    app[MANAGER] = manager
    app[events.HUB] = Events()
    app[services.TEXTS] = ServiceTexts()
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, r"/v{version:\d+\.\d+}" + path, handler)
    return app


class ApiServer:
    """Serves a manager at `path`, a socket that only its owner can use."""

    def __init__(self, manager: Manager, path: Path) -> None:
        self._manager, app = manager, application(manager)
        self._swarm = events.SwarmEvents(app[events.HUB])
        # A client that goes away ends what is only done for it: following logs and events.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        self._path = path

    async def start(self) -> None:
        """Listens. Raises MeshnetError if the socket cannot be made."""
        self._manager.state.listen(self._swarm.changed)
        await self._runner.setup()
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
        except OSError as error:
            await self._runner.cleanup()
            raise MeshnetError(f"the manager cannot listen on {self._path}: {error}") from error
        finally:
            os.umask(before)

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._path.unlink(missing_ok=True)
