"""Gossip engines wired in memory: one seed, a clock that only moves when told, and a network that loses,
repeats, delays (and so reorders) and cuts."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshnet.gossip.engine import Engine
from meshnet.gossip.outbox import StreamRequest
from meshnet.gossip.settings import Settings
from meshnet.gossip.types import Address, Event, JoinResult, MemberChanged, WireError


@dataclass
class Link:
    """How datagrams travel; streams travel too, but are neither lost nor repeated, only cut."""

    loss: float = 0.0
    repeat: float = 0.0
    delay: tuple[float, float] = (0.0005, 0.002)


class Net:
    """Nodes by name. `run` moves the clock; `until` moves it until something holds."""

    def __init__(self, seed: int, link: Link | None = None, **overrides: Any) -> None:
        self.rng = random.Random(seed)
        self.link = link or Link()
        self.now = 1000.0
        self.overrides = overrides
        self.engines: dict[str, Engine] = {}
        self.events: dict[str, list[Event]] = {}
        self.cut: set[tuple[str, str]] = set()
        self.paused: dict[str, float] = {}
        self.datagrams = 0
        self.stream_bytes = 0
        self.streams: list[tuple[str, str]] = []
        self._names: dict[Address, str] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    # nodes

    def settings(self, name: str, **more: Any) -> Settings:
        number = sum(map(ord, name)) if not name[1:].isdigit() else int(name[1:])
        address = f"10.0.{number // 250}.{number % 250 + 1}"
        return Settings(name=name, address=address, **{**self.overrides, **more})

    def add(self, name: str, settings: Settings | None = None, **more: Any) -> Engine:
        """A new life of the node, with the LAN's times unless told otherwise."""
        settings = settings or self.settings(name, **more)
        seed = self.rng.getrandbits(64)
        rng = random.Random(seed)
        engine = Engine(settings, random.Random(seed), rng.randbytes, self.now)
        self.engines[name] = engine
        self.events[name] = []
        self._names[settings.address, settings.port] = name
        engine.start(self.now)
        return engine

    def kill(self, name: str) -> None:
        """The node is gone without a word."""
        del self.engines[name]

    def start(self, count: int, local: bool = True, **more: Any) -> list[Engine]:
        """n0 ... joined to one another through n0."""
        for number in range(count):
            plain = self.settings(f"n{number}", **more)
            self.add(f"n{number}", plain.local() if local else plain)
        for number in range(1, count):
            self.join(f"n{number}", "n0")
        return list(self.engines.values())

    def join(self, name: str, to: str) -> None:
        settings = self.engines[to].settings
        self.engines[name].join([(settings.address, settings.port)], self.now)
        self.flush(name)

    # partitions: one direction at a time

    def partition(self, left: list[str], right: list[str], both: bool = True) -> None:
        for a, b in itertools.product(left, right):
            self.cut.add((a, b))
            if both:
                self.cut.add((b, a))

    def heal(self) -> None:
        self.cut.clear()

    # time

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        self.until(lambda: False, seconds, must=False)

    def until(self, condition: Callable[[], bool], seconds: float, must: bool = True) -> float:
        """Let time pass until the condition holds; returns how long that took. Fails after `seconds`."""
        began = self.now
        end = self.now + seconds
        for name in list(self.engines):
            self.flush(name)
        while not condition():
            due = self._next()
            if due is None or due > end:
                self.now = end
                assert not must or condition(), f"not within {seconds} s of virtual time"
                break
            self.now = max(self.now, due)
            self._step()
        return self.now - began

    def _next(self) -> float | None:
        timers = [
            max(due, self.paused.get(name, 0.0))
            for name, engine in self.engines.items()
            if (due := engine.next_timer()) is not None
        ]
        if self._queue:
            timers.append(self._queue[0][0])
        return min(timers, default=None)

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for name, engine in list(self.engines.items()):
            due = engine.next_timer()
            if due is not None and due <= self.now and self.paused.get(name, 0.0) <= self.now:
                engine.handle_timer(self.now)
                self.flush(name)

    # wires

    def flush(self, name: str) -> None:
        """Take what an engine wants sent, and its events."""
        engine = self.engines[name]
        for data, address in engine.datagrams_to_send():
            self._send(name, data, address)
        for request in engine.streams_to_open():
            self._open(name, engine, request)
        while (event := engine.next_event()) is not None:
            self.events[name].append(event)

    def _later(self, action: Callable[[], None]) -> None:
        delay = self.rng.uniform(*self.link.delay)
        heapq.heappush(self._queue, (self.now + delay, next(self._count), action))

    def _send(self, name: str, data: bytes, address: Address) -> None:
        target = self._names.get(address)
        self.datagrams += 1
        assert len(data) <= self.engines[name].settings.packet_size
        if target is None or (name, target) in self.cut or self.rng.random() < self.link.loss:
            return
        settings = self.engines[name].settings
        source = (settings.address, settings.port)
        for _ in range(2 if self.rng.random() < self.link.repeat else 1):
            self._later(lambda: self._deliver(target, data, source))

    def _deliver(self, name: str, data: bytes, source: Address) -> None:
        resume = self.paused.get(name, 0.0)
        if resume > self.now:
            action = (resume, next(self._count), lambda: self._deliver(name, data, source))
            heapq.heappush(self._queue, action)
        elif name in self.engines:
            self.engines[name].receive_datagram(data, source, self.now)
            self.flush(name)

    def _open(self, name: str, engine: Engine, request: StreamRequest) -> None:
        target = self._names.get(request.address)
        reachable = target is not None and not {(name, target), (target, name)} & self.cut
        if target is None or not reachable or target not in self.engines:
            self._later(lambda: self._closed(name, engine, request, "refused"))
            return
        self.streams.append((name, target))
        self._later(lambda: self._converse(name, engine, target, request))

    def _converse(self, name: str, engine: Engine, target: str, request: StreamRequest) -> None:
        server = self.engines.get(target)
        if server is None or self.engines.get(name) is not engine or self.paused.get(target, 0.0) > self.now:
            self._closed(name, engine, request, "refused")
            return
        number = server.accept_stream((engine.settings.address, 40000))
        reply = self._feed(server, number, request.data)
        server.stream_closed(number, "", self.now)
        self.flush(target)
        self.stream_bytes += len(request.data) + len(reply)
        if request.reply:
            self._feed(engine, request.id, reply)
        self._closed(name, engine, request, "")

    def _feed(self, engine: Engine, number: int, data: bytes) -> bytes:
        step = engine.receive_stream(number, data, self.now)
        if step.inflate is not None:
            try:
                plaintext = step.inflate()
            except WireError:
                plaintext = None
            step = engine.resume_stream(number, plaintext, self.now)
        return step.reply

    def _closed(self, name: str, engine: Engine, request: StreamRequest, error: str) -> None:
        engine.stream_closed(request.id, error, self.now)
        if self.engines.get(name) is engine:
            self.flush(name)

    # what nodes think

    def states(self, name: str) -> dict[str, str]:
        """Member name to state, as this node sees it."""
        return {member.name: member.state for member in self.engines[name].members()}

    def agree(self, *names: str) -> bool:
        """Whether all engines (or these) see exactly one another alive."""
        wanted = set(names or self.engines)
        return all({name for name, state in self.states(each).items() if state == "alive"} == wanted for each in wanted)

    def where(self, name: str) -> Address:
        """The node's address."""
        settings = self.engines[name].settings
        return settings.address, settings.port

    def joins(self, name: str) -> list[JoinResult]:
        """How this node's joins ended."""
        return [event for event in self.events[name] if isinstance(event, JoinResult)]

    def suspected_by(self, name: str) -> list[str]:
        """Whom this node has suspected so far."""
        changes = [event.member for event in self.events[name] if isinstance(event, MemberChanged)]
        return [member.name for member in changes if member.state == "suspect"]

    def agree_within(self, names: list[str]) -> bool:
        """Whether these see exactly one another alive, and everyone else dead or not at all."""
        return self.agree(*names)

    def keys(self, name: str) -> set[tuple[str, str]]:
        """(owner, key) of the records that this node sees."""
        return {(record.owner, record.key) for record in self.engines[name].records()}

    def same_records(self) -> bool:
        """Whether all engines see the same records."""
        views = [
            sorted((r.owner, r.epoch, r.seq, r.network, r.kind, r.key, str(r.value)) for r in engine.records())
            for engine in self.engines.values()
        ]
        return all(view == views[0] for view in views)
