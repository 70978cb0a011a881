"""Keeping every live member's copy of every live owner's log up to date.

Three ways, from the quickest to the surest:
1. The owner tells everyone of what is new (`push`).
2. A peer that notices a gap says how far it is, and gets the missing suffix.
3. Probe acknowledgements carry a digest of all copies. A difference leads to an exchange of version vectors, and
   each side ships what the other lacks: in one datagram if it fits, else on a stream.

The same answers tell the owner who has seen what, so that a drain can wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshnet.gossip.codec import User, encode_message
from meshnet.gossip.members import Members, Node
from meshnet.gossip.meta import LIFE_BITS
from meshnet.gossip.outbox import PART_OVERHEAD, Outbox
from meshnet.gossip.push import Pusher
from meshnet.gossip.queue import TransmitQueue
from meshnet.gossip.records import Applied, Delta, Key, OwnerLog, Position, combined_digest
from meshnet.gossip.settings import Settings
from meshnet.gossip.sync import Deltas, Seen, Settled, Vector, decode_sync, encode_sync
from meshnet.gossip.timers import Timers
from meshnet.gossip.types import LIVE, Counters, Emit, EpochChanged, MemberChanged, Record, RecordsChanged

PENDING_LIMIT = 32
"""Deltas kept per owner that came before the ones they continue."""
PENDING_RECORDS = 256
"""A larger delta is not kept: it will be asked for."""
SHIP_BYTES = 1 << 20
"""About how much one stream carries when copies are far apart."""
NOTHING: Position = (-1, 0)


class Replicator:
    """This node's log, its copies of all others, and the exchange of both."""

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
        self._emit = emit
        self._counters = counters
        self._pusher = Pusher(settings, members, outbox, queue, timers, emit, counters)
        self.own = self._pusher.own
        self.logs: dict[str, OwnerLog] = {settings.name: self.own}
        self._pending: dict[str, list[Delta]] = {}
        self._told: dict[str, Position] = {}
        self._settled: dict[str, Position] = {}
        self._digest: bytes | None = None
        self._bump_after = float("-inf")

    # what the node says itself

    def publish(self, key: Key, value: Mapping[str, object], now: float) -> int:
        """Put `value` under (network, kind, key) in this node's log; the same value again changes nothing.

        Returns the log's number that covers it. Raises MeshnetError for a value that is too large or not plain.
        """
        seq = self._append(key, value, now)
        current = self.own.holds(key)
        return seq or (current.seq if current else self.own.head)

    def withdraw(self, key: Key, now: float) -> int:
        """Take back what is published under (network, kind, key); returns the log's number that covers it."""
        return self._append(key, None, now) or self.own.head

    def _append(self, key: Key, value: Mapping[str, object] | None, now: float) -> int | None:
        seq = self._pusher.append(key, value, now)
        if seq is not None:
            self._digest = None
            self._emit(RecordsChanged(self.own.owner))
        return seq

    # what is visible

    def records(self) -> list[Record]:
        """All visible records: this node's and those of live members."""
        return [record for log in self._live_logs() for record in log.visible()]

    def acknowledged(self, seq: int) -> tuple[frozenset[str], frozenset[str]]:
        """Names of live peers that have seen this node's log up to `seq`, and of those not known to have."""
        return self._pusher.acknowledged(seq)

    def in_force(self, seq: int) -> bool:
        """Whether this node's log is in force up to `seq` here and at every live peer."""
        return self._pusher.in_force(seq)

    def ask_in_force(self, seq: int) -> None:
        """Asks those who have not said so, though they have seen it."""
        self._pusher.ask_in_force(seq)

    def positions(self) -> dict[str, Position]:
        """How far each visible log is, this node's included."""
        return self._positions()

    def settle(self, positions: Mapping[str, Position]) -> None:
        """What these logs say is in force at this node: their owners are told, where that is news."""
        self._pusher.settled(self.own.owner, positions.get(self.own.owner, NOTHING))
        for owner, position in positions.items():
            node = self._members.nodes.get(owner)
            if owner == self.own.owner or node is None or not node.live or node.peer is None:
                continue
            if position > self._settled.get(owner, NOTHING):
                self._settled[owner] = position
                self._say_settled(node)

    def _say_settled(self, owner: Node) -> None:
        if self._pusher.direct and owner.name in self._settled:
            self._pusher.say(owner, Settled(self.own.owner, {owner.name: self._settled[owner.name]}))

    def caught_up(self) -> bool:
        """Whether all that live members have told of is here. Before the first of them has told anything it is not."""
        if not self._pusher.peers:
            return True
        nodes = self._members.nodes
        missing = (
            position > (self.logs[owner].position if owner in self.logs else NOTHING)
            for owner, position in self._told.items()
            if owner in nodes and nodes[owner].live
        )
        return bool(self._told) and not any(missing)

    def digest(self) -> bytes:
        """8 bytes that stand for all visible logs and how far they are."""
        if self._digest is None:
            self._digest = combined_digest(self._live_logs())
        return self._digest

    def vector(self, answer: bool) -> bytes:
        """This node's version vector as a sync message."""
        return encode_sync(Vector(self.own.owner, answer, self._positions()))

    def _live_logs(self) -> list[OwnerLog]:
        nodes = self._members.nodes
        logs = [log for owner, log in self.logs.items() if owner in nodes and nodes[owner].live]
        return logs if self._members.me.live else [self.own, *logs]

    def _positions(self) -> dict[str, Position]:
        return {log.owner: log.position for log in self._live_logs()}

    # members come and go

    def member_changed(self, event: MemberChanged, now: float) -> None:
        """Hide, show or drop the member's records, and begin or end telling it of this node's."""
        self._digest = None
        member = event.member
        node = self._members.nodes.get(member.name)
        log = self.logs.get(member.name)
        if member.state in LIVE:
            if log is not None and event.before not in LIVE and node is not None and self._is_past(log.epoch, node):
                del self.logs[member.name]
                log = None
            if log is not None:
                log.hidden_since = None
            if node is not None and node.peer is not None:
                self._pusher.meet(node, log.position if log is not None else (0, 0))
        else:
            self._pusher.forget(member.name)
            self._told.pop(member.name, None)
            self._settled.pop(member.name, None)
            if log is not None:
                log.hidden_since = now
            if member.state == "left":
                self.logs.pop(member.name, None)
                self._pending.pop(member.name, None)
        if log is not None and len(log) and (event.before in LIVE) != (member.state in LIVE):
            self._emit(RecordsChanged(member.name))

    @staticmethod
    def _is_past(epoch: int, owner: Node) -> bool:
        """Whether an epoch is of an earlier life of its owner.

        Such a log is kept while a restarted owner was never missed, so that nobody sees a moment without records.
        After a death it is not shown again: what it tells of died as well.
        """
        return owner.peer is not None and epoch < owner.peer.log_epoch

    def collect(self, now: float) -> None:
        """Drop logs that have been hidden for long."""
        horizon = now - self._settings.forget_after
        for owner, log in list(self.logs.items()):
            if log.hidden_since is not None and log.hidden_since < horizon:
                del self.logs[owner]
                self._pending.pop(owner, None)

    # what others say

    def receive(self, body: bytes, now: float) -> None:
        """A user message came. Raises WireError; one that is not meshnet's is counted and left alone."""
        message = decode_sync(body, self._settings.value_limit)
        if message is None:
            self._counters["foreign_user_messages"] += 1
            return
        if message.sender == self.own.owner:
            return
        node = self._members.nodes.get(message.sender)
        match message:
            case Deltas():
                self._receive_deltas(message, node, now)
            case Vector() if node is not None and node.live:
                self._receive_vector(message, node, now)
            case Seen() if node is not None and node.live:
                self._receive_seen(message, node, now)
            case Settled() if node is not None and node.live:
                self._pusher.settled(node.name, message.positions.get(self.own.owner, NOTHING))
            case _:
                self._counters["unknown_sender"] += 1

    def _receive_deltas(self, message: Deltas, sender: Node | None, now: float) -> None:
        answers: dict[str, dict[str, Position]] = {}
        for delta in message.deltas:
            if delta.owner == self.own.owner:
                self._own_seen_elsewhere((delta.epoch, delta.head), now)
                continue
            result = self._apply(delta, now)
            if result is None:
                continue
            if result is Applied.GAP and delta.owner != message.sender and sender is not None:
                self.exchange(sender, now)
            advanced = result in (Applied.ADVANCED, Applied.CHANGED)
            if self._pusher.direct and (advanced or delta.owner == message.sender):
                log = self.logs.get(delta.owner)
                answers[delta.owner] = {delta.owner: log.position if log else (delta.epoch, 0)}
            elif advanced:
                self._relay(delta)
        for owner, positions in answers.items():
            node = self._members.nodes.get(owner)
            if node is not None and node.live:
                self._pusher.say(node, Seen(self.own.owner, positions))

    def _apply(self, delta: Delta, now: float) -> Applied | None:
        node = self._members.nodes.get(delta.owner)
        log = self.logs.get(delta.owner)
        if node is not None and node.state == "left":
            return None
        if len(delta.records) + (len(log) if log and delta.base else 0) > self._settings.log_limit:
            self._counters["oversized"] += 1
            return None
        if log is None:
            if node is not None and self._is_past(delta.epoch, node):
                return Applied.STALE
            if delta.base:
                self._postpone(delta)
                return Applied.GAP
            if len(self.logs) >= self._settings.member_limit:
                self._counters["oversized"] += 1
                return None
            log = self.logs[delta.owner] = OwnerLog(delta.owner, delta.epoch)
            log.hidden_since = None if node is not None and node.live else now
            self._digest = None
        before = log.position
        result = log.apply(delta)
        if result is Applied.GAP:
            self._postpone(delta)
            return result
        changed = self._continue(log) or result is Applied.CHANGED
        if log.position != before:
            self._digest = None
            self._counters["records_received"] += len(delta.records)
        elif result is Applied.STALE:
            self._counters["deltas_redundant"] += 1
        if changed and log.hidden_since is None:
            self._emit(RecordsChanged(log.owner))
        return result

    def _postpone(self, delta: Delta) -> None:
        self._counters["gaps"] += 1
        known = delta.owner in self._pending or len(self._pending) < self._settings.member_limit
        if known and len(delta.records) <= PENDING_RECORDS:
            waiting = self._pending.setdefault(delta.owner, [])
            if len(waiting) < PENDING_LIMIT:
                waiting.append(delta)

    def _continue(self, log: OwnerLog) -> bool:
        """Apply what waited for the present head. Returns whether visible records changed."""
        waiting = sorted(self._pending.pop(log.owner, []), key=lambda delta: (delta.epoch, delta.base))
        changed = False
        for delta in waiting:
            result = log.apply(delta)
            changed = changed or result is Applied.CHANGED
            if result is Applied.GAP:
                self._pending.setdefault(log.owner, []).append(delta)
        return changed

    def _relay(self, delta: Delta) -> None:
        body = encode_message(User(encode_sync(Deltas(self.own.owner, (delta,)))))
        if len(body) + PART_OVERHEAD <= self._outbox.budget:
            self._queue.put((delta.owner, delta.epoch, delta.base, delta.head), body)

    def _receive_seen(self, message: Seen, node: Node, now: float) -> None:
        """An acknowledgement of this node's log, or a peer's word of how far its own is, which is answered."""
        for owner, position in message.positions.items():
            if owner == self.own.owner:
                if not self._own_seen_elsewhere(position, now):
                    self._pusher.answered(node.name, position, now)
            elif owner == node.name:
                log = self.logs.get(owner)
                mine = log.position if log is not None else (0, 0)
                self._pusher.say(node, Seen(self.own.owner, {owner: mine}))
                # It asks when it has just met this node, and what this node told it before was lost on it; or when it
                # waits for this word.
                self._say_settled(node)

    def _own_seen_elsewhere(self, position: Position, now: float) -> bool:
        """A copy of this node's log that is ahead of it was written by an earlier life: go beyond its epoch."""
        if position <= self.own.position or now < self._bump_after:
            return False
        self._bump_after = now + 1.0
        epoch = (position[0] >> LIFE_BITS) + 1
        meta = replace(self._members.me.peer or self._settings.meta, epoch=epoch)
        self._pusher.move_to_epoch(meta.log_epoch, now)
        self._digest = None
        self._members.update(meta)
        self._counters["epoch_moved"] += 1
        self._emit(EpochChanged(epoch))
        return True

    # differences

    def ack_payload(self, payload: bytes | None, node: Node, now: float) -> None:
        """A probe of `node` was answered with this digest of its copies."""
        if payload is None or len(payload) != 8 or node.peer is None:
            return
        if payload != self.digest():
            self._counters["digest_mismatches"] += 1
            self.exchange(node, now)
            return
        self._pusher.has(node.name, self.own.position)

    def exchange(self, node: Node, now: float) -> None:
        """Begin an exchange of vectors, unless one with this peer began just now."""
        peer = self._pusher.peers.get(node.name)
        if peer is None or now < peer.vector_after:
            return
        peer.vector_after = now + self._settings.sync_interval
        self._counters["vectors_sent"] += 1
        self._pusher.say(node, Vector(self.own.owner, True, self._positions()))

    def _receive_vector(self, message: Vector, node: Node, now: float) -> None:
        theirs = message.positions
        position = theirs.get(self.own.owner)
        if position is not None and not self._own_seen_elsewhere(position, now):
            self._pusher.has(node.name, position)
        for owner, told in theirs.items():
            if owner in self._members.nodes:
                self._told[owner] = max(told, self._told.get(owner, NOTHING))
        lacking = any(
            position > (self.logs[owner].position if owner in self.logs else NOTHING)
            for owner, position in theirs.items()
            if owner != self.own.owner
        )
        self._ship(node, theirs, now)
        if lacking and message.answer:
            self._pusher.say(node, Vector(self.own.owner, False, self._positions()))
        copy = self.logs.get(node.name)
        if copy is not None and copy.position > theirs.get(node.name, NOTHING):
            # an earlier life of the sender: it must go beyond its epoch
            self._pusher.say(node, Seen(self.own.owner, {node.name: copy.position}))

    def _ship(self, node: Node, theirs: dict[str, Position], now: float) -> None:
        """Send exactly what `node` lacks, by its vector."""
        peer = self._pusher.peers.get(node.name)
        if peer is None:
            return
        batch: list[Delta] = []
        size = 0
        behind = [log for log in self._live_logs() if theirs.get(log.owner, NOTHING) < log.position]
        if not behind or now < peer.ship_after:
            return
        peer.ship_after = now + self._settings.sync_interval / 2
        for log in behind:
            if log.owner == node.name:
                continue
            epoch, head = theirs.get(log.owner, NOTHING)
            delta = log.delta(head if epoch == log.epoch else 0)
            batch.append(delta)
            self._counters["deltas_shipped"] += 1
            self._counters["records_shipped"] += len(delta.records)
            size += sum(len(record.body or b"") + 64 for record in delta.records)
            if size > SHIP_BYTES:
                self._pusher.say(node, Deltas(self.own.owner, tuple(batch)))
                batch, size = [], 0
        if batch:
            self._pusher.say(node, Deltas(self.own.owner, tuple(batch)))
