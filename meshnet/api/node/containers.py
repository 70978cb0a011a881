"""Containers: what there is, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.agent import Agent
from meshnet.agent.inventory import Entry
from meshnet.api import filters
from meshnet.api.filters import Filters
from meshnet.api.http import answer, flag
from meshnet.api.node import container_shapes as shapes
from meshnet.api.node.context import agent_of, node_of
from meshnet.errors import ConflictError, MeshnetError
from meshnet.model import PortConfig
from meshnet.sandbox import attaching, cgroup
from meshnet.sandbox.container import Container, signal_number

FILTERS = (
    *("id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", "health"),
    *("is-task", "publish", "expose"),
)
GONE = 15.0  # s that a task gets to be cleaned up after its container was killed


def entry_of(request: web.Request) -> Entry:
    """The container that the path names. NotFoundError."""
    return inventory.find(agent_of(request), request.match_info["id"])


def running(entry: Entry) -> None:
    """ConflictError in the Engine's words if the container does not run."""
    if entry.status != "running":
        raise ConflictError(f"Container {entry.id} is not running")


async def list_containers(request: web.Request) -> web.Response:
    """GET /containers/json, with `all`, `limit` and `filters`."""
    agent = agent_of(request)
    wanted = filters.parse(request.query.get("filters", ""), FILTERS)
    limit = request.query.get("limit", "")
    count = int(limit) if limit.lstrip("-").isdecimal() else 0
    every = flag(request, "all") or count > 0 or "status" in wanted or "exited" in wanted
    there = sorted(inventory.entries(agent), key=lambda entry: (entry.created, entry.id), reverse=True)
    chosen = [
        e for e in there if (every or e.state in ("running", "paused", "restarting")) and _matches(agent, e, wanted)
    ]
    return answer([shapes.summary(agent, entry) for entry in (chosen[:count] if count > 0 else chosen)])


def _matches(agent: Agent, entry: Entry, wanted: Filters) -> bool:
    networks = shapes.networks(agent, entry, None)
    health = entry.container.health if entry.container is not None else "none"
    volumes = [text for mount in entry.spec.mounts for text in (mount.volume, mount.target)]
    image = entry.spec.image
    return (
        filters.any_prefix(wanted, "id", entry.id)
        and _named(entry.name, wanted)
        and filters.labels_match(wanted, "label", entry.spec.labels)
        and filters.any_equal(wanted, "status", entry.state)
        and filters.any_equal(wanted, "exited", *((str(entry.exit_code),) if entry.status == "exited" else ()))
        and filters.any_prefix(wanted, "ancestor", image, agent.containers.image_id(image))
        and filters.any_equal(wanted, "volume", *volumes)
        and filters.any_equal(wanted, "network", *networks, *(item["NetworkID"] for item in networks.values()))
        and filters.any_equal(wanted, "health", health)
        and filters.any_equal(wanted, "is-task", "true" if entry.task is not None else "false")
        and _age(agent, entry, wanted, "before", lambda mine, other: mine < other)
        and _age(agent, entry, wanted, "since", lambda mine, other: mine > other)
        and filters.any_equal(wanted, "publish", *_ports(agent, entry, lambda port: port.published_port))
        and filters.any_equal(wanted, "expose", *_ports(agent, entry, lambda port: port.target_port))
    )


def _ports(agent: Agent, entry: Entry, number: Callable[[PortConfig], int]) -> Iterator[str]:
    """As filters name ports: 8080 and 8080/tcp, 53/udp."""
    for port in shapes.host_ports(agent, entry):
        yield f"{number(port)}/{port.protocol}"
        if port.protocol == "tcp":
            yield str(number(port))


def _named(name: str, wanted: Filters) -> bool:
    """The Engine takes names as expressions, found anywhere, with and without the slash."""
    for pattern in wanted.get("name", (name,)):
        try:
            if re.search(pattern, name) or re.search(pattern, f"/{name}"):
                return True
        except re.error:
            if pattern in name:
                return True
    return False


def _age(agent: Agent, entry: Entry, wanted: Filters, name: str, holds: Callable[[float, float], bool]) -> bool:
    return all(holds(entry.created, inventory.find(agent, reference).created) for reference in wanted.get(name, ()))


