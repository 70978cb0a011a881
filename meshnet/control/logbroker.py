"""Log lines of tasks, wherever they run: a question of a client, passed to the nodes, and their answers to the client.

Agents connect out, so a node hears of questions on a stream that it holds open, and answers with a stream of its own
(swarmkit's log broker). Nothing is kept: what a client does not take holds its nodes up, and ends with the client.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshnet.control.objects import Change
from meshnet.errors import NotFoundError
from meshnet.model import Task

QUEUE = 256  # lines that a client may be behind
DEAF = 3.0  # s that nodes get to begin to answer, since anything came, when nothing is followed


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a task. `time` is RFC 3339, `stream` stdout or stderr."""

    task: Task
    time: str
    stream: str
    text: str


@dataclass(slots=True)
class Question:
    """What one client wants to read. `asked` are the tasks that their nodes were told of, `open` those not answered."""

    id: str
    query: dict[str, Any]
    follow: bool
    wants: Callable[[Task], bool]
    asked: dict[str, Task] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    lines: asyncio.Queue[Line | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    heard: set[str] = field(default_factory=set)


class LogBroker:
    """Of one manager. `nodes` are the streams on which nodes hear of questions."""

    def __init__(self) -> None:
        self._questions: dict[str, Question] = {}
        self._nodes: dict[str, asyncio.Queue[dict[str, Any]]] = {}

    def statistics(self) -> dict[str, int]:
        return {"log_questions": len(self._questions), "log_listeners": len(self._nodes)}

    # --- a client -------------------------------------------------------------------------------------------

    async def ask(self, question: Question, tasks: Iterable[Task]) -> AsyncIterator[Line]:
        """The lines of the tasks, and if it follows, of those that come later, until the caller stops."""
        self._questions[question.id] = question
        try:
            self._pass_on(question, tasks)
            async for line in self._answers(question):
                yield line
        finally:
            del self._questions[question.id]
            for node in {task.node_id for task in question.asked.values()} & self._nodes.keys():
                self._nodes[node].put_nowait({"ID": question.id, "Close": True})

    def _pass_on(self, question: Question, tasks: Iterable[Task]) -> None:
        """Tells nodes of tasks of theirs. A node that does not listen has nothing to say."""
        by_node: dict[str, list[str]] = {}
        for task in tasks:
            if task.id not in question.asked and task.node_id in self._nodes and question.wants(task):
                question.asked[task.id] = task
                question.open.add(task.id)
                by_node.setdefault(task.node_id, []).append(task.id)
        for node, ids in by_node.items():
            self._nodes[node].put_nowait({"ID": question.id, "Tasks": ids, **question.query})

    async def _answers(self, question: Question) -> AsyncIterator[Line]:
        while question.follow or question.open or not question.lines.empty():
            try:
                async with asyncio.timeout(None if question.follow or question.open <= question.heard else DEAF):
                    line = await question.lines.get()
            except TimeoutError:
                question.open &= question.heard  # of others nothing comes: their nodes may have gone
                continue
            if line is not None:
                yield line

    def changed(self, changes: Iterable[Change]) -> None:
        """Has those who follow hear of tasks that have come to a node."""
        for question in self._questions.values():
            if question.follow:
                fresh = (change.after for change in changes if isinstance(change.after, Task))
                self._pass_on(question, [task for task in fresh if task.status.state == "running"])

    # --- a node ---------------------------------------------------------------------------------------------

    async def questions(self, node_id: str, silence: float) -> AsyncIterator[bytes]:
        """What a node is asked, a line each; an empty object when there was nothing for `silence` seconds."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._nodes[node_id] = queue
        try:
            while True:
                message: dict[str, Any] = {}
                try:
                    async with asyncio.timeout(silence):
                        message = await queue.get()
                except TimeoutError:
                    pass
                yield json.dumps(message, separators=(",", ":")).encode() + b"\n"
        finally:
            if self._nodes.get(node_id) is queue:
                del self._nodes[node_id]

    async def answer(
        self, node_id: str, question_id: str, task_id: str, lines: AsyncIterator[Mapping[str, Any]]
    ) -> None:
        """Takes what a node says of one of its tasks. NotFoundError if nobody asks that any more."""
        question = self._questions.get(question_id)
        task = question.asked.get(task_id) if question is not None else None
        if question is None or task is None or task.node_id != node_id:
            raise NotFoundError(f"nobody asks for the log of task {task_id}")
        question.heard.add(task_id)
        try:
            async for line in lines:
                if question.id not in self._questions:
                    raise NotFoundError("the one who asked has gone")
                values = (str(line.get(name, "")) for name in ("Time", "Stream", "Text"))
                await question.lines.put(Line(task, *values))
        finally:
            question.open.discard(task_id)
            if question.id in self._questions and not question.lines.full():
                question.lines.put_nowait(None)
