"""What a node answers when its manager asks for the logs of its tasks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

from meshnet.agent import inventory
from meshnet.errors import MeshnetError
from meshnet.sandbox import logs
from meshnet.sandbox.logs import LogLine, Query

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent

log = logging.getLogger(__name__)
MOST = 512  # answers at a time


class LogAnswers:
    """The answers that one agent is giving."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._running: dict[str, set[asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Hears what the manager asks, and answers, until cancelled."""
        try:
            async for message in self._agent.manager.questions():
                self._heard(message)
        finally:
            await self.close()

    def _heard(self, message: dict[str, Any]) -> None:
        question = str(message.get("ID", ""))
        if message.get("Close"):
            for task in self._running.pop(question, ()):
                task.cancel()
            return
        for task_id in message.get("Tasks", ()):
            if sum(map(len, self._running.values())) >= MOST:
                log.warning("too many logs are read; task %s is left out", task_id)
                return
            work = asyncio.create_task(self._answer(question, str(task_id), message))
            self._running.setdefault(question, set()).add(work)
            work.add_done_callback(partial(self._done, question))

    def _done(self, question: str, work: asyncio.Task[None]) -> None:
        running = self._running.get(question)
        if running is not None:
            running.discard(work)
            if not running:
                del self._running[question]

    async def _answer(self, question: str, task_id: str, message: dict[str, Any]) -> None:
        try:
            await self._agent.manager.answer(question, task_id, self._lines(task_id, message))
        except MeshnetError as error:
            log.info("the log of task %s: %s", task_id, error)

    async def _lines(self, task_id: str, message: dict[str, Any]) -> AsyncIterator[bytes]:
        entry = next((one for one in inventory.entries(self._agent) if one.task and one.task.id == task_id), None)
        if entry is None:
            return
        streams = frozenset(str(name) for name in message.get("Streams", ()))
        query = Query(streams, message.get("Tail"), message.get("Since"), message.get("Until"))
        if message.get("Follow") and entry.container is not None and entry.status == "running":
            async for line in logs.follow(entry.log, query, entry.container.wait()):
                yield _packed(line)
            return
        for line in logs.select(entry.log, query):
            yield _packed(line)

    async def close(self) -> None:
        work = [task for tasks in self._running.values() for task in tasks]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        self._running.clear()


def _packed(line: LogLine) -> bytes:
    return json.dumps({"Time": line.time, "Stream": line.stream, "Text": line.text}).encode() + b"\n"
