"""Keeping every live member's copy of every live owner's log up to date.

Three ways, from the quickest to the surest:
1. The owner sends new records to every peer directly and repeats them until each has answered what it has seen
   (small clusters), or gives them to the gossip queue (large ones).
2. A peer that notices a gap says how far it is, and gets the missing suffix.
3. Probe acknowledgements carry a digest of all copies. A difference leads to an exchange of version vectors, and
   each side ships what the other lacks: in one datagram if it fits, else on a stream.

The same answers tell the owner who has seen what, so that a drain can wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from meshnet.errors import MeshnetError
from meshnet.gossip.codec import User, encode_message
from meshnet.gossip.members import Members, Node
from meshnet.gossip.outbox import PART_OVERHEAD, Outbox
from meshnet.gossip.queue import TransmitQueue
from meshnet.gossip.records import Applied, Delta, Key, OwnerLog, Position, combined_digest, encode_value
from meshnet.gossip.settings import Settings
from meshnet.gossip.sync import Deltas, Seen, SyncMessage, Vector, decode_sync, encode_sync
from meshnet.gossip.timers import Timer, Timers
from meshnet.gossip.types import (
    LIVE,
    AcknowledgedChanged,
    Counters,
    Emit,
    EpochChanged,
    MemberChanged,
    Record,
    RecordsChanged,
)

CHUNK_LIMIT = 8
"""A suffix that takes more datagrams than this goes over a stream."""
PENDING_LIMIT = 32
"""Deltas kept per owner that came before the ones they continue."""
SHIP_BYTES = 1 << 20
"""About how much one stream carries when copies are far apart."""
TOMBSTONES_KEPT = 64
"""An owner forgets tombstones only beyond this many, and only ones that every live peer has seen ..."""
TOMBSTONES_LIMIT = 4096
"""... unless there are this many."""
NOTHING: Position = (-1, 0)


@dataclass(slots=True)
class Peer:
    """What is known of a peer's copy of this node's log."""

    name: str
    epoch: int
    start: int
    """The log's head when the peer appeared: what it is sent from while it has not said what it has."""
    pushed: int
    seen: int | None = None
    tries: int = 0
    timer: Timer | None = None
    vector_after: float = float("-inf")
    ship_after: float = float("-inf")

    @property
    def base(self) -> int:
        """From where to repeat."""
        return self.start if self.seen is None else self.seen


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
        self._timers = timers
        self._emit = emit
        self._counters = counters
        self.own = OwnerLog(settings.name, settings.epoch)
        self.logs: dict[str, OwnerLog] = {settings.name: self.own}
        self._peers: dict[str, Peer] = {}
        self._pending: dict[str, list[Delta]] = {}
        self._flush_timer: Timer | None = None
        self._gossiped = 0
        self._digest: bytes | None = None
        self._bump_after = float("-inf")

    # what the node says itself

    def publish(self, key: Key, value: Mapping[str, object], now: float) -> int:
        """Put `value` under (network, kind, key) in this node's log; the same value again changes nothing.

        Returns the log's number that covers it. Raises MeshnetError for a value that is too large or not plain.
        """
        body = encode_value(value, self._settings.value_limit)
        current = self.own.holds(key)
        if current is not None and current.body == body:
            return current.seq
        if len(self.own) >= self._settings.log_limit:
            raise MeshnetError(f"a node publishes at most {self._settings.log_limit} records")
        return self._append(key, body, now)

    def withdraw(self, key: Key, now: float) -> int:
        """Take back what is published under (network, kind, key); returns the log's number that covers it."""
        if self.own.holds(key) is None:
            return self.own.head
        return self._append(key, None, now)

    def _append(self, key: Key, body: bytes | None, now: float) -> int:
        seq = self.own.append(key, body).seq
        self._digest = None
        self._emit(RecordsChanged(self.own.owner))
        self._schedule_flush(now)
        return seq

    # what is visible

    def records(self) -> list[Record]:
        """All visible records: this node's and those of live members."""
        return [record for log in self._live_logs() for record in log.visible()]

    def acknowledged(self, seq: int) -> tuple[frozenset[str], frozenset[str]]:
        """Names of live peers that have seen this node's log up to `seq`, and of those not known to have."""
        seen: set[str] = set()
        missing: set[str] = set()
        for node in self._members.peers():
            peer = self._peers.get(node.name)
            known = peer is not None and peer.seen is not None and peer.seen >= seq
            (seen if known else missing).add(node.name)
        return frozenset(seen), frozenset(missing)

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
            if log is not None:
                log.hidden_since = None
            if node is not None and node.peer is not None:
                self._meet(node, event, now)
        else:
            self._forget_peer(member.name)
            if log is not None:
                log.hidden_since = now
            if member.state == "left":
                self.logs.pop(member.name, None)
                self._pending.pop(member.name, None)
        if log is not None and len(log) and (event.before in LIVE) != (member.state in LIVE):
            self._emit(RecordsChanged(member.name))

    def _meet(self, node: Node, event: MemberChanged, now: float) -> None:
        peer = self._peers.get(node.name)
        epoch = node.peer.epoch if node.peer is not None else 0
        if peer is not None and peer.epoch == epoch:
            return
        self._forget_peer(node.name)
        self._peers[node.name] = Peer(node.name, epoch, self.own.head, self.own.head)
        if len(self._peers) <= self._settings.direct_members:
            theirs = self.logs[node.name].position if node.name in self.logs else (0, 0)
            self._send(node, Seen(self.own.owner, {self.own.owner: self.own.position, node.name: theirs}))

    def _forget_peer(self, name: str) -> None:
        peer = self._peers.pop(name, None)
        if peer is not None and peer.timer is not None:
            peer.timer.cancel()

    def collect(self, now: float) -> None:
        """Drop logs that have been hidden for long."""
        horizon = now - self._settings.forget_after
        for owner, log in list(self.logs.items()):
            if log.hidden_since is not None and log.hidden_since < horizon:
                del self.logs[owner]
                self._pending.pop(owner, None)

    # telling others of this node's records

    def _schedule_flush(self, now: float) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._timers.at(now, self._flush)

    def _flush(self, now: float) -> None:
        self._flush_timer = None
        self._collect_tombstones()
        if len(self._peers) > self._settings.direct_members:
            for body in self._packets(self._gossiped) or []:
                self._queue.put((self.own.owner, self.own.position, body), body)
            self._gossiped = self.own.head
            return
        packets: dict[int, list[bytes] | None] = {}
        for peer in list(self._peers.values()):
            if peer.pushed < self.own.head:
                if peer.pushed not in packets:
                    packets[peer.pushed] = self._packets(peer.pushed)
                peer.tries = 0
                self._push(peer, packets[peer.pushed], now)

    def _push(self, peer: Peer, packets: list[bytes] | None, now: float) -> None:
        """Send the packets (None: what it lacks takes a stream), and look again when an answer is overdue."""
        node = self._members.nodes.get(peer.name)
        if node is None:
            return
        wait = self._settings.resend_interval * 2**peer.tries
        if packets is None:
            self._send(node, Deltas(self.own.owner, (self.own.delta(peer.base),)))
            wait = max(wait, self._settings.stream_timeout)
        for body in packets or []:
            self._outbox.send([node.address], [body], crc=True)
        self._counters["pushes"] += 1
        peer.pushed = self.own.head
        if peer.timer is not None:
            peer.timer.cancel()
        peer.timer = self._timers.at(now + wait, lambda later: self._resend(peer, later))

    def _resend(self, peer: Peer, now: float) -> None:
        peer.timer = None
        if self._peers.get(peer.name) is not peer or (peer.seen is not None and peer.seen >= self.own.head):
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
            body = self._part(Deltas(self.own.owner, (delta,)))
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
            seen = [peer.seen or 0 for peer in self._peers.values()]
            self.own.raise_floor(min(seen, default=self.own.head))

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
            case _:
                self._counters["unknown_sender"] += 1

    def _receive_deltas(self, message: Deltas, sender: Node | None, now: float) -> None:
        answers: dict[str, dict[str, Position]] = {}
        small = len(self._peers) <= self._settings.direct_members
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
            if small and (advanced or delta.owner == message.sender):
                log = self.logs.get(delta.owner)
                answers[delta.owner] = {delta.owner: log.position if log else (delta.epoch, 0)}
            elif advanced and not small:
                self._relay(delta)
        for owner, positions in answers.items():
            node = self._members.nodes.get(owner)
            if node is not None and node.live:
                self._send(node, Seen(self.own.owner, positions))

    def _apply(self, delta: Delta, now: float) -> Applied | None:
        node = self._members.nodes.get(delta.owner)
        log = self.logs.get(delta.owner)
        if node is not None and node.state == "left":
            return None
        if len(delta.records) + (len(log) if log and delta.base else 0) > self._settings.log_limit:
            self._counters["oversized"] += 1
            return None
        if log is None:
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
        waiting = self._pending.setdefault(delta.owner, [])
        if len(self._pending) <= self._settings.member_limit and len(waiting) < PENDING_LIMIT:
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
        body = self._part(Deltas(self.own.owner, (delta,)))
        if len(body) + PART_OVERHEAD <= self._outbox.budget:
            self._queue.put((delta.owner, delta.epoch, delta.base, delta.head), body)

    def _receive_seen(self, message: Seen, node: Node, now: float) -> None:
        """An acknowledgement of this node's log, or a peer's word of how far its own is, which is answered."""
        for owner, position in message.positions.items():
            if owner == self.own.owner:
                self._peer_has(node, position, now)
            elif owner == node.name:
                log = self.logs.get(owner)
                mine = log.position if log is not None else (0, 0)
                self._send(node, Seen(self.own.owner, {owner: mine}))

    def _peer_has(self, node: Node, position: Position, now: float) -> None:
        if self._own_seen_elsewhere(position, now):
            return
        peer = self._peers.get(node.name)
        if peer is None:
            return
        epoch, seq = position
        known = seq if epoch == self.own.epoch else 0
        if peer.seen is None or known > peer.seen:
            peer.seen = known
            self._emit(AcknowledgedChanged(node.name))
        if peer.seen >= self.own.head and epoch == self.own.epoch:
            if peer.timer is not None:
                peer.timer.cancel()
                peer.timer = None
        elif peer.timer is None and now >= peer.ship_after:
            peer.ship_after = now + self._settings.sync_interval
            peer.tries = 0
            self._push(peer, self._packets(peer.seen), now)

    def _own_seen_elsewhere(self, position: Position, now: float) -> bool:
        """A copy of this node's own log that is ahead of it was written by an earlier life: go beyond its epoch."""
        if position <= self.own.position or now < self._bump_after:
            return False
        self._bump_after = now + 1.0
        epoch = position[0] + 1
        self.own.move_to_epoch(epoch)
        self._digest = None
        self._members.update(replace(self._members.me.peer or self._settings.meta, epoch=epoch))
        for peer in self._peers.values():
            peer.seen, peer.start, peer.pushed = None, 0, -1
        self._gossiped = 0
        self._counters["epoch_moved"] += 1
        self._emit(EpochChanged(epoch))
        self._schedule_flush(now)
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
        peer = self._peers.get(node.name)
        if peer is not None and (peer.seen is None or peer.seen < self.own.head):
            peer.seen = self.own.head
            self._emit(AcknowledgedChanged(node.name))

    def exchange(self, node: Node, now: float) -> None:
        """Begin an exchange of vectors, unless one with this peer began just now."""
        peer = self._peers.get(node.name)
        if peer is None or now < peer.vector_after:
            return
        peer.vector_after = now + self._settings.sync_interval
        self._counters["vectors_sent"] += 1
        self._send(node, Vector(self.own.owner, True, self._positions()))

    def _receive_vector(self, message: Vector, node: Node, now: float) -> None:
        theirs = message.positions
        self._peer_has_vector(node, theirs, now)
        lacking = any(
            position > (self.logs[owner].position if owner in self.logs else NOTHING)
            for owner, position in theirs.items()
            if owner != self.own.owner
        )
        self._ship(node, theirs, now)
        if lacking and message.answer:
            self._send(node, Vector(self.own.owner, False, self._positions()))

    def _peer_has_vector(self, node: Node, theirs: dict[str, Position], now: float) -> None:
        position = theirs.get(self.own.owner)
        peer = self._peers.get(node.name)
        if position is None or peer is None or self._own_seen_elsewhere(position, now):
            return
        if position[0] == self.own.epoch and (peer.seen is None or peer.seen < position[1]):
            peer.seen = position[1]
            self._emit(AcknowledgedChanged(node.name))

    def _ship(self, node: Node, theirs: dict[str, Position], now: float) -> None:
        """Send exactly what `node` lacks, by its vector."""
        peer = self._peers.get(node.name)
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
                self._send(node, Deltas(self.own.owner, tuple(batch)))
                batch, size = [], 0
        if batch:
            self._send(node, Deltas(self.own.owner, tuple(batch)))

    def _send(self, node: Node, message: SyncMessage) -> None:
        """As one datagram if it fits, else on a stream."""
        body = encode_sync(message)
        if len(body) + 1 + PART_OVERHEAD <= self._outbox.budget:
            self._outbox.send([node.address], [encode_message(User(body))], crc=True)
        else:
            self._outbox.open_stream(node.address, User(body), reply=False)

    @staticmethod
    def _part(message: SyncMessage) -> bytes:
        return encode_message(User(encode_sync(message)))
