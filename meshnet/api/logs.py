"""GET /services/{id}/logs and /tasks/{id}/logs on a manager."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from aiohttp import web

from meshnet.api import filters
from meshnet.api.http import flag, manager_of
from meshnet.api.logform import RAW, packed, query_of
from meshnet.control.logbroker import Line, Question
from meshnet.model import Task
from meshnet.sandbox.logs import LogLine


async def service_logs(request: web.Request) -> web.StreamResponse:
    """GET /services/{id}/logs"""
    view = manager_of(request).view
    service = filters.find_service(view, request.match_info["id"])
    tasks = list(view.tasks_of.get(service.id, {}).values())
    raw = service.spec.task_template.container_spec.tty
    return await _stream(request, tasks, lambda task: task.service_id == service.id, raw)


async def task_logs(request: web.Request) -> web.StreamResponse:
    """GET /tasks/{id}/logs"""
    task = filters.find_task(manager_of(request).view, request.match_info["id"])
    return await _stream(request, [task], lambda other: other.id == task.id, task.spec.container_spec.tty)


async def _stream(
    request: web.Request, tasks: Iterable[Task], wants: Callable[[Task], bool], raw: bool
) -> web.StreamResponse:
    """`raw` is for tasks on a terminal: their client expects no frames."""
    query = query_of(request)
    asked = {
        "Streams": sorted(query.streams),
        "Follow": flag(request, "follow"),
        **{name: value for name in ("tail", "since", "until") if (value := getattr(query, name)) is not None},
    }
    question = Question(
        secrets.token_hex(8),
        {name.capitalize(): value for name, value in asked.items()},
        asked["Follow"] is True,
        wants,
    )
    response = web.StreamResponse(headers={"Content-Type": RAW})
    await response.prepare(request)
    timestamps, details = flag(request, "timestamps"), flag(request, "details")
    async for line in manager_of(request).logs.ask(question, tasks):
        form = LogLine(line.time, line.stream, line.text)
        if form.stream in query.streams:
            shown = _details(line) if details else None
            await response.write(packed(form, timestamps=timestamps, details=shown, raw=raw))
    await response.write_eof()
    return response


def _details(line: Line) -> str:
    """By these a client knows which task a line is of."""
    begin, task = "com.docker.swarm", line.task
    return f"{begin}.node.id={task.node_id},{begin}.service.id={task.service_id},{begin}.task.id={task.id}"
