"""The agent's side of the manager's port: joins, follows its assignments, reports what its tasks do.

It outlives the manager: every request is tried again with back-off (0.1 s doubling to 2 s) at the next known address,
reports are kept until they are taken, and the last assignments stay on disk, so that an agent that starts without a
manager goes on with what it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from meshnet.codec import from_json, to_json
from meshnet.control.assignments import follow
from meshnet.control.attachments import Attach
from meshnet.control.operations import Join
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.files import replace_text
from meshnet.model import Assignments, Task, TaskStatus, state_rank

log = logging.getLogger(__name__)
FIRST_DELAY = 0.1
LAST_DELAY = 2.0
TIMEOUT = 5.0
KEEP_DELAY = 0.5
SILENCE = 25.0  # a stream without a bookmark for longer is dead
LINE_LIMIT = 64 * 2**20


class ManagerClient:
    """`addresses` are host:port of managers; `join` says what this node is. `cache` is a file for the assignments.

    Use: `await join()` once, then run `heartbeats()` and iterate `assignments()` side by side, and `report()` whenever
    a task changes. `close()` ends it.
    """

    def __init__(self, addresses: Sequence[str], join: Join, cache: Path | None = None) -> None:
        if not addresses:
            raise MeshnetError("no manager address is known")
        self.node_id = join.id
        self.connected = False
        self._addresses = list(addresses)
        self._join = join
        self._cache = cache
        self._period = 5.0
        self._leaving = False
        self._pending: dict[str, TaskStatus] = {}
        self._sending: dict[str, TaskStatus] = {}
        self._urgent = asyncio.Event()
        self._taken = asyncio.Event()
        self._left = asyncio.Event()
        self._unwritten: Assignments | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._session: aiohttp.ClientSession | None = None

    def cached(self) -> Assignments | None:
        """The assignments of the last run, for a start without a manager; None if there are none."""
        if self._cache is None or not self._cache.exists():
            return None
        try:
            return from_json(Assignments, json.loads(self._cache.read_bytes()))
        except (ValueError, MeshnetError) as error:
            log.warning("%s cannot be read and is not used: %s", self._cache, error)
            return None

    async def join(self) -> str:
        """Joins the swarm, trying until a manager answers; returns the node's id. Raises MeshnetError if refused."""
        answer = await self._persist("POST", "/v1/nodes/join", lambda: to_json(replace(self._join, id=self.node_id)))
        self.node_id = answer["ID"]
        self._terms(answer)
        return self.node_id

    def report(self, statuses: Mapping[str, TaskStatus]) -> None:
        """Notes task statuses (by task id) to be sent at once by `heartbeats`; a newer one replaces an older."""
        for ident, status in statuses.items():
            known = self._pending.get(ident)
            if known is None or state_rank(status.state) >= state_rank(known.state):
                self._pending[ident] = status
        self._urgent.set()

    async def reported(self) -> None:
        """Waits until everything that was reported before has been taken by a manager."""
        while self._pending or self._sending:
            self._taken.clear()
            await self._taken.wait()

    async def leave(self, timeout: float) -> None:
        """Says that this node stops, so that its tasks are started elsewhere; waits at most `timeout` seconds for that
        to be taken. Reports go on."""
        self._leaving = True
        self._urgent.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._left.wait()

    async def heartbeats(self) -> None:
        """Sends a heartbeat now and per period, and reports when there are any. Runs until cancelled."""
        self._urgent.set()
        while True:
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period):
                    await self._urgent.wait()
            self._urgent.clear()
            leaving = await self._send()
            self._sending = {}
            self._taken.set()
            if leaving:
                self._left.set()

    async def _send(self) -> bool:
        """Whether what was sent in the end said that this node leaves: it may have been on its way before."""
        leaving = False

        def body() -> Any:
            nonlocal leaving
            # Taken anew for each attempt, so that a retry carries what came meanwhile.
            self._sending, self._pending = {**self._sending, **self._pending}, {}
            tasks = {ident: to_json(status) for ident, status in self._sending.items()}
            leaving = self._leaving
            return {"Tasks": tasks, "Leaving": leaving}

        while True:
            try:
                self._terms(await self._persist("PUT", f"/v1/nodes/{self.node_id}/status", body))
                return leaving
            except NotFoundError:
                await self.join()
            except MeshnetError as error:
                log.error("the manager refused a report: %s", error)
                return leaving

    async def assignments(self) -> AsyncIterator[Assignments]:
        """What this node must run and know, in full after each change. Reconnects for ever; ends when closed."""
        delay = FIRST_DELAY
        last: Assignments | None = None
        while True:
            try:
                fresh = True
                async for assignments in self._stream():
                    delay = FIRST_DELAY
                    # A new stream begins with everything, which is often what is known already.
                    if fresh and assignments == last:
                        fresh = False
                        continue
                    fresh, last = False, assignments
                    self._keep(assignments)
                    yield assignments
            except NotFoundError:
                await self.join()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, MeshnetError) as error:
                log.info("the assignments' stream broke: %s", error or type(error).__name__)
            finally:
                self.connected = False
            self._rotate()
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _stream(self) -> AsyncIterator[Assignments]:
        current: Assignments | None = None
        url = f"http://{self._addresses[0]}/v1/nodes/{self.node_id}/assignments?watch=1"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE)
        async with self._http().get(url, timeout=timeout) as response:
            if response.status != 200:
                raise await _refusal(response)
            self.connected = True
            while line := await response.content.readline():
                after = follow(current, line)
                if after is not None and after is not current:
                    current = after
                    yield after

    async def attach(self, asked: Attach) -> Task:
        """Addresses for a container that a person starts. Raises MeshnetError if refused, or if no manager answers."""
        answer = await self._once("POST", f"/v1/nodes/{self.node_id}/attachments", to_json(asked))
        return from_json(Task, answer["Task"])

    async def detach(self, task_id: str) -> None:
        """Lets such addresses go; MeshnetError if no manager answers. None to let go is no error."""
        with contextlib.suppress(NotFoundError):
            await self._once("DELETE", f"/v1/nodes/{self.node_id}/attachments/{task_id}", None)

    async def _once(self, method: str, path: str, body: Any) -> Any:
        """Asks each known manager once: for what somebody waits for. Raises MeshnetError."""
        for _ in range(len(self._addresses)):
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            url = f"http://{self._addresses[0]}{path}"
            try:
                async with self._http().request(method, url, json=body, timeout=timeout) as response:
                    if response.status == 200:
                        return await response.json()
                    raise await _refusal(response)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._rotate()
        raise MeshnetError("no manager of the swarm answers", 503)

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._write_cache()
        if self._session is not None:
            await self._session.close()

    async def _persist(self, method: str, path: str, body: Any) -> Any:
        """Asks until there is an answer. Raises MeshnetError for a refusal (4xx), which no retry would change."""
        delay = FIRST_DELAY
        while True:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            url = f"http://{self._addresses[0]}{path}"
            try:
                async with self._http().request(method, url, json=body(), timeout=timeout) as response:
                    if response.status == 200:
                        return await response.json()
                    error = await _refusal(response)
                    if response.status < 500:
                        raise error
            except (aiohttp.ClientError, OSError, TimeoutError) as failure:
                log.info("manager %s does not answer: %s", self._addresses[0], failure or type(failure).__name__)
            self._rotate()
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(read_bufsize=LINE_LIMIT)
        return self._session

    def _rotate(self) -> None:
        self._addresses.append(self._addresses.pop(0))

    def _terms(self, answer: Any) -> None:
        self._period = float(answer["Heartbeat"])
        known = [address for address in answer["Managers"] if address not in self._addresses]
        self._addresses += known

    def _keep(self, assignments: Assignments) -> None:
        """Has the assignments written soon; many changes in a row cost one write per `KEEP_DELAY`."""
        self._unwritten = assignments
        if self._cache is not None and self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(KEEP_DELAY, self._write_cache)

    def _write_cache(self) -> None:
        self._writing = None
        if self._cache is None or self._unwritten is None:
            return
        replace_text(self._cache, json.dumps(to_json(self._unwritten)))
        self._unwritten = None


async def _refusal(response: aiohttp.ClientResponse) -> MeshnetError:
    try:
        text = str((await response.json())["message"])
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        text = f"the manager answered {response.status} {response.reason}"
    return NotFoundError(text) if response.status == 404 else MeshnetError(text, response.status)
