"""What happened, for whoever asks: the last events, and a queue for each listener.

The Engine keeps its last 256 events and sends new ones to every listener. A listener that does not take its events
is dropped when its queue is full: nobody may hold up a node, and nothing grows without bound.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HISTORY = 256
QUEUE = 1024


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is container, image, volume, network, node, service ...; `at` is in nanoseconds since 1970."""

    at: int
    kind: str
    action: str
    actor: str
    attributes: dict[str, str] = field(default_factory=dict)
    scope: str = "local"

    def to_json(self) -> dict[str, Any]:
        """As `GET /events` shows it; containers and images have the fields of older clients, too."""
        shown: dict[str, Any] = {}
        if self.kind in ("container", "image"):
            shown = {"status": self.action, "id": self.actor}
        if self.kind == "container" and "image" in self.attributes:
            shown["from"] = self.attributes["image"]
        return {
            **shown,
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.actor, "Attributes": self.attributes},
            "scope": self.scope,
            "time": self.at // 10**9,
            "timeNano": self.at,
        }


class Listener:
    """A queue of events. `lost` once it was full."""

    def __init__(self, hub: Events) -> None:
        self._hub = hub
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        self.lost = False

    def put(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.lost = True
            self.close()

    async def get(self) -> Event:
        """The next event."""
        return await self._queue.get()

    def close(self) -> None:
        self._hub.silence(self)


class Events:
    """The events of one process."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: set[Listener] = set()

    def publish(
        self, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None, scope: str = "local"
    ) -> None:
        """Tells that something happened now."""
        event = Event(time.time_ns(), kind, action, actor, dict(attributes or {}), scope)
        self._history.append(event)
        for listener in list(self._listeners):
            listener.put(event)

    def history(self) -> list[Event]:
        """The last events, oldest first."""
        return list(self._history)

    def listen(self) -> Listener:
        """A queue of what happens from now on; to be closed."""
        listener = Listener(self)
        self._listeners.add(listener)
        return listener

    def silence(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        return len(self._listeners)
