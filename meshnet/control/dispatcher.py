"""The manager's port for agents: join, the stream of assignments, attachments. HTTP with JSON over mutual TLS.

    POST /v1/nodes/join                            a `Join` -> {"ID", "Heartbeat", "Managers", "Trust"}
    GET  /v1/nodes/{id}/assignments[?watch=1]      newline-delimited JSON (see `assignments`): everything, then changes
    POST /v1/nodes/{id}/attachments                an `Attach` -> {"Task"}: addresses for a container of no service
    DELETE /v1/nodes/{id}/attachments/{task}       lets them go

How a node comes to a certificate, and who may use which route, is in `admission`; reports are in `reportroutes`. A node
that the manager does not know any more is answered 404.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from meshnet.codec import from_json, to_json
from meshnet.control import admission, attachments, logroutes, operations
from meshnet.control.admission import PEER, Admission
from meshnet.control.assignments import Feed, assignments_of, bookmark_line, delta_line, snapshot_line, trust_line
from meshnet.control.attachments import Attach
from meshnet.control.gate import Gate
from meshnet.control.objects import Change, Changes, SealedTrust
from meshnet.control.operations import Join
from meshnet.control.reportroutes import Reports
from meshnet.control.view import View
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.control.manager import Manager

log = logging.getLogger(__name__)
BOOKMARK = 10.0
BATCH = 0.002
READER_TIMEOUT = 20.0
LIMIT = 4 * 2**20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dispatcher:
    """Serves one manager's agents."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._runner: web.AppRunner
        self._server: asyncio.Server
        self._gate: Gate
        self._admission = Admission(manager)
        self._reports = Reports(manager, self._admission)
        self._streams = 0
        self._unreadable = 0
        self._stopping = asyncio.Event()

    def statistics(self) -> dict[str, int]:
        own = {"streams": self._streams, **self._reports.statistics(), "unreadable": self._unreadable}
        return {**own, **self._gate.statistics(), **self._admission.statistics()}

    async def start(self, address: str) -> str:
        """Listens; returns the address with the port that it got. Raises MeshnetError if it cannot."""
        host, _, port = address.rpartition(":")
        app = web.Application(middlewares=[_refusals, self._admission.middleware], client_max_size=LIMIT)
        app.on_response_prepare.append(admission.one_answer)
        app.add_routes(
            [
                *self._admission.routes(),
                *self._reports.routes(),
                *logroutes.routes(self._manager.logs),
                web.post("/v1/nodes/join", self._join),
                web.get("/v1/nodes/{id}/assignments", self._assignments),
                web.post("/v1/nodes/{id}/attachments", self._attach),
                web.delete("/v1/nodes/{id}/attachments/{task}", self._detach),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True, logger=self._logger()
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._gate = Gate(self._runner.server, self._manager.keeper.listener.context)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._gate, host, int(port), reuse_address=True, backlog=128
            )
        except (OSError, ValueError) as error:
            await self._runner.cleanup()
            raise MeshnetError(f"the manager cannot listen on {address}: {error}") from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    def _logger(self) -> logging.Logger:
        """What the HTTP server says, without a traceback per line of garbage that a stranger sends: it is counted."""

        def readable(record: logging.LogRecord) -> bool:
            if not record.exc_info or not isinstance(record.exc_info[1], HttpProcessingError):
                return True
            self._unreadable += 1
            return False

        logger = logging.Logger(f"{__name__}.http")
        logger.parent = log
        logger.addFilter(readable)
        return logger

    async def stop(self) -> None:
        self._stopping.set()
        self._server.close()
        self._gate.close()
        self._reports.close()
        await self._runner.cleanup()

    async def _join(self, request: web.Request) -> web.Response:
        """A member begins to work, and says what it is now."""
        identity = request[PEER].identity
        join = replace(from_json(Join, await read_json(request)), id=identity.node, role=identity.role)
        manager = self._manager

        def decide(view: View) -> Changes:
            self._admission.peer(request)  # a node that was removed as it asked would come back
            return operations.join_node(view, join, manager.ledger(view), manager.new_id, manager.advertise)[0]

        await manager.state.write(decide)
        return web.json_response({"ID": identity.node, "Trust": manager.keeper.told(), **manager.terms()})

    async def _attach(self, request: web.Request) -> web.Response:
        node_id = request[PEER].identity.node
        asked = from_json(Attach, await read_json(request))
        manager = self._manager
        task_id = ""

        def decide(view: View) -> Changes:
            nonlocal task_id
            self._admission.peer(request)  # of a node that was removed as it asked, nobody would let them go
            changes, task = attachments.attach(view, node_id, asked, manager.ledger(view), manager.new_id, time.time())
            task_id = task.id
            return changes

        await manager.state.write(decide)
        return web.json_response({"Task": to_json(manager.view.tasks[task_id])})

    async def _detach(self, request: web.Request) -> web.Response:
        node_id, task_id = request[PEER].identity.node, request.match_info["task"]
        await self._manager.state.write(lambda view: attachments.detach(view, node_id, task_id))
        return web.json_response({})

    async def _assignments(self, request: web.Request) -> web.StreamResponse:
        node_id = request[PEER].identity.node
        view = self._manager.view
        if request.query.get("watch") not in ("1", "true"):
            line = snapshot_line(assignments_of(view, node_id), view.rev)
            return web.Response(body=line, content_type="application/x-ndjson")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        self._streams += 1
        try:
            await self._stream(response, node_id)
        except (ConnectionError, TimeoutError, asyncio.CancelledError) as error:
            log.info("the stream of node %s ended: %s", node_id, type(error).__name__)
        finally:
            self._streams -= 1
        return response

    async def _stream(self, response: web.StreamResponse, node_id: str) -> None:
        view, state = self._manager.view, self._manager.state
        changed = asyncio.Event()
        changes: list[Change] = []

        def note(revision: list[Change]) -> None:
            changes.extend(revision)
            changed.set()

        silence = state.listen(note)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            feed = Feed(view, node_id)
            first = [snapshot_line(feed.told, view.rev), trust_line(self._manager.keeper.told(), view.rev)]
            for line in first if node_id in view.nodes else ():
                await _send(response, line)
            spoken = time.monotonic()
            while not stopping.done() and node_id in view.nodes:
                lines: list[bytes] = []
                # Changes that are none for this node do not put its bookmark off.
                if await _either(changed, stopping, spoken + BOOKMARK - time.monotonic()):
                    await asyncio.sleep(BATCH)
                    changed.clear()
                    if node_id not in view.nodes:  # what came after its removal may be a new key
                        return
                    lines = self._news(feed, changes)
                    changes.clear()
                if not lines and time.monotonic() >= spoken + BOOKMARK:
                    lines = [bookmark_line(view.rev)]
                for line in lines:
                    await _send(response, line)
                    spoken = time.monotonic()
        finally:
            silence()
            stopping.cancel()

    def _news(self, feed: Feed, changes: list[Change]) -> list[bytes]:
        """What a node's stream says of changes: nothing, if they are none for this node."""
        rev, delta = self._manager.view.rev, feed.advance(changes)
        trust = any(isinstance(change.after, SealedTrust) for change in changes)
        told = [trust_line(self._manager.keeper.told(), rev)] if trust else []
        return told + ([delta_line(delta, rev)] if delta else [])


async def _either(changed: asyncio.Event, stopping: asyncio.Future[Any], timeout: float) -> bool:
    """Waits until one of them happens, for at most so many seconds; whether it was a change."""
    waiting = asyncio.ensure_future(changed.wait())
    try:
        await asyncio.wait({waiting, stopping}, timeout=max(timeout, 0.0), return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        waiting.cancel()


async def _send(response: web.StreamResponse, line: bytes) -> None:
    """Raises TimeoutError if the reader does not take it: a stream that nobody reads must not pile up."""
    async with asyncio.timeout(READER_TIMEOUT):
        await response.write(line)


async def read_json(request: web.Request) -> Any:
    """The body as JSON. Raises MeshnetError if it is none."""
    try:
        return json.loads(await request.read())
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise MeshnetError(f"the request body is not JSON: {error}") from error


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MeshnetError as error:
        return web.json_response({"message": str(error)}, status=error.status)
