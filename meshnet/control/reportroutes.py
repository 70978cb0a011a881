"""The manager's port, the part about reports: each node has a WebSocket, and sends a message when it has something.

GET /v1/nodes/{id}/reports    {"Tasks": {id: TaskStatus}, "Leaving", "Trust"} -> {"Heartbeat", "Managers"}

A report is a heartbeat, also an empty one; a node is ready from its first one on. A refusal is {"message", "status"},
and what follows it may still be taken, unless the node is not a member any more: then the connection ends. Where single
statuses cannot be read the refusal names the first, and the others are taken: a node does not say them again.

A member may be broken, or somebody else's by now. So a connection ends where its node does not take the answers, or
sends anything but reports, a ping as well: answering those would be for as long as it likes. A node has few
connections, of which the oldest makes room; and after an answer it is the others' turn, whatever came meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from meshnet.codec import from_json
from meshnet.control import operations
from meshnet.control.admission import PEER, Admission, Peer, Refused
from meshnet.errors import MeshnetError
from meshnet.model import TaskStatus

if TYPE_CHECKING:
    from meshnet.control.manager import Manager

LIMIT = 4 * 2**20  # bytes of a report
SILENT_PERIODS, SILENT = 3, 20.0  # a connection is ended where nothing was said for so many periods and seconds
PATIENCE = 5.0  # s that a node gets to take an answer
FAREWELL = 0.2  # s that a node gets to take leave
PER_NODE = 4  # connections of a node: one that it does not know to be dead, or an agent that it replaces, is no harm
TASKS = 10_000  # in a report


class Reports:
    """Takes the reports of one manager's nodes."""

    def __init__(self, manager: Manager, admission: Admission) -> None:
        self._manager = manager
        self._admission = admission
        self._open: dict[asyncio.Transport, str] = {}  # in the order of their arrival -> node
        self._taken = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/nodes/{id}/reports", self._converse)]

    def statistics(self) -> dict[str, int]:
        """How many connections of nodes there are, and how many reports there were."""
        return {"reporting": len(self._open), "reports": self._taken}

    def close(self) -> None:
        """Ends all connections: nodes will find the manager's successor."""
        for transport in list(self._open):
            transport.abort()

    def _enter(self, transport: asyncio.Transport, node: str) -> None:
        mine = [known for known, whose in self._open.items() if whose == node]
        for oldest in mine[: max(0, len(mine) + 1 - PER_NODE)]:
            oldest.abort()
        self._open[transport] = node

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=FAREWELL, autoping=False, max_msg_size=LIMIT, compress=False)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        self._enter(transport, request[PEER].identity.node)
        try:
            await self._listen(request, socket)
            async with asyncio.timeout(PATIENCE):
                await socket.close()
        except (ConnectionError, TimeoutError):
            transport.abort()
        finally:
            del self._open[transport]
        return socket

    async def _listen(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        while True:
            silence = SILENT + SILENT_PERIODS * self._manager.heartbeat
            async with asyncio.timeout(silence):  # also over the farewell that `receive` takes itself
                message = await socket.receive()
            if message.type is not WSMsgType.TEXT:
                return
            try:
                answer = await self._take(self._admission.peer(request), message.data)
            except MeshnetError as error:
                answer = {"message": str(error), "status": error.status}
                if isinstance(error, Refused):
                    self._admission.refused(request, error)
                    await _say(socket, answer)
                    return
            await _say(socket, answer)
            await asyncio.sleep(0)

    async def _take(self, peer: Peer, text: str) -> dict[str, Any]:
        statuses, wrong, trust, leaving = _read(text)
        manager, node_id = self._manager, peer.identity.node
        self._taken += 1
        await manager.keeper.heard(node_id, peer.certificate, trust)
        if leaving:
            await manager.left(node_id)
        else:
            await manager.heard(node_id)
        if statuses:
            await manager.state.write(lambda view: operations.report_tasks(view, node_id, statuses))
        if wrong:
            raise wrong[0]
        return manager.terms()


async def _say(socket: web.WebSocketResponse, answer: dict[str, Any]) -> None:
    """Raises TimeoutError if the node does not take it: what nobody reads must not pile up, nor be waited for."""
    async with asyncio.timeout(PATIENCE):
        await socket.send_str(json.dumps(answer))


def _read(text: str) -> tuple[dict[str, TaskStatus], list[MeshnetError], Any, bool]:
    """The tasks' statuses and what is wrong with others, what the node says of its trust, and whether it leaves.

    Raises MeshnetError if that is no report.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MeshnetError(f"the report is not JSON: {error}") from None
    given = body.get("Tasks") if isinstance(body, dict) else None
    if not isinstance(given, dict):
        raise MeshnetError("Tasks: an object of task statuses by task id is needed")
    if len(given) > TASKS:
        raise MeshnetError(f"Tasks: at most {TASKS} are taken in a report")
    statuses, wrong, now = {}, list[MeshnetError](), time.time()
    for ident, status in given.items():
        try:
            statuses[ident] = operations.checked_status(from_json(TaskStatus, status), now)
        except MeshnetError as error:
            wrong.append(MeshnetError(f"Tasks.{ident}: {error}", error.status))
    return statuses, wrong, body.get("Trust"), body.get("Leaving") is True
