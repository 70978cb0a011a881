"""The agent's end of the connection for reports: a question and an answer at a time, for as long as the node lives.

A heartbeat each second is most of what an agent says at rest, and a request of its own costs several times as much as
a message on a connection that is open.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from meshnet.control.trust import tls
from meshnet.control.trust.credentials import Credentials
from meshnet.errors import MeshnetError, NotFoundError

TIMEOUT = 5.0  # s to connect, and for an answer
FAREWELL = aiohttp.ClientWSTimeout(ws_close=0.1)  # s for a manager to take leave: it may have gone
LIMIT = 1 << 20  # bytes of an answer


class Conversation:
    """Speaks with a manager at a time. A new certificate of the node, or a new CA, takes effect with the next words."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._to: tuple[str, Any] = ("", None)

    async def ask(self, http: aiohttp.ClientSession, url: str, question: Any) -> Any:
        """Says `question` on the WebSocket at `url`, and returns the answer: an object. Both are JSON.

        Raises MeshnetError for a refusal, and aiohttp.ClientError, OSError or TimeoutError if nobody answers.
        """
        to = (url, self._credentials.context())
        if self._socket is not None and self._to == to:
            try:
                return await _said(self._socket, question)
            except TimeoutError:
                await self.close()
                raise
            except (aiohttp.ClientError, OSError):
                pass  # a manager that was started again does not know the connection: a new one may do
        await self.close()
        self._socket, self._to = await _opened(http, *to), to
        try:
            return await _said(self._socket, question)
        except (aiohttp.ClientError, OSError):
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the connection, if there is one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


async def _opened(http: aiohttp.ClientSession, url: str, context: Any) -> aiohttp.ClientWebSocketResponse:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await http.ws_connect(
                url, ssl=context, server_hostname=tls.SERVER_NAME, timeout=FAREWELL, max_msg_size=LIMIT
            )
    except aiohttp.WSServerHandshakeError as error:
        text = f"the manager does not take this node's reports: {error.status}"
        raise (NotFoundError(text) if error.status == 404 else MeshnetError(text, error.status)) from None


async def _said(socket: aiohttp.ClientWebSocketResponse, question: Any) -> Any:
    try:
        async with asyncio.timeout(TIMEOUT):
            await socket.send_str(json.dumps(question))
            message = await socket.receive()
    except asyncio.CancelledError:
        await socket.close()  # an answer that still comes must not be taken for that to the next question
        raise
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise aiohttp.ClientConnectionError("the manager ended the connection")
    try:
        answer = json.loads(message.data)
        if not isinstance(answer, dict):
            raise ValueError("no object")
        if "message" not in answer:
            return answer
        text, status = str(answer["message"]), int(answer["status"])
    except (ValueError, KeyError, TypeError):
        raise aiohttp.ClientConnectionError("the manager's answer cannot be read") from None
    raise NotFoundError(text) if status == 404 else MeshnetError(text, status)
