"""Addresses of containers that people start: none may stay taken when a container is gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from meshnet.agent.agent import Agent
from meshnet.errors import MeshnetError
from meshnet.model import Assignments, NetworkAttachmentSpec, Task, TaskSpec


def attachment(task_id: str, container: str) -> Task:
    return Task(id=task_id, spec=TaskSpec(network_attachment_spec=NetworkAttachmentSpec(container)))


def test_what_a_container_held_is_let_go_after_it() -> None:
    """A container that was removed while no manager answered gives its addresses back when one does; others keep
    theirs, and so do tasks."""
    tasks = {"gone": attachment("gone", "c1"), "here": attachment("here", "c2"), "task": Task(id="task")}
    asked: list[str] = []

    async def scenario() -> None:
        told, done = asyncio.Event(), asyncio.Event()

        async def detach(task_id: str) -> None:
            asked.append(task_id)
            if len(asked) == 1:
                raise MeshnetError("no manager of the swarm answers", 503)
            done.set()

        agent: Any = SimpleNamespace(
            assignments=Assignments(tasks=tasks),
            standalones={"c2": None},
            manager=SimpleNamespace(detach=detach),
            _told=told,
        )
        letting_go = asyncio.ensure_future(Agent._let_attachments_go(agent))
        for _ in range(2):
            told.set()
            for _ in range(5):
                await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), 5)
        letting_go.cancel()

    asyncio.run(scenario())
    assert asked == ["gone", "gone"]
