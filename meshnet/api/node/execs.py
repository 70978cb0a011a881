"""Programs that clients run inside containers: created first, then started on a connection that is taken over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from meshnet.api import logform
from meshnet.api.http import answer
from meshnet.api.node import hijack, pipes
from meshnet.api.node.containers import entry_of, running, size_of
from meshnet.api.node.context import Node, json_body, node_of
from meshnet.api.node.exec_list import Exec, ExecRequest
from meshnet.codec import from_json
from meshnet.errors import ConflictError, MeshnetError
from meshnet.sandbox.arguments import check_arguments
from meshnet.sandbox.execution import Execution, Program

IDLE = 0.5  # s without output after a program's end: then only what it left in the background holds its streams


@dataclass(frozen=True, slots=True)
class StartRequest:
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False


async def create(request: web.Request) -> web.Response:
    """POST /containers/{id}/exec"""
    node, entry = node_of(request), entry_of(request)
    asked = from_json(ExecRequest, await json_body(request))
    if not asked.cmd:
        raise MeshnetError("No exec command specified")
    check_arguments({"Env": asked.env, "Cmd": asked.cmd})
    running(entry)
    if entry.state == "paused":
        raise ConflictError(f"Container {entry.id} is paused, unpause the container before exec")
    made = node.execs.add(entry, asked)
    node.agent.happened(entry.spec, f"exec_create: {' '.join(asked.cmd)}", execID=made.id)
    return answer({"Id": made.id}, 201)


async def start(request: web.Request) -> web.StreamResponse:
    """POST /exec/{id}/start: with `Detach` answers at once, else the connection carries the program's streams."""
    node = node_of(request)
    found = node.execs.find(request.match_info["id"])
    asked = from_json(StartRequest, await json_body(request))
    if found.started:
        raise ConflictError(
            f"Error: Exec command {found.id} has already run"
            if found.running is None
            else f"Error: Exec command {found.id} is already running"
        )
    container = found.entry.container
    if container is None:
        raise ConflictError(f"Container {found.entry.id} is not running")
    found.started = True
    want = found.request
    stdin = want.attach_stdin and not asked.detach
    program = Program(want.cmd, want.env, want.user, want.working_dir, want.tty, stdin)
    found.running = await container.launch(program)
    node.agent.happened(found.entry.spec, f"exec_start: {' '.join(want.cmd)}", execID=found.id)
    if found.size is not None:
        found.running.resize(*found.size)
    if asked.detach:
        node.begin(_unattended(node, found))
        return web.Response()
    try:
        reader, writer = await hijack.take(request)
        await _serve(found, found.running, reader, writer)
    finally:
        await asyncio.shield(_end(node, found))
    return hijack.Taken()


async def _serve(found: Exec, execution: Execution, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both directions until the program has ended and all it wrote is sent. The client's end cancels this."""
    tty = found.request.tty
    outputs = []
    for name, number in logform.NUMBERS.items():
        descriptor = getattr(execution, name)
        if descriptor is not None:
            setattr(execution, name, None)
            begun = execution.started if number == logform.STDERR else None
            outputs.append(pipes.outward(descriptor, writer, None if tty else number, begun))
    tasks = [asyncio.ensure_future(work) for work in outputs]
    stdin, execution.stdin = execution.stdin, None
    if stdin is not None:
        tasks.append(asyncio.ensure_future(pipes.inward(reader, stdin)))
    try:
        await execution.wait()
        await _all_sent(tasks[: len(outputs)], writer)
        if execution.error:
            text = f"{execution.error}\r\n".encode()
            writer.write(text if tty else logform.frame(logform.STDOUT, text))
        await writer.drain()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all_sent(outputs: list[asyncio.Task[None]], writer: asyncio.StreamWriter) -> None:
    """Returns once the streams have ended, or stand still though the client takes what it gets."""
    pending = set(outputs)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=IDLE)
        if pending and not writer.transport.get_write_buffer_size():
            return


async def _unattended(node: Node, found: Exec) -> None:
    """Reads and forgets what a detached program writes."""
    execution = found.running
    if execution is None:
        return
    try:
        for name in logform.NUMBERS:
            descriptor = getattr(execution, name)
            if descriptor is not None:
                setattr(execution, name, None)
                node.begin(_drain(descriptor))
        await execution.wait()
    finally:
        await asyncio.shield(_end(node, found))


async def _drain(descriptor: int) -> None:
    async with pipes.reading(descriptor) as source:
        while await source.read(pipes.CHUNK):
            pass


async def _end(node: Node, found: Exec) -> None:
    execution, found.running = found.running, None
    if execution is None:
        return
    found.pid = execution.pid
    await execution.close()
    found.code = execution.code
    node.agent.happened(found.entry.spec, "exec_die", execID=found.id, exitCode=str(found.code))


async def inspect(request: web.Request) -> web.Response:
    """GET /exec/{id}/json"""
    found = node_of(request).execs.find(request.match_info["id"])
    asked = found.request
    return answer(
        {
            "ID": found.id,
            "Running": found.running is not None,
            "ExitCode": found.code,
            "ProcessConfig": {
                "tty": asked.tty,
                "entrypoint": asked.cmd[0],
                "arguments": list(asked.cmd[1:]),
                "privileged": asked.privileged,
                **({"user": asked.user} if asked.user else {}),
            },
            "OpenStdin": asked.attach_stdin,
            "OpenStderr": asked.attach_stderr,
            "OpenStdout": asked.attach_stdout,
            "CanRemove": False,
            "ContainerID": found.entry.id,
            "DetachKeys": asked.detach_keys,
            "Pid": found.running.pid if found.running is not None else found.pid,
        }
    )


async def resize(request: web.Request) -> web.Response:
    """POST /exec/{id}/resize, with `h` and `w`; before the start too."""
    found = node_of(request).execs.find(request.match_info["id"])
    found.size = size_of(request)
    if found.running is not None:
        found.running.resize(*found.size)
    return web.Response(status=201)


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/containers/{id}/exec", create),
    ("POST", "/exec/{id}/start", start),
    ("POST", "/exec/{id}/resize", resize),
    ("GET", "/exec/{id}/json", inspect),
)
