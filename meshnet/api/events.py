"""GET /events: what happened between two times, and what happens; of a manager, what became of the swarm's objects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from meshnet.agent.events import Events, Listener
from meshnet.api import filters, words
from meshnet.control.objects import Change
from meshnet.errors import MeshnetError
from meshnet.model import Config, Network, Node, Secret, Service

HUB = web.AppKey("events", Events)
FILTERS = (
    *("type", "event", "container", "image", "label", "network", "volume", "service", "node", "scope", "daemon"),
    *("secret", "config", "plugin"),
)
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants: times in seconds since 1970, None for no bound."""

    since: float | None
    until: float | None
    wanted: filters.Filters

    def wants(self, event: Json) -> bool:
        """Whether an event, as it is shown, is asked for."""
        at = event["timeNano"] / 1e9
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        attributes, actor = event["Actor"]["Attributes"], event["Actor"]["ID"]
        for kind in ("container", "image", "network", "volume", "service", "node", "secret", "config"):
            names = [actor, attributes.get("name", "")] if event["Type"] == kind else []
            if kind == "container" and event["Type"] != kind:
                names = [attributes.get("container", "")]
            if kind in self.wanted and not any(name and filters.any_prefix(self.wanted, kind, name) for name in names):
                return False
        return (
            filters.any_equal(self.wanted, "type", event["Type"])
            and filters.any_equal(self.wanted, "event", event["Action"], event["Action"].partition(":")[0])
            and filters.any_equal(self.wanted, "scope", event["scope"])
            and filters.labels_match(self.wanted, "label", attributes)
        )


def asked_of(request: web.Request) -> Asked:
    """Raises MeshnetError for times and filters that are none."""
    times = []
    for name in ("since", "until"):
        try:
            times.append(words.parse_time(request.query.get(name, "")))
        except ValueError:
            raise MeshnetError(f"invalid value for {name!r}: {request.query[name]!r} is no time") from None
    since, until = times
    if since is not None and until is not None and since > until:
        raise MeshnetError("`since` time cannot be after `until` time")
    return Asked(since, until, filters.parse(request.query.get("filters", ""), FILTERS))


async def events(request: web.Request) -> web.StreamResponse:
    """GET /events on a manager: the swarm's."""
    asked, hub = asked_of(request), request.config_dict[HUB]
    return await stream(request, asked, hub, [])


async def stream(
    request: web.Request, asked: Asked, hub: Events, past: Iterable[Json], more: AsyncIterator[Json] | None = None
) -> web.StreamResponse:
    """Sends what is asked for: `past` and the hub's history in their order, then what comes, also from `more`."""
    listener = hub.listen()
    queue: asyncio.Queue[Json | None] = asyncio.Queue(64)
    pumps = [asyncio.create_task(_own(listener, queue))]
    if more is not None:
        pumps.append(asyncio.create_task(_others(more, queue)))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    try:
        await response.prepare(request)
        if asked.since is not None:
            shown = sorted([*past, *(event.to_json() for event in hub.history())], key=lambda event: event["timeNano"])
            for event in filter(asked.wants, shown):
                await _send(response, event)
        while True:
            left = None if asked.until is None else max(asked.until - time.time(), 0.0)
            try:
                async with asyncio.timeout(left):
                    found = await queue.get()
            except TimeoutError:
                break
            if found is None:
                break
            if asked.wants(found):
                await _send(response, found)
        await response.write_eof()
    finally:
        listener.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    return response


async def _own(listener: Listener, queue: asyncio.Queue[Json | None]) -> None:
    while not listener.lost:
        await queue.put((await listener.get()).to_json())
    await queue.put(None)  # the client was too slow: it hears no more, and sees that it does not


async def _others(more: AsyncIterator[Json], queue: asyncio.Queue[Json | None]) -> None:
    async for event in more:
        await queue.put(event)


async def _send(response: web.StreamResponse, event: Json) -> None:
    await response.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")


class SwarmEvents:
    """Turns changes of the swarm's state into events of a hub."""

    def __init__(self, hub: Events) -> None:
        self._hub = hub

    def changed(self, changes: Iterable[Change]) -> None:
        """What people did is told, and what became of nodes; what the manager keeps for itself is not."""
        for change in changes:
            thing = change.after if change.after is not None else change.before
            if not isinstance(thing, Node | Service | Network | Secret | Config):
                continue
            action = "create" if change.before is None else "remove" if change.after is None else "update"
            attributes = _attributes(change.before if change.after is not None else None, thing)
            if attributes is not None:
                self._hub.publish(type(thing).__name__.lower(), action, thing.id, attributes, "swarm")


def _attributes(before: Any, thing: Any) -> dict[str, str] | None:
    """The name, and what changed; None for an update that is nobody's business."""
    if isinstance(thing, Node):
        found = {"name": thing.description.hostname}
        if isinstance(before, Node):
            pairs = (
                ("state", before.status.state, thing.status.state),
                ("availability", before.spec.availability, thing.spec.availability),
                ("role", before.spec.role, thing.spec.role),
            )
            for name, old, new in pairs:
                if old != new:
                    found |= {f"{name}.new": new, f"{name}.old": old}
            if len(found) == 1 and before.spec == thing.spec:
                return None
        return found
    if isinstance(before, type(thing)) and before.spec == thing.spec:
        state = getattr(getattr(thing, "update_status", None), "state", "")
        old = getattr(getattr(before, "update_status", None), "state", "")
        if state == old:
            return None
        return {"name": thing.spec.name, "updatestate.new": state, **({"updatestate.old": old} if old else {})}
    return {"name": thing.spec.name}
