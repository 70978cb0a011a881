"""The manager's port, the part about reports: each node has a WebSocket, and sends a message when it has something.

GET /v1/nodes/{id}/reports    {"Tasks": {id: TaskStatus}, "Leaving", "Trust"} -> {"Heartbeat", "Managers"}

A report is a heartbeat, also an empty one; a node is ready from its first one on. A refusal is {"message", "status"},
and what follows it may still be taken, unless the node is not a member any more: then the connection ends.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from meshnet.codec import from_json
from meshnet.control import operations
from meshnet.control.admission import Admission, Peer, Refused
from meshnet.errors import MeshnetError
from meshnet.model import TaskStatus

if TYPE_CHECKING:
    from meshnet.control.manager import Manager

LIMIT = 4 * 2**20  # bytes of a report
SILENT_PERIODS, SILENT = 3, 20.0  # a connection is ended where nothing was said for so many periods and seconds
FAREWELL = 0.2  # s that a node gets to take leave


class Reports:
    """Takes the reports of one manager's nodes."""

    def __init__(self, manager: Manager, admission: Admission) -> None:
        self._manager = manager
        self._admission = admission
        self._open: set[asyncio.Transport] = set()
        self._taken = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/nodes/{id}/reports", self._converse)]

    def statistics(self) -> dict[str, int]:
        """How many nodes are connected, and how many reports there were."""
        return {"reporting": len(self._open), "reports": self._taken}

    def close(self) -> None:
        """Ends all connections: nodes will find the manager's successor."""
        for transport in self._open:
            transport.abort()

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=FAREWELL, max_msg_size=LIMIT, compress=False)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        self._open.add(transport)
        try:
            await self._listen(request, socket)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._open.discard(transport)
            await socket.close()
        return socket

    async def _listen(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        while True:
            silence = SILENT + SILENT_PERIODS * self._manager.heartbeat
            message = await socket.receive(timeout=silence)
            if message.type is not WSMsgType.TEXT:
                return
            try:
                answer = await self._take(self._admission.peer(request), message.data)
            except MeshnetError as error:
                answer = {"message": str(error), "status": error.status}
                if isinstance(error, Refused):
                    self._admission.refused(request, error)
                    await socket.send_str(json.dumps(answer))
                    return
            await socket.send_str(json.dumps(answer))

    async def _take(self, peer: Peer, text: str) -> dict[str, Any]:
        statuses, trust, leaving = _read(text)
        manager, node_id = self._manager, peer.identity.node
        self._taken += 1
        await manager.keeper.heard(node_id, peer.certificate, trust)
        if leaving:
            await manager.left(node_id)
        else:
            await manager.heard(node_id)
        if statuses:
            await manager.state.write(lambda view: operations.report_tasks(view, node_id, statuses))
        return manager.terms()


def _read(text: str) -> tuple[dict[str, TaskStatus], Any, bool]:
    """The tasks' statuses, what the node says of its trust, and whether it leaves. Raises MeshnetError."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MeshnetError(f"the report is not JSON: {error}") from None
    given = body.get("Tasks") if isinstance(body, dict) else None
    if not isinstance(given, dict):
        raise MeshnetError("Tasks: an object of task statuses by task id is needed")
    statuses = {ident: from_json(TaskStatus, status) for ident, status in given.items()}
    return operations.checked_statuses(statuses, time.time()), body.get("Trust"), body.get("Leaving") is True
