"""The agent's side of the manager's port: joins, follows its assignments, reports what its tasks do.

It outlives the manager: every request is tried again with back-off (0.1 s doubling to 2 s) at the next known address,
reports are kept until they are taken, and the last assignments stay on disk, so that an agent that starts without a
manager goes on with what it had.

It speaks with the node's certificate. A renewal takes effect with the next connection; the stream that is open goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

import aiohttp

from meshnet.codec import from_json, to_json
from meshnet.control.assignments import follow, trust_of
from meshnet.control.attachments import Attach
from meshnet.control.cachetext import CacheText
from meshnet.control.conversation import Conversation
from meshnet.control.operations import WORDS, Join
from meshnet.control.trouble import Trouble
from meshnet.control.trust import joining, tls
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.gossipkeys import GossipKeys
from meshnet.control.trust.identity import LOOK, issuer_of, key_text, new_key, renewal_time, request_text, root_digest
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.files import replace_text
from meshnet.model import Assignments, Task, TaskStatus, state_rank
from meshnet.rest import Rest

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_DELAY = 0.1
LAST_DELAY = 2.0
TIMEOUT = 5.0
MOST, BYTES = 1000, 2**20  # statuses in a report, and of JSON in them: the manager takes 4 MiB at once
BAD = 400  # a report that cannot be read would not be another time; any other refusal is about this node, as it is now
KEEP_DELAY, KEEP_REST = 0.5, 20  # s at most until a change is on disk; less where writing takes less than a 20th of it
SILENCE = 25.0  # a stream without a bookmark for longer is dead
LINE_LIMIT = 64 * 2**20
RENEW_FIRST, RENEW_LAST = 5.0, 3600.0  # s between attempts to renew: swarmkit's


class RemovedError(MeshnetError):
    """The swarm does not know this node any more: somebody removed it."""

    status = 404


class ManagerClient:
    """`addresses` are host:port of managers; `join` says what this node is. `cache` is a file for the assignments.

    `credentials` are the node's; if they are empty or have expired, `token` gets new ones.

    Use: `await join()` once, then run `heartbeats()` and `renewals()` and iterate `assignments()` side by side, and
    `report()` whenever a task changes. `close()` ends it. Each raises RemovedError once the node is removed.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        join: Join,
        credentials: Credentials,
        token: str = "",
        cache: Path | None = None,
    ) -> None:
        self.connected = False
        self._credentials = credentials
        self._talk = Conversation(credentials)
        self._token = token
        self._rng = SystemRandom()
        self._renew = asyncio.Event()
        self._keys_changed: Callable[[GossipKeys], None] = lambda _: None
        self._addresses = list(addresses)
        self._join = join
        self._cache = cache
        self._period = 5.0
        self._leaving = False
        self._pending: dict[str, TaskStatus] = {}
        self._sending: dict[str, TaskStatus] = {}
        self._rest = Rest()
        self._taken = asyncio.Event()
        self._left = asyncio.Event()
        self._counted = asyncio.Event()
        self._unwritten: Assignments | None = None
        self._text = CacheText()
        self._write_time = 0.0
        self._writing: asyncio.TimerHandle | None = None
        self._session: aiohttp.ClientSession | None = None
        self._silence = Trouble(log, "manager", time.monotonic)

    @property
    def node_id(self) -> str:
        """What the node's certificate says; "" before it joined."""
        return self._credentials.identity.node if self._credentials else ""

    def on_keys(self, callback: Callable[[GossipKeys], None]) -> None:
        """Calls `callback` with the gossip keys that are in force, whenever they change."""
        self._keys_changed = callback

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
        """Begins to work for the swarm, as a new member if need be, trying until a manager answers.

        Returns the node's id. Raises MeshnetError if refused.
        """
        if not self._credentials or (self._token and self._credentials.expired(time.time())):
            await self._become_member()
        answer = await self._persist("POST", "/v1/nodes/join", lambda: to_json(self._join))
        self._terms(answer)
        self._trust(answer["Trust"])
        return self.node_id

    async def _become_member(self) -> None:
        if not self._token or not self._addresses:
            raise MeshnetError("this node is in no swarm, and has no token and no manager's address to join one")

        async def attempt(address: str) -> None:
            await joining.join(self._http(), address, self._token, self._join, self._credentials, self._rng)

        await self._until_answered(attempt)

    async def renewals(self) -> None:
        """Renews the certificate in time, and when the swarm changes its CA. Runs until cancelled."""
        delay = RENEW_FIRST
        while True:
            certificate = self._credentials.certificate
            due = renewal_time(certificate, self._rng)
            while not self._renew.is_set() and (left := due - time.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK)):
                        await self._renew.wait()
            self._renew.clear()
            try:
                await self._renewed()
                delay = RENEW_FIRST
            except NotFoundError:
                raise RemovedError(f"node {self.node_id} was removed from the swarm") from None
            except MeshnetError as error:
                log.error("the certificate could not be renewed: %s; trying again in %g s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RENEW_LAST)

    async def _renewed(self) -> None:
        key = new_key(self._rng)
        answer = await self._persist("POST", joining.CERTIFICATES, lambda: {"CSR": request_text(key)})
        self._credentials.take(answer["Certificate"], key_text(key), answer["Root"])
        log.info("this node's certificate is renewed")
        self._rest.end()  # the manager waits to see it

    def _trust(self, told: Any) -> None:
        """What the manager says about CA and keys: taken at once, and confirmed with the next report."""
        credentials = self._credentials
        credentials.trust(str(told["Root"]))
        keys = from_json(GossipKeys, told["Gossip"])
        if keys != credentials.gossip:
            self._keys_changed(keys)
            credentials.keep(keys)
        if told["Issuer"] != issuer_of(credentials.certificate):
            self._renew.set()
        self._rest.end()

    def report(self, statuses: Mapping[str, TaskStatus]) -> None:
        """Notes task statuses (by task id) to be sent at once by `heartbeats`; a newer one replaces an older."""
        for ident, status in statuses.items():
            known = self._pending.get(ident)
            if known is None or state_rank(status.state) >= state_rank(known.state):
                self._pending[ident] = status
        self._rest.end()

    async def reported(self) -> None:
        """Waits until everything that was reported before has been taken by a manager."""
        while self._pending or self._sending:
            self._taken.clear()
            await self._taken.wait()

    async def counted(self) -> None:
        """Waits for the first heartbeat to be taken: from then on the manager counts on this node."""
        await self._counted.wait()

    async def leave(self, timeout: float) -> None:
        """Says that this node stops, so that its tasks are started elsewhere; waits at most `timeout` seconds for that
        to be taken. Reports go on."""
        self._leaving = True
        self._rest.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._left.wait()

    def nudge(self) -> None:
        """This process is awake: a heartbeat that is nearly due may be sent now."""
        self._rest.nudge()

    async def heartbeats(self) -> None:
        """Sends a heartbeat now and per period, and reports when there are any. Runs until cancelled."""
        self._rest.end()
        while True:
            await self._rest.take(self._period)
            leaving = await self._send()
            self._sending = {}
            self._taken.set()
            self._counted.set()
            if leaving:
                self._left.set()

    async def _send(self) -> bool:
        """Whether what was sent in the end said that this node leaves: it may have been on its way before."""
        leaving = False

        def body() -> Any:
            nonlocal leaving
            # Taken anew for each attempt, so that a retry carries what came meanwhile.
            waiting = {**self._sending, **self._pending}
            tasks = _report(waiting)
            self._sending = {ident: waiting.pop(ident) for ident in tasks}
            self._pending = waiting
            leaving = self._leaving
            trust = {"Gossip": self._credentials.gossip.version, "Root": root_digest(self._credentials.root)}
            return {"Tasks": tasks, "Leaving": leaving, "Trust": trust}

        async def attempt(address: str) -> Any:
            return await self._talk.ask(self._http(), f"https://{address}/v1/nodes/{self.node_id}/reports", body())

        while True:
            try:
                self._terms(await self._until_answered(attempt))
                if self._pending:  # more than one report takes
                    self._rest.end()
                return leaving
            except NotFoundError as error:
                raise RemovedError(str(error)) from None
            except MeshnetError as error:
                log.error("the manager refused a report: %s", error)
                if error.status != BAD:
                    self._pending = {**self._sending, **self._pending}
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
            except NotFoundError as error:
                raise RemovedError(str(error)) from None
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, MeshnetError) as error:
                log.info("the assignments' stream broke: %s", tls.explained(error))
            finally:
                self.connected = False
            self._rotate()
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _stream(self) -> AsyncIterator[Assignments]:
        current: Assignments | None = None
        url = f"https://{self._addresses[0]}/v1/nodes/{self.node_id}/assignments?watch=1"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE)
        context = self._credentials.context()
        async with self._http().get(url, timeout=timeout, ssl=context, server_hostname=tls.SERVER_NAME) as response:
            if response.status != 200:
                raise await joining.refusal(response)
            self.connected = True
            while line := await response.content.readline():
                if (told := trust_of(line)) is not None:
                    self._trust(told)
                    continue
                after = follow(current, line)
                if after is not None and after is not current:
                    current = after
                    yield after

    async def questions(self) -> AsyncIterator[dict[str, Any]]:
        """What the manager asks of this node's logs. Reconnects for ever."""
        delay = FIRST_DELAY
        while True:
            try:
                async for line in self._lines(f"/v1/nodes/{self.node_id}/questions"):
                    delay = FIRST_DELAY
                    message = json.loads(line)
                    if isinstance(message, dict) and message:
                        yield message
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, MeshnetError) as error:
                log.debug("the stream of questions broke: %s", tls.explained(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _lines(self, path: str) -> AsyncIterator[bytes]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE)
        url, context = f"https://{self._addresses[0]}{path}", self._credentials.context()
        async with self._http().get(url, timeout=timeout, ssl=context, server_hostname=tls.SERVER_NAME) as response:
            if response.status != 200:
                raise await joining.refusal(response)
            while line := await response.content.readline():
                yield line

    async def answer(self, question: str, task_id: str, lines: AsyncIterator[bytes]) -> None:
        """Sends the log of a task to who asked. Raises MeshnetError if nobody asks any more."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT)
        url = f"https://{self._addresses[0]}/v1/nodes/{self.node_id}/logs/{question}/{task_id}"
        context = self._credentials.context()
        try:
            async with self._http().post(
                url, data=lines, timeout=timeout, ssl=context, server_hostname=tls.SERVER_NAME
            ) as response:
                if response.status != 200:
                    raise await joining.refusal(response)
        except (aiohttp.ClientError, OSError) as error:
            raise MeshnetError(f"the manager does not take it: {tls.explained(error)}", 503) from None

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
            url, context = f"https://{self._addresses[0]}{path}", self._credentials.context()
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            try:
                return await joining.ask(self._http(), method, url, context, body, timeout)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._rotate()
        raise MeshnetError("no manager of the swarm answers", 503)

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._write_cache()
        await self._talk.close()
        if self._session is not None:
            await self._session.close()

    async def _persist(self, method: str, path: str, body: Any) -> Any:
        """Asks until there is an answer. Raises MeshnetError for a refusal (4xx), which no retry would change."""

        async def attempt(address: str) -> Any:
            url, context = f"https://{address}{path}", self._credentials.context()
            return await joining.ask(self._http(), method, url, context, body(), aiohttp.ClientTimeout(total=TIMEOUT))

        return await self._until_answered(attempt)

    async def _until_answered(self, attempt: Callable[[str], Awaitable[T]]) -> T:
        """Tries at one manager after the other. Raises MeshnetError for a refusal (4xx)."""
        delay = FIRST_DELAY
        while True:
            try:
                answer = await attempt(self._addresses[0])
                self._silence.ends()
                return answer
            except MeshnetError as error:
                self._silence.ends()
                if error.status < 500:
                    raise
            except (aiohttp.ClientError, OSError, TimeoutError) as failure:
                self._silence.goes_on(f"{self._addresses[0]} cannot be asked: {tls.explained(failure)}")
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
        """Has the assignments written soon: an agent that is killed must find its tasks there. Many changes in a row
        share a write, so that writing takes a small part of the time."""
        self._unwritten = assignments
        if self._cache is not None and self._writing is None:
            delay = min(self._write_time * KEEP_REST, KEEP_DELAY)
            self._writing = asyncio.get_running_loop().call_later(delay, self._write_cache)

    def _write_cache(self) -> None:
        self._writing = None
        if self._cache is None or self._unwritten is None:
            return
        try:
            begin = time.monotonic()
            replace_text(self._cache, self._text.of(self._unwritten))
            self._write_time = time.monotonic() - begin
        except OSError as error:
            log.warning("the assignments are kept in memory alone until they change again: %s", error)
            return
        self._unwritten = None


def _report(waiting: Mapping[str, TaskStatus]) -> dict[str, Any]:
    """The first of the statuses that wait, as many as go into one report. A program's name, in why it cannot be run,
    may be as long as one likes."""
    tasks: dict[str, Any] = {}
    size = 0
    for ident, status in waiting.items():
        told = to_json(replace(status, err=status.err[:WORDS]))
        size += len(json.dumps(told))
        if tasks and (size > BYTES or len(tasks) == MOST):
            break
        tasks[ident] = told
    return tasks
