"""Questions for logs and their answers: who is asked, what comes back, and that nothing stays of a client that goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from swarm import eventually, run

from meshnet.control import logbroker
from meshnet.control.logbroker import LogBroker, Question
from meshnet.control.objects import Change
from meshnet.errors import NotFoundError
from meshnet.model import Task, TaskStatus

TASK = Task(id="t1", service_id="s", node_id="n1", status=TaskStatus(state="running"))
OTHER = replace(TASK, id="t2", node_id="n2")
SAID = {"Time": "2026-11-20T10:00:00Z", "Stream": "stdout", "Text": "hello"}


async def said(*lines: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
    for line in lines:
        yield line


class Node:
    """A node that hears questions; `heard` are those."""

    def __init__(self, broker: LogBroker, name: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._listen(broker, name))

    async def _listen(self, broker: LogBroker, name: str) -> None:
        async for line in broker.questions(name, 60.0):
            self.heard.append(json.loads(line))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def question(follow: bool = False) -> Question:
    return Question("q", {"Streams": ["stdout"], "Follow": follow}, follow, lambda task: task.service_id == "s")


def test_nodes_are_asked_for_their_own_tasks() -> None:
    """Each node that listens hears of its own tasks; the client gets the lines, and an end when all have answered."""

    async def scenario() -> None:
        broker = LogBroker()
        node = Node(broker, "n1")
        await eventually(lambda: broker.statistics()["log_listeners"], "the node listens")
        lines: list[str] = []

        async def client() -> None:
            async for line in broker.ask(question(), [TASK, OTHER]):
                lines.append(f"{line.task.id} {line.text}")

        asking = asyncio.create_task(client())
        await eventually(lambda: node.heard, "it is asked")
        assert node.heard == [{"ID": "q", "Tasks": ["t1"], "Streams": ["stdout"], "Follow": False}]
        await broker.answer("n1", "q", "t1", said(SAID, {**SAID, "Text": "again"}))
        await asking
        assert lines == ["t1 hello", "t1 again"]
        await eventually(lambda: {"ID": "q", "Close": True} in node.heard, "the node is told to stop")
        await node.close()
        assert broker.statistics() == {"log_questions": 0, "log_listeners": 0}

    run(scenario)


def test_a_node_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that goes before it answers holds nobody up who reads what others said."""
    monkeypatch.setattr(logbroker, "DEAF", 0.05)

    async def scenario() -> None:
        broker = LogBroker()
        nodes = [Node(broker, name) for name in ("n1", "n2")]
        await eventually(lambda: broker.statistics()["log_listeners"] == 2, "the nodes listen")
        lines: list[str] = []

        async def client() -> None:
            async for line in broker.ask(question(), [TASK, OTHER]):
                lines.append(line.text)

        asking = asyncio.create_task(client())
        await eventually(lambda: all(node.heard for node in nodes), "both are asked")
        await nodes[1].close()
        await broker.answer("n1", "q", "t1", said(SAID))
        async with asyncio.timeout(5):
            await asking
        assert lines == ["hello"]
        await nodes[0].close()

    run(scenario)


def test_following_asks_for_tasks_that_come() -> None:
    """A client that follows hears of tasks that begin to run later; when it goes, nodes are told."""

    async def scenario() -> None:
        broker = LogBroker()
        node = Node(broker, "n2")
        await eventually(lambda: broker.statistics()["log_listeners"], "the node listens")
        lines: list[str] = []

        async def client() -> None:
            async for line in broker.ask(question(follow=True), []):
                lines.append(line.text)

        asking = asyncio.create_task(client())
        await eventually(lambda: broker.statistics()["log_questions"], "it asks")
        broker.changed([Change(None, OTHER), Change(None, replace(OTHER, id="t3", service_id="x"))])
        await eventually(lambda: node.heard, "it is asked")
        assert node.heard[0]["Tasks"] == ["t2"]
        await broker.answer("n2", "q", "t2", said(SAID))
        await eventually(lambda: lines == ["hello"], "the line is there")
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await eventually(lambda: node.heard[-1] == {"ID": "q", "Close": True}, "the node is told to stop")
        await node.close()

    run(scenario)


def test_only_the_tasks_own_node_may_answer() -> None:
    """Another node, another task, and a question that nobody asks are refused."""

    async def scenario() -> None:
        broker = LogBroker()
        node = Node(broker, "n1")
        await eventually(lambda: broker.statistics()["log_listeners"], "the node listens")
        lines: list[str] = []

        async def client() -> None:
            async for line in broker.ask(question(follow=True), [TASK]):
                lines.append(line.text)

        asking = asyncio.create_task(client())
        await eventually(lambda: node.heard, "it is asked")
        for wrong in (("n2", "q", "t1"), ("n1", "q", "t9"), ("n1", "x", "t1")):
            with pytest.raises(NotFoundError):
                await broker.answer(*wrong, said(SAID))
        assert lines == []
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await node.close()

    run(scenario)
