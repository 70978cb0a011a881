"""What every handler of a node's engine needs: the agent, and a way to its manager if it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from meshnet.agent.agent import Agent
from meshnet.api.bodies import decoded
from meshnet.api.node.exec_list import Execs
from meshnet.errors import MeshnetError

T = TypeVar("T")
NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)


class Node:
    """One node as its Engine API sees it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._session: aiohttp.ClientSession | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self.execs = Execs()

    @property
    def busy(self) -> int:
        """How many pieces of work go on."""
        return len(self._work)

    @property
    def manager_socket(self) -> Path:
        """Where the manager process of this node listens, if there is one."""
        return self.agent.run_dir / "manager.sock"

    @property
    def manages(self) -> bool:
        """Whether this node is a manager of its swarm."""
        return self.agent.joined and self.agent.settings.role == "manager"

    def need_manager(self) -> None:
        """Raises MeshnetError (503) in Swarm's words on a node that is no manager."""
        if not self.agent.joined:
            raise MeshnetError(NO_SWARM, 503)
        if not self.manages:
            raise MeshnetError(WORKER, 503)

    def session(self) -> aiohttp.ClientSession:
        """Connections to the manager process; used inside the event loop only."""
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self.manager_socket), limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    async def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Does a piece of work to its end, also when the client that asked for it goes away in the middle."""
        return await asyncio.shield(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins a piece of work that goes on by itself, until it is done or the engine ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to hear it

    async def close(self) -> None:
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


NODE = web.AppKey("node", Node)
BODY_TIMEOUT = 30.0  # s that a client gets to send a whole body of the usual size


def node_of(request: web.Request) -> Node:
    return request.config_dict[NODE]


def agent_of(request: web.Request) -> Agent:
    return node_of(request).agent


async def body(request: web.Request) -> bytes:
    """The request's body. MeshnetError (408) for a client that does not send it, HTTPRequestEntityTooLarge."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise MeshnetError(f"the request's body did not arrive within {BODY_TIMEOUT:g} s", 408) from None


async def json_body(request: web.Request) -> Any:
    """The request's body as JSON, `{}` if there is none. As `body`, and MeshnetError if it is no JSON."""
    return decoded(await body(request) or b"{}")


async def sent(request: web.Request, response: web.StreamResponse, data: bytes, patience: float) -> None:
    """Writes a part of a stream. ConnectionResetError for a client that does not take it in `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None