async def inspect_container(request: web.Request) -> web.Response:
    """GET /containers/{id}/json"""
    return answer(shapes.inspected(agent_of(request), entry_of(request)))


async def top(request: web.Request) -> web.Response:
    """GET /containers/{id}/top, with `ps_args`: the machine's `ps`, and of it the container's processes."""
    entry = entry_of(request)
    running(entry)
    arguments = request.query.get("ps_args", "-ef").split()
    if any(not re.fullmatch(r"-?[\w.,:=%+]*", word) for word in arguments):
        raise MeshnetError("ps_args: options of ps are needed")
    pids = set(map(str, processes(entry.spec.cgroup, entry.pid)))
    try:
        done = await asyncio.to_thread(
            subprocess.run, ["ps", *arguments], capture_output=True, text=True, timeout=5, check=False
        )
    except FileNotFoundError:
        raise MeshnetError("ps is not installed; run: apt-get install procps", 500) from None
    if done.returncode != 0:
        raise MeshnetError(f"ps: {done.stderr.strip().splitlines()[0] if done.stderr.strip() else 'failed'}", 500)
    titles, *rows = done.stdout.splitlines()
    columns = titles.split()
    if "PID" not in columns:
        raise MeshnetError("Couldn't find PID field in ps output", 500)
    place = columns.index("PID")
    found = [row.split(None, len(columns) - 1) for row in rows]
    return answer({"Titles": columns, "Processes": [row for row in found if len(row) > place and row[place] in pids]})


def processes(group: str, init: int) -> list[int]:
    """The pids in a container's group and in those below it, without the runtime that waits for some of them."""
    found = cgroup.processes(group)
    for path, names, _ in os.walk(group):
        for name in names:
            found += cgroup.processes(os.path.join(path, name))
    space = _pid_space(init)
    return [pid for pid in found if _pid_space(pid) == space]


