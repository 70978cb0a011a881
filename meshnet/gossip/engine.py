"""The gossip engine: membership and records as one value without sockets, clock or randomness of its own.

In: `receive_datagram`, `receive_stream`, `handle_timer`, and what the node itself wants (`join`, `publish`,
`withdraw`, `leave`). Out, after each of them: `datagrams_to_send`, `streams_to_open`, `next_event`, `next_timer`.
Nothing that a peer sends makes it raise: what cannot be used is counted in `statistics` under its reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from meshnet.gossip import codec
from meshnet.gossip.awareness import Awareness
from meshnet.gossip.codec import (
    Ack,
    Alive,
    Dead,
    ErrorMessage,
    IndirectPing,
    Message,
    Nack,
    Ping,
    Suspect,
    User,
)
from meshnet.gossip.members import Members, Node
from meshnet.gossip.meta import LIFE_BITS, MemberMeta
from meshnet.gossip.outbox import PART_OVERHEAD, Outbox, StreamRequest
from meshnet.gossip.probe import Prober
from meshnet.gossip.queue import TransmitQueue
from meshnet.gossip.records import Position
from meshnet.gossip.replicate import Replicator
from meshnet.gossip.rng import Random
from meshnet.gossip.settings import Settings
from meshnet.gossip.stream import Compressed, PushPull, StreamMessage, StreamParser
from meshnet.gossip.timers import Timer, Timers
from meshnet.gossip.types import LIVE, Address, Event, JoinResult, Member, MemberChanged, Record, WireError

PACKETS_PER_TICK = 4
"""Datagrams per target and queue in one gossip tick, when much is queued."""
EARLY = 0.5
"""The part of their rests that exchanges and searches may come early, so as not to wake a node for themselves alone."""
SEED_SHARE = 0.25
"""How often, per reconnect interval, a node that is not alone looks for a seed that it does not see."""
MANY_MEMBERS = 32
"""Beyond this number push/pull exchanges become rarer (memberlist's pushPullScale)."""


@dataclass(frozen=True, slots=True)
class StreamStep:
    """What to do with a stream after feeding it: write `reply`, stop when `done`.

    `inflate` is slow work to be done elsewhere; give its result (None if it raised WireError) to `resume_stream`.
    """

    done: bool
    reply: bytes = b""
    inflate: Callable[[], bytes] | None = None


@dataclass(slots=True)
class _Stream:
    parser: StreamParser
    kind: str
    address: Address
    done: bool = False


class Engine:
    """One member. `now` is always seconds on a monotonic clock; `urandom(n)` gives n unpredictable bytes."""

    def __init__(self, settings: Settings, rng: Random, urandom: Callable[[int], bytes], now: float) -> None:
        life = rng.getrandbits(LIFE_BITS)
        settings = replace(settings, meta=replace(settings.meta, epoch=settings.epoch, life=life))
        self.settings = settings
        self._rng = rng
        self._counters: Counter[str] = Counter()
        self._events: deque[Event] = deque()
        self._timers = Timers()
        self._queue = TransmitQueue(settings.gossip_nodes)
        self._record_queue = TransmitQueue(settings.gossip_nodes)
        self._awareness = Awareness(settings.awareness_max)
        self._outbox = Outbox(settings, urandom, self._counters)
        self._now = now
        self._members = Members(
            settings, self._timers, rng, self._queue, self._awareness, self._emit,
            lambda address, body: self._outbox.send([address], [body], crc=True), self._counters, now,
        )  # fmt: skip
        self._records = Replicator(
            settings,
            self._members,
            self._outbox,
            self._record_queue,
            self._timers,
            self._emit,
            self._counters,
        )
        self._prober = Prober(
            settings, self._members, self._outbox, self._timers, rng, self._awareness, self._counters,
            lambda node, payload, when: self._records.ack_payload(payload, node, when),
            lambda node, when: self._push_pull(node.address, False),
        )  # fmt: skip
        self._streams: dict[int, _Stream] = {}
        self._seeds: list[Address] = []
        self._gossip_timer: Timer | None = None
        self._last_gossip = float("-inf")

    # in

    def start(self, now: float) -> None:
        """Begin to keep time; what was published before is part of the first exchange."""
        self._now = now
        self._timers.run(now)
        self._timers.at(now + self._stagger(self.settings.push_pull_interval), self._push_pull_tick)
        self._timers.at(now + self._stagger(self.settings.reconnect_interval), self._reconnect_tick)

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """One datagram came from `source`."""
        self._now = now
        self._counters["datagrams_received"] += 1
        self._counters["datagram_bytes_received"] += len(data)
        try:
            parts, dropped = codec.split_datagram(self._open(data))
        except WireError as error:
            self._drop(error.reason)
            return
        if dropped:
            self._drop(dropped)
        for part in parts:
            try:
                self._dispatch(codec.decode_message(part), source, now)
            except WireError as error:
                self._drop(error.reason)
        self._arm_gossip(now)

    def accept_stream(self, source: Address) -> int:
        """A peer connected. Feed its bytes to `receive_stream` under the number returned."""
        number = self._outbox.next_id()
        self._streams[number] = _Stream(self._parser(), "inbound", source)
        self._counters["streams_accepted"] += 1
        return number

    def receive_stream(self, number: int, data: bytes, now: float) -> StreamStep:
        """Bytes came on a stream, accepted or opened here."""
        self._now = now
        stream = self._streams.get(number)
        if stream is None or stream.done:
            return StreamStep(True)
        self._counters["stream_bytes_received"] += len(data)
        try:
            message = stream.parser.feed(data)
            if message is None:
                return StreamStep(False)
            if isinstance(message, Compressed):
                return StreamStep(False, inflate=message.inflate)
            return self._stream_message(number, stream, message, now)
        except WireError as error:
            return self._stream_dropped(stream, error)

    def resume_stream(self, number: int, plaintext: bytes | None, now: float) -> StreamStep:
        """The result of `StreamStep.inflate`, or None when it raised WireError."""
        stream = self._streams.get(number)
        if stream is None or stream.done:
            return StreamStep(True)
        try:
            if plaintext is None:
                raise WireError("malformed")
            return self._stream_message(number, stream, stream.parser.inflated(plaintext), now)
        except WireError as error:
            return self._stream_dropped(stream, error)

    def stream_closed(self, number: int, error: str, now: float) -> None:
        """A stream ended; `error` says why if it failed."""
        stream = self._streams.pop(number, None)
        if stream is None or stream.done:
            return
        if stream.kind == "inbound" or error:
            self._counters["streams_failed"] += 1
        if stream.kind == "join":
            self._emit(JoinResult(stream.address, error or "it closed the connection without an answer"))

    def handle_timer(self, now: float) -> None:
        """Do what is due. A call that comes late is noticed: this node was stalled, and accuses nobody for a while."""
        due = self._timers.next()
        self._now = now
        if due is not None and now - due > self.settings.probe_timeout:
            self._counters["stalls"] += 1
            self._awareness.apply(1)
            self._members.trusted_after = now + self.settings.probe_timeout
        self._timers.run(now)
        self._arm_gossip(now)

    # out

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self._timers.next()

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """What is to be sent by UDP; handed out once."""
        datagrams, self._outbox.datagrams = self._outbox.datagrams, []
        return datagrams

    def streams_to_open(self) -> list[StreamRequest]:
        """Streams to open; handed out once."""
        streams, self._outbox.streams = self._outbox.streams, []
        for request in streams:
            if request.reply and request.id not in self._streams:
                self._streams[request.id] = _Stream(self._parser(), "ping", request.address)
        return streams

    def next_event(self) -> Event | None:
        """The oldest event not handed out yet."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> Counter[str]:
        """Counters of all that was sent, received and dropped, and a few sizes. What never happened is 0."""
        counters = Counter(self._counters)
        counters["members"] = len(self._members.nodes)
        counters["live_members"] = self._members.count()
        counters["logs"] = len(self._records.logs)
        counters["queued_broadcasts"] = len(self._queue) + len(self._record_queue)
        counters["awareness"] = self._awareness.score
        return counters

    # what the node wants

    def join(self, addresses: Iterable[Address], now: float) -> None:
        """Exchange state with these members; each gives a JoinResult. While one is not seen it is tried again."""
        self._now = now
        for address in addresses:
            if address not in self._seeds and address != self._members.me.address:
                self._seeds.append(address)
            self._push_pull(address, True)

    def leave(self, now: float) -> None:
        """Say farewell. Give it until `farewell_sent` (bounded) before closing the sockets."""
        self._now = now
        word = self._members.leave(now)
        live = [node.address for node in self._members.others(*LIVE)]
        if len(live) <= self.settings.direct_members:
            self._outbox.send(live, [word], crc=True)
        self._arm_gossip(now)

    @property
    def farewell_sent(self) -> bool:
        """Whether nothing is left to be told by gossip."""
        return not len(self._queue) or not self._members.others(*LIVE)

    def publish(self, network: str, kind: str, key: str, value: Mapping[str, object], now: float) -> int:
        """Put a record in this node's log. Returns the number to give to `acknowledged`. Raises MeshnetError."""
        return self._records.publish((network, kind, key), value, now)

    def withdraw(self, network: str, kind: str, key: str, now: float) -> int:
        """Take a record back. Returns the number to give to `acknowledged`."""
        return self._records.withdraw((network, kind, key), now)

    def update_meta(self, meta: MemberMeta, now: float) -> None:
        """Change what this node says of itself; the epoch stays its own. Raises MeshnetError when too long."""
        self._members.update(replace(meta, epoch=self.epoch, life=self.settings.meta.life))
        self._arm_gossip(now)

    def set_keys(self, keys: tuple[bytes, ...]) -> None:
        """Use these keys: the first seals, all open. Raises ValueError for one of a wrong length."""
        self._outbox.keyring.replace(keys)

    def acknowledged(self, seq: int) -> tuple[frozenset[str], frozenset[str]]:
        """Live meshnet members that have seen this node's log up to `seq`, and those not known to have."""
        return self._records.acknowledged(seq)

    def in_force(self, seq: int) -> bool:
        """Whether what this node's log says up to `seq` is in force here and at every live meshnet member."""
        return self._records.in_force(seq)

    def ask_in_force(self, seq: int, now: float) -> None:
        """Asks the members that have seen `seq` and have not said that it is in force: their word may be lost."""
        self._now = now
        self._records.ask_in_force(seq)

    def positions(self) -> dict[str, Position]:
        """How far each visible log is, this node's included: what `records` showed, for `settle`."""
        return self._records.positions()

    def settle(self, positions: Mapping[str, Position], now: float) -> None:
        """Everything up to these positions is in force at this node."""
        self._now = now
        self._records.settle(positions)

    def caught_up(self) -> bool:
        """Whether this node has every record that a live member has told it of, after at least one has."""
        return self._records.caught_up()

    def records(self) -> list[Record]:
        """Every visible record, of this node and of live members."""
        return self._records.records()

    def members(self) -> list[Member]:
        """Every known member, this one included."""
        return [node.public() for node in self._members.nodes.values()]

    @property
    def epoch(self) -> int:
        """This node's epoch; moves on when peers hold a newer log of its name."""
        return self._records.own.epoch >> LIFE_BITS

    # datagrams

    def _open(self, data: bytes) -> bytes:
        """Take label and encryption off. Raises WireError."""
        label = self.settings.label
        if data[:1] == bytes((codec.LABEL,)):
            if len(data) < 2 or len(data) < 2 + data[1]:
                raise WireError("truncated")
            found, data = data[2 : 2 + data[1]], data[2 + data[1] :]
        else:
            found = b""
        if found != label:
            raise WireError("bad_label")
        if len(data) > codec.PACKET_LIMIT:
            raise WireError("oversized")
        return self._outbox.keyring.open(data, label) if self._outbox.keyring else data

    def _dispatch(self, message: Message, source: Address, now: float) -> None:
        match message:
            case Ping():
                self._prober.ping_received(message, source, self._ack_payload, now)
            case Ack():
                self._prober.ack_received(message, now)
            case IndirectPing():
                self._prober.indirect_received(message, source, now)
            case Nack():
                self._prober.nack_received(message)
            case Alive():
                self._members.alive(message, now, source)
            case Suspect():
                self._members.suspect(message, now, source)
            case Dead():
                self._members.dead(message, now, source)
            case User(body):
                self._records.receive(body, now)
            case ErrorMessage():
                self._drop("unknown_type")

    def _ack_payload(self, pinging: Node | None) -> bytes | None:
        """The digest, for a member that can read it; others keep their own things in ack payloads."""
        return self._records.digest() if pinging is not None and pinging.peer is not None else None

    # streams

    def _parser(self) -> StreamParser:
        return StreamParser(self._outbox.keyring, self.settings.label, self.settings.stream_limit)

    def _stream_message(self, number: int, stream: _Stream, message: StreamMessage, now: float) -> StreamStep:
        self._now = now
        stream.done = True
        reply = b""
        match message:
            case PushPull():
                if stream.kind == "inbound":
                    reply = self._outbox.encode_stream(self._state(False))
                self._merge(message, stream, now)
            case Ping(seq, name) if stream.kind == "inbound":
                if name in ("", self._members.me.name):
                    reply = self._outbox.encode_stream(Ack(seq))
            case User(body) if stream.kind == "inbound":
                self._records.receive(body, now)
            case Ack() if stream.kind == "ping":
                self._prober.stream_answered(number, message)
            case ErrorMessage(text):
                self._counters["remote_errors"] += 1
                if stream.kind == "join":
                    self._emit(JoinResult(stream.address, f"it refused: {text}"))
            case _:
                raise WireError("unknown_type")
        self._arm_gossip(now)
        return StreamStep(True, reply)

    def _stream_dropped(self, stream: _Stream, error: WireError) -> StreamStep:
        self._drop(error.reason)
        stream.done = True
        if stream.kind == "join":
            self._emit(JoinResult(stream.address, f"its answer is {error.reason}"))
        return StreamStep(True)

    def _state(self, join: bool) -> PushPull:
        return PushPull(join, self._members.states(), self._records.vector(True))

    def _push_pull(self, address: Address, join: bool) -> None:
        number = self._outbox.open_stream(address, self._state(join), reply=True)
        self._streams[number] = _Stream(self._parser(), "join" if join else "push_pull", address)
        self._counters["push_pulls"] += 1

    def _merge(self, message: PushPull, stream: _Stream, now: float) -> None:
        source = None if stream.kind == "inbound" else stream.address
        self._members.merge(message.nodes, now, source)
        if stream.kind == "join":
            self._emit(JoinResult(stream.address, ""))
        if message.user:
            self._records.receive(message.user, now)

    # timers

    def _stagger(self, seconds: float) -> float:
        return seconds * (0.5 + self._rng.random())

    def _push_pull_tick(self, now: float) -> None:
        interval = self.settings.push_pull_interval
        scale = max(0, (max(1, self._members.count()) - 1).bit_length() - MANY_MEMBERS.bit_length() + 1)
        rest = self._stagger(interval * (scale + 1))
        self._timers.at(now + rest, self._push_pull_tick, EARLY * rest)
        alive = self._members.others("alive")
        if alive and not self._members.leaving:
            self._push_pull(self._rng.choice(alive).address, False)

    def _reconnect_tick(self, now: float) -> None:
        """Look for a dead member and for absent seeds, so that islands merge; forget what is long gone."""
        rest = self._stagger(self.settings.reconnect_interval)
        self._timers.at(now + rest, self._reconnect_tick, EARLY * rest)
        if self._members.leaving:
            return
        self._members.reap(now)
        self._records.collect(now)
        dead = self._members.others("dead")
        lost = list(self._members.lost.values())
        if dead and (not lost or self._rng.random() < 0.5):
            self._prober.try_dead(self._rng.choice(dead), now)
        elif lost:
            self._push_pull(self._rng.choice(lost)[0], False)
        live = {node.address for node in self._members.others(*LIVE)}
        absent = [seed for seed in self._seeds if seed not in live]
        if absent and (not live or self._rng.random() < SEED_SHARE):
            self._push_pull(self._rng.choice(absent), False)

    def _arm_gossip(self, now: float) -> None:
        """A gossip tick happens only when there is something to tell, and then at once if the last one is old."""
        if self._gossip_timer is None and (len(self._queue) or len(self._record_queue)):
            when = max(now, self._last_gossip + self.settings.gossip_interval)
            self._gossip_timer = self._timers.at(when, self._gossip_tick)

    def _gossip_tick(self, now: float) -> None:
        self._gossip_timer = None
        self._last_gossip = now
        horizon = now - self.settings.gossip_to_the_dead
        candidates = [
            node
            for node in self._members.others("alive", "suspect", "dead")
            if node.state != "dead" or node.changed > horizon
        ]
        self._gossip(self._queue, candidates)
        self._gossip(self._record_queue, [node for node in candidates if node.peer is not None])

    def _gossip(self, queue: TransmitQueue, candidates: list[Node]) -> None:
        members = len(candidates) + 1
        chosen = self._rng.sample(candidates, min(self.settings.gossip_nodes, len(candidates)))
        targets = [node.address for node in chosen]
        for parts in queue.take(self._outbox.budget, PART_OVERHEAD, members, PACKETS_PER_TICK):
            self._outbox.send(targets, parts, crc=True)

    # bookkeeping

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, MemberChanged):
            self._prober.wake(self._now)
            self._records.member_changed(event, self._now)

    def _drop(self, reason: str) -> None:
        self._counters[f"dropped_{reason}"] += 1
