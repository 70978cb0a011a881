"""Telling every peer of this node's own records, until each has said that it has them.

Small clusters: what is new goes to every peer at once, and again after growing waits until it is acknowledged.
Large ones: it goes to the gossip queue, and probes' digests tell who has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshnet.errors import MeshnetError
from meshnet.gossip.codec import User, encode_message
from meshnet.gossip.members import Members, Node
from meshnet.gossip.outbox import PART_OVERHEAD, Outbox
from meshnet.gossip.queue import TransmitQueue
from meshnet.gossip.records import Key, OwnerLog, Position, encode_value
from meshnet.gossip.settings import Settings
from meshnet.gossip.sync import Deltas, Seen, SyncMessage, encode_sync
from meshnet.gossip.timers import Timer, Timers
from meshnet.gossip.types import AcknowledgedChanged, Counters, Emit

CHUNK_LIMIT = 8
"""A suffix that takes more datagrams than this goes over a stream."""
TOMBSTONES_KEPT = 64
"""An owner forgets tombstones only beyond this many, and only ones that every live peer has seen ..."""
TOMBSTONES_LIMIT = 4096
"""... unless there are this many."""


@dataclass(slots=True)
class Peer:
    """What is known of a peer's copy of this node's log."""

    name: str
    epoch: int
    start: int
    """The log's head when the peer appeared: what it is sent from while it has not said what it has."""
    pushed: int
    seen: int | None = None
    settled: int = -1
    """Up to where this node's log is in force there; meaningful in the present epoch."""
    tries: int = 0
    timer: Timer | None = None
    vector_after: float = float("-inf")
    ship_after: float = float("-inf")

    @property
    def base(self) -> int:
        """From where to repeat."""
        return self.start if self.seen is None else self.seen

    def stop(self) -> None:
        """Wait no longer for its answer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pusher:
    """This node's log, and its peers by name."""

    def __init__(
        self,
        settings: Settings,
        members: Members,
        outbox: Outbox,
        queue: TransmitQueue,
        timers: Timers,
        emit: Emit,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._members = members
        self._outbox = outbox
        self._queue = queue
        self._timers = timers
        self._emit = emit
        self._counters = counters
        self.own = OwnerLog(settings.name, settings.meta.log_epoch)
        self._own_settled = -1
        self.peers: dict[str, Peer] = {}
        self._flush_timer: Timer | None = None
        self._gossiped = 0

    @property
    def direct(self) -> bool:
        """Whether the cluster is small enough for telling everyone directly."""
        return len(self.peers) <= self._settings.direct_members

    def append(self, key: Key, value: Mapping[str, object] | None, now: float) -> int | None:
        """Publish `value` under the key, or withdraw it (None). Returns the new number, or None without a change.

        Raises MeshnetError for a value that is too large or not plain data.
        """
        current = self.own.holds(key)
        body = None if value is None else encode_value(value, self._settings.value_limit)
        if (current.body if current else None) == body:
            return None
        if body is not None and len(self.own) >= self._settings.log_limit:
            raise MeshnetError(f"a node publishes at most {self._settings.log_limit} records")
        seq = self.own.append(key, body).seq
        self._schedule(now)
        return seq

    def move_to_epoch(self, epoch: int, now: float) -> None:
        """Everyone gets the whole log again, under another epoch."""
        self.own.move_to_epoch(epoch)
        for peer in self.peers.values():
            peer.seen, peer.start, peer.pushed, peer.settled = None, 0, -1, -1
        self._gossiped = 0
        self._schedule(now)

    # peers

    def meet(self, node: Node, theirs: Position) -> None:
        """A live meshnet member appeared, or lives again. `theirs` is how far its log's copy here is."""
        peer = self.peers.get(node.name)
        epoch = node.peer.log_epoch if node.peer is not None else 0
        if peer is not None and peer.epoch == epoch:
            return
        self.forget(node.name)
        self.peers[node.name] = Peer(node.name, epoch, self.own.head, self.own.head)
        if self.direct:
            self.say(node, Seen(self.own.owner, {self.own.owner: self.own.position, node.name: theirs}))

    def forget(self, name: str) -> None:
        """The member is gone."""
        peer = self.peers.pop(name, None)
        if peer is not None:
            peer.stop()

    def has(self, name: str, position: Position) -> None:
        """A peer's copy is at least here."""
        peer = self.peers.get(name)
        if peer is None or position[0] != self.own.epoch:
            return
        if peer.seen is None or peer.seen < position[1]:
            peer.seen = position[1]
            self._emit(AcknowledgedChanged(name))
        if peer.seen >= self.own.head:
            peer.stop()

    def answered(self, name: str, position: Position, now: float) -> None:
        """A peer said how far its copy is: done, or it lacks something that nobody is about to send."""
        peer = self.peers.get(name)
        if peer is None:
            return
        self.has(name, position)
        if position[0] != self.own.epoch and peer.seen is None:
            peer.seen = 0
        behind = peer.seen is not None and peer.seen < self.own.head
        if (behind or position[0] != self.own.epoch) and peer.timer is None and now >= peer.ship_after:
            peer.ship_after = now + self._settings.sync_interval
            peer.tries = 0
            self._push(peer, self._packets(peer.base), now)

    def acknowledged(self, seq: int) -> tuple[frozenset[str], frozenset[str]]:
        """Names of live peers that have seen this node's log up to `seq`, and of those not known to have."""
        seen: set[str] = set()
        missing: set[str] = set()
        for node in self._members.peers():
            peer = self.peers.get(node.name)
            known = peer is not None and peer.seen is not None and peer.seen >= seq
            (seen if known else missing).add(node.name)
        return frozenset(seen), frozenset(missing)

    def settled(self, name: str, position: Position) -> None:
        """This node's log is in force up to here at a peer, or at this node itself."""
        if position[0] != self.own.epoch:
            return
        if name == self.own.owner:
            self._own_settled = max(self._own_settled, position[1])
        elif (peer := self.peers.get(name)) is not None:
            peer.settled = max(peer.settled, position[1])

    def in_force(self, seq: int) -> bool:
        """Whether this node's log is in force up to `seq` here and at every live peer; in a large cluster, where peers
        do not say that, whether they have seen it."""
        if self._own_settled < seq:
            return False
        if not self.direct:
            return not self.acknowledged(seq)[1]
        peers = (self.peers.get(node.name) for node in self._members.peers())
        return all(peer is not None and peer.settled >= seq for peer in peers)

    def ask_in_force(self, seq: int) -> None:
        """Asks the peers that have seen this node's log up to `seq` and have not said that it is in force: what they
        said may have been lost. To hear how far the log is makes them say it again (`_receive_seen`)."""
        for node in self._members.peers() if self.direct else ():
            peer = self.peers.get(node.name)
            if peer is not None and peer.settled < seq <= (peer.seen or 0):
                self.say(node, Seen(self.own.owner, {self.own.owner: self.own.position}))

    # sending

    def say(self, node: Node, message: SyncMessage) -> None:
        """Send a message to one member: as one datagram if it fits, else on a stream."""
        body = encode_sync(message)
        if len(body) + 1 + PART_OVERHEAD <= self._outbox.budget:
            self._outbox.send([node.address], [encode_message(User(body))], crc=True)
        else:
            self._outbox.open_stream(node.address, User(body), reply=False)

    def _schedule(self, now: float) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._timers.at(now, self._flush)

    def _flush(self, now: float) -> None:
        self._flush_timer = None
        self._collect_tombstones()
        if not self.direct:
            for body in self._packets(self._gossiped) or []:
                self._queue.put((self.own.owner, self.own.position, body), body)
            self._gossiped = self.own.head
            return
        packets: dict[int, list[bytes] | None] = {}
        for peer in list(self.peers.values()):
            if peer.pushed < self.own.head:
                base = max(peer.pushed, 0)
                if base not in packets:
                    packets[base] = self._packets(base)
                peer.tries = 0
                self._push(peer, packets[base], now)

    def _push(self, peer: Peer, packets: list[bytes] | None, now: float) -> None:
        """Send the packets (None: what it lacks takes a stream), and look again when an answer is overdue."""
        node = self._members.nodes.get(peer.name)
        if node is None:
            return
        wait = self._settings.resend_interval * 2**peer.tries
        if packets is None:
            message = Deltas(self.own.owner, (self.own.delta(peer.base),))
            self._outbox.open_stream(node.address, User(encode_sync(message)), reply=False)
            wait = max(wait, self._settings.stream_timeout)
        for body in packets or []:
            self._outbox.send([node.address], [body], crc=True)
        self._counters["pushes"] += 1
        peer.pushed = self.own.head
        peer.stop()
        peer.timer = self._timers.at(now + wait, lambda later: self._resend(peer, later))

    def _resend(self, peer: Peer, now: float) -> None:
        peer.timer = None
        if self.peers.get(peer.name) is not peer or (peer.seen is not None and peer.seen >= self.own.head):
            return
        peer.tries += 1
        if peer.tries > self._settings.resend_limit:
            return
        self._counters["resends"] += 1
        self._push(peer, self._packets(peer.base), now)

    def _packets(self, base: int) -> list[bytes] | None:
        """This node's changes after `base` as a few datagram parts, or None when they take a stream."""
        packets: list[bytes] = []
        while True:
            delta = self.own.delta(base, self._fitting(base))
            body = encode_message(User(encode_sync(Deltas(self.own.owner, (delta,)))))
            if len(body) + PART_OVERHEAD > self._outbox.budget or len(packets) == CHUNK_LIMIT:
                return None
            packets.append(body)
            base = delta.head
            if base == self.own.head:
                return packets

    def _fitting(self, base: int) -> int:
        """How many records after `base` fit a datagram, by their estimated size; at least one."""
        room = self._outbox.budget - 64 - len(self.own.owner.encode())
        count = 0
        for record in self.own.delta(base).records:
            texts = record.network + record.kind + record.key
            room -= 32 + len(texts.encode()) + len(record.body or b"") + len(record.signature)
            if room < 0:
                break
            count += 1
        return max(count, 1)

    def _collect_tombstones(self) -> None:
        if self.own.tombstones > TOMBSTONES_LIMIT:
            self.own.raise_floor(self.own.head)
        elif self.own.tombstones > TOMBSTONES_KEPT:
            seen = [peer.seen or 0 for peer in self.peers.values()]
            self.own.raise_floor(min(seen, default=self.own.head))