def _pid_space(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


async def kill(request: web.Request) -> web.Response:
    """POST /containers/{id}/kill, with `signal`."""
    agent, entry = agent_of(request), entry_of(request)
    name = request.query.get("signal", "SIGKILL") or "SIGKILL"
    try:
        number = signal_number(name)
    except MeshnetError:
        raise MeshnetError(f"Invalid signal: {name}") from None
    if entry.container is None or entry.status != "running":
        raise ConflictError(f"Cannot kill container: {entry.id}: Container {entry.id} is not running")
    if entry.standalone is not None and number in (signal.SIGKILL, signal_number(entry.spec.stop_signal)):
        await entry.standalone.halt()
    entry.container.kill_with(number)
    agent.happened(entry.spec, "kill", signal=str(number))
    return web.Response(status=204)


async def stop(request: web.Request) -> web.Response:
    """POST /containers/{id}/stop, with `t` (seconds): 304 if it does not run."""
    node, entry = node_of(request), entry_of(request)
    if entry.standalone is not None:
        entry.standalone.check_taken_up()
    if entry.state != "restarting" and (entry.container is None or entry.status != "running"):
        return web.Response(status=304)
    await node.complete(stopped(node.agent, entry, _seconds(request)))
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    """POST /containers/{id}/pause: its processes stand still, its connections too. Its health is not checked."""
    agent, entry = agent_of(request), entry_of(request)
    if entry.container is None:
        raise ConflictError(f"Container {entry.id} is not running")
    await entry.container.pause()
    agent.happened(entry.spec, "pause")
    return web.Response(status=204)


async def unpause(request: web.Request) -> web.Response:
    """POST /containers/{id}/unpause"""
    agent, entry = agent_of(request), entry_of(request)
    if entry.container is None:
        raise MeshnetError(f"Container {entry.id} is not paused", 500)
    entry.container.unpause()
    agent.happened(entry.spec, "unpause")
    return web.Response(status=204)


def _seconds(request: web.Request) -> float | None:
    text = request.query.get("t", "")
    return float(text) if text.isdecimal() else None


async def stopped(agent: Agent, entry: Entry, grace: float | None) -> None:
    """Stops a container that runs, with its signal and after its grace period by force.

    Its ports and addresses are free then: whoever stops one to start another in its place must not find them taken.
    """
    container = await _halted(entry)
    if container is not None:
        agent.happened(entry.spec, "kill", signal=str(int(signal_number(entry.spec.stop_signal))))
        await container.stop(grace)
        if entry.standalone is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(inventory.CLEANED):
                    await entry.standalone.ended.wait()
        agent.happened(entry.spec, "stop")


async def _halted(entry: Entry) -> Container | None:
    """What runs of it and is to end, once no policy starts it again."""
    if entry.standalone is None:
        return entry.container
    await entry.standalone.halt()
    return entry.standalone.container


async def wait(request: web.Request) -> web.StreamResponse:
    """POST /containers/{id}/wait, with `condition`: not-running, next-exit, removed.

    The head is sent at once: by it a client knows that the exit will not be missed.
    """
    entry = entry_of(request)
    condition = request.query.get("condition", "not-running")
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise MeshnetError(f"invalid condition: {condition!r}")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    code = await inventory.exit_of(agent_of(request), entry, condition)
    await response.write(json.dumps({"Error": None, "StatusCode": code}).encode() + b"\n")
    await response.write_eof()
    return response


async def remove(request: web.Request) -> web.Response:
    """DELETE /containers/{id}, with `force` and `v`. A task's container that is removed is replaced by the swarm."""
    node, entry = node_of(request), entry_of(request)
    if entry.state == "restarting" and not flag(request, "force"):
        raise ConflictError(
            f"You cannot remove a restarting container {entry.id}. Stop the container before attempting removal or "
            "force remove"
        )
    if entry.status == "running" and not flag(request, "force"):
        if entry.state == "paused":
            raise ConflictError(
                f"You cannot remove a paused container {entry.id}. Unpause and then stop the container before "
                "attempting removal or force remove"
            )
        raise ConflictError(
            f"You cannot remove a running container {entry.id}. Stop the container before attempting removal or force "
            "remove"
        )
    await node.complete(removed(node.agent, entry))
    return web.Response(status=204)


async def removed(agent: Agent, entry: Entry) -> None:
    """Ends a container, and returns once nothing is left of it."""
    container = await _halted(entry)
    if container is not None and container.status == "running":
        agent.happened(entry.spec, "kill", signal=str(int(signal.SIGKILL)))
        await container.kill()
    await inventory.discard(agent, entry)
    agent.happened(entry.spec, "destroy")


async def prune(request: web.Request) -> web.Response:
    """POST /containers/prune: removes those that do not run."""
    node = node_of(request)
    wanted = filters.parse(request.query.get("filters", ""), ("label", "label!", "until"))
    gone = []
    for entry in list(inventory.entries(node.agent)):
        if (
            entry.state in ("exited", "created")
            and entry.container is None
            and (entry.standalone is None or entry.standalone.taken_up)
            and filters.labels_match(wanted, "label", entry.spec.labels)
        ):
            await node.complete(removed(node.agent, entry))
            gone.append(entry.id)
    return answer({"ContainersDeleted": gone or None, "SpaceReclaimed": 0})


async def resize(request: web.Request) -> web.Response:
    """POST /containers/{id}/resize, with `h` and `w` in characters."""
    entry = entry_of(request)
    running(entry)
    height, width = size_of(request)
    if entry.spec.tty:
        attaching.resize(entry.directory, height, width)
    return web.Response()


def size_of(request: web.Request) -> tuple[int, int]:
    """Height and width of a terminal. Raises MeshnetError."""
    sizes = []
    for name in ("h", "w"):
        text = request.query.get(name, "")
        if not text.isdecimal() or int(text) > 65535:
            raise MeshnetError(f"{name}: a number of characters is needed, not {text!r}")
        sizes.append(int(text))
    return sizes[0], sizes[1]


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/containers/json", list_containers),
    ("GET", "/containers/{id}/json", inspect_container),
    ("GET", "/containers/{id}/top", top),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/pause", pause),
    ("POST", "/containers/{id}/unpause", unpause),
    ("POST", "/containers/{id}/wait", wait),
    ("POST", "/containers/{id}/resize", resize),
    ("POST", "/containers/prune", prune),
    ("DELETE", "/containers/{id}", remove),
)
