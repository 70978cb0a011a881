"""Who is there: the member table and memberlist's rules for what changes it (memberlist state.go).

Order of words about one member: a higher incarnation wins; at the same incarnation dead beats suspect beats alive.
Only the member itself raises its incarnation, by refuting. Three rules differ from memberlist, each for a defect of
it: an accusation that is newer than what is known of a dead member still advances its incarnation, so a stale alive
cannot resurrect it; a stale alive is answered with the accusation, so that its subject can refute; dead and left
members are forgotten in time, also by the push/pull exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshnet.gossip import codec
from meshnet.gossip.awareness import Awareness
from meshnet.gossip.codec import Alive, Dead, Suspect
from meshnet.gossip.meta import MemberMeta, decode_meta, encode_meta
from meshnet.gossip.queue import TransmitQueue
from meshnet.gossip.rng import Random
from meshnet.gossip.settings import Settings
from meshnet.gossip.stream import NodeState
from meshnet.gossip.suspicion import Suspicion
from meshnet.gossip.timers import Timer, Timers
from meshnet.gossip.types import LIVE, Address, Counters, Emit, Member, MemberChanged, State

INCARNATION_LIMIT = 1 << 32
ANSWER_INTERVAL = 0.5
"""Seconds between two answers to stale words about the same member."""
LOST_LIMIT = 1024


@dataclass(slots=True)
class Node:
    """What is known of one member."""

    name: str
    address: Address
    meta: bytes
    versions: bytes
    incarnation: int
    state: State
    changed: float
    peer: MemberMeta | None = None
    suspicion: Suspicion | None = None
    timer: Timer | None = None
    answered: float = float("-inf")

    @property
    def live(self) -> bool:
        """Alive or suspect."""
        return self.state in LIVE

    @property
    def protocol(self) -> int:
        """The newest memberlist protocol it understands."""
        return self.versions[1] if len(self.versions) > 1 else 5

    def alive(self) -> Alive:
        """The alive message that states this."""
        return Alive(self.incarnation, self.name, self.address, self.meta, self.versions)

    def public(self) -> Member:
        """The member as others see it."""
        return Member(self.name, *self.address, self.state, self.incarnation, self.peer)


class Members:
    """The table. `send(address, message)` is for answers that should not wait for a gossip tick."""

    def __init__(
        self,
        settings: Settings,
        timers: Timers,
        rng: Random,
        queue: TransmitQueue,
        awareness: Awareness,
        emit: Emit,
        send: Callable[[Address, bytes], None],
        counters: Counters,
        now: float,
    ) -> None:
        self._settings = settings
        self._timers = timers
        self._rng = rng
        self._queue = queue
        self._awareness = awareness
        self._emit = emit
        self._send = send
        self._counters = counters
        self.leaving = False
        self.trusted_after = now
        """Until then this node was stalled, and accuses nobody."""
        versions = codec.PROTOCOL + bytes(settings.delegate_versions)
        meta = encode_meta(settings.meta)
        where = (settings.address, settings.port)
        self.me = Node(settings.name, where, meta, versions, 1, "alive", now, settings.meta)
        self.nodes: dict[str, Node] = {self.me.name: self.me}
        self.lost: dict[str, tuple[Address, float]] = {}
        """Dead members that left the table: where they were, and until when they are still looked for."""
        self.order: list[str] = []
        """Names to probe, in turn."""

    def others(self, *states: State) -> list[Node]:
        """Every other member in one of these states."""
        return [node for node in self.nodes.values() if node is not self.me and node.state in states]

    def peers(self) -> list[Node]:
        """Live meshnet members but for this one."""
        return [node for node in self.others(*LIVE) if node.peer is not None]

    def count(self) -> int:
        """Members that are not known to be gone, with this one."""
        return sum(1 for node in self.nodes.values() if node.live)

    def states(self) -> tuple[NodeState, ...]:
        """Everything, for a push/pull exchange."""
        return tuple(NodeState(node.alive(), node.state) for node in self.nodes.values())

    def merge(self, states: Iterable[NodeState], now: float, source: Address | None) -> None:
        """Take over what another member knows. Its dead are only suspected: they may refute."""
        for each in states:
            said = each.alive
            if each.state == "alive":
                self.alive(said, now, source)
            elif each.state == "left":
                self.dead(Dead(said.incarnation, said.name, said.name), now, source)
            else:
                self._learn_suspect(each, now, source)

    def _learn_suspect(self, each: NodeState, now: float, source: Address | None) -> None:
        said = each.alive
        if each.state == "suspect" and said.name not in self.nodes:
            self.alive(said, now, source)
        self.suspect(Suspect(said.incarnation, said.name, self.me.name), now, source)

    def alive(self, said: Alive, now: float, source: Address | None = None) -> None:
        """An alive message came."""
        if said.name == self.me.name:
            self._alive_about_me(said, now, source)
            return
        if len(said.versions) >= 2 and not said.versions[0] <= codec.PROTOCOL[2] <= said.versions[1]:
            self._counters["incompatible"] += 1
            return
        node = self.nodes.get(said.name)
        if node is None:
            self._join(said, now)
            return
        moved = node.address != said.address
        if moved and not self._may_move(node, said):
            self._counters["address_conflict"] += 1
            return
        if said.incarnation <= node.incarnation and not moved:
            self._answer_stale(node, said, now)
            return
        before, meta = node.state, node.meta
        node.address, node.meta, node.versions = said.address, said.meta, said.versions
        node.peer = decode_meta(said.meta)
        node.incarnation = said.incarnation
        self._set_state(node, "alive", now)
        self._broadcast(node.name, said)
        if before != "alive" or meta != node.meta:
            self._emit(MemberChanged(node.public(), before))

    def _join(self, said: Alive, now: float) -> None:
        if len(self.nodes) >= self._settings.member_limit:
            self._counters["oversized"] += 1
            return
        node = Node(
            said.name, said.address, said.meta, said.versions, said.incarnation, "alive", now,
            decode_meta(said.meta),
        )  # fmt: skip
        self.nodes[node.name] = node
        self.lost.pop(node.name, None)
        self.order.insert(self._rng.randint(0, len(self.order)), node.name)
        self._broadcast(node.name, said)
        self._emit(MemberChanged(node.public(), None))

    @staticmethod
    def _may_move(node: Node, said: Alive) -> bool:
        """A member may come back elsewhere after it left, or after a crash that its newer epoch proves."""
        if node.state == "left":
            return True
        meta = decode_meta(said.meta)
        return (
            node.state == "dead" and meta is not None and node.peer is not None and meta.log_epoch > node.peer.log_epoch
        )

    def _answer_stale(self, node: Node, said: Alive, now: float) -> None:
        """An alive that is not news, of a member that is accused or has restarted: tell it, so that it refutes."""
        meta = decode_meta(said.meta)
        restarted = meta is not None and node.peer is not None and meta.log_epoch != node.peer.log_epoch
        if node.state == "alive" and not restarted:
            return
        self.accuse(node, now)

    def accuse(self, node: Node, now: float) -> None:
        """Tell a member what is held against it (or that it was known at a higher incarnation), now and directly."""
        if now - node.answered < ANSWER_INTERVAL:
            return
        node.answered = now
        if node.state == "alive":
            self._send(node.address, codec.encode_message(node.alive()))
        else:
            word = Suspect(node.incarnation, node.name, self.me.name)
            self._send(node.address, codec.encode_message(word))

    def suspect(self, said: Suspect, now: float, source: Address | None = None) -> None:
        """An accusation came, or was made here."""
        if said.name == self.me.name:
            self._refute(said.incarnation, source)
            return
        node = self.nodes.get(said.name)
        if node is None or said.incarnation < node.incarnation:
            return
        node.incarnation = said.incarnation
        if node.suspicion is not None:
            if node.suspicion.confirm(said.accuser):
                self._arm(node)
                self._broadcast(node.name, said)
            return
        if node.state != "alive":
            return
        self._set_state(node, "suspect", now)
        node.suspicion = Suspicion(self._settings, self.count(), said.accuser, now)
        self._arm(node)
        self._broadcast(node.name, said)
        self._emit(MemberChanged(node.public(), "alive"))

    def dead(self, said: Dead, now: float, source: Address | None = None) -> None:
        """A death notice or a farewell came."""
        if said.name == self.me.name:
            if not self.leaving:
                self._refute(said.incarnation, source)
            return
        node = self.nodes.get(said.name)
        if node is None or said.incarnation < node.incarnation:
            return
        node.incarnation = said.incarnation
        state: State = "left" if said.accuser == said.name else "dead"
        if node.state in (state, "left"):
            return
        before = node.state
        self._set_state(node, state, now)
        self._broadcast(node.name, said)
        self._emit(MemberChanged(node.public(), before))

    def leave(self, now: float) -> bytes:
        """Say farewell; returns the message, for sending it at once as well."""
        self.leaving = True
        word = Dead(self.me.incarnation, self.me.name, self.me.name)
        self.me.state = "left"
        self.me.changed = now
        return self._broadcast(self.me.name, word)

    def update(self, meta: MemberMeta) -> None:
        """Change this member's own metadata and tell everyone. Raises MeshnetError when they are too long."""
        packed = encode_meta(meta)
        if packed == self.me.meta:
            return
        self.me.meta, self.me.peer = packed, meta
        self.me.incarnation += 1
        self._broadcast(self.me.name, self.me.alive())

    def reap(self, now: float) -> None:
        """Forget members that have been dead or left for long; dead ones are still looked for."""
        for node in self.others("dead", "left"):
            if now - node.changed < self._settings.gossip_to_the_dead:
                continue
            del self.nodes[node.name]
            if node.state == "dead":
                self.lost[node.name] = node.address, now + self._settings.forget_after
        self.lost = {name: lost for name, lost in self.lost.items() if lost[1] > now}
        while len(self.lost) > LOST_LIMIT:
            del self.lost[next(iter(self.lost))]

    def _alive_about_me(self, said: Alive, now: float, source: Address | None) -> None:
        if said.incarnation < self.me.incarnation:
            return
        same = (said.meta, said.versions, said.address) == (self.me.meta, self.me.versions, self.me.address)
        if said.incarnation == self.me.incarnation and same:
            return
        if said.address != self.me.address:
            self._counters["address_conflict"] += 1
            if now - self.me.answered < ANSWER_INTERVAL:
                return  # it may be another member of this name, which outbids every answer as well
            self.me.answered = now
        self._refute(said.incarnation, source)

    def _refute(self, incarnation: int, source: Address | None) -> None:
        """Outbid an accusation. A stale one only gets this member's present word, sent back to its source."""
        if self.leaving:
            return
        if incarnation >= INCARNATION_LIMIT - 1:
            self._counters["malformed"] += 1
            return
        if incarnation >= self.me.incarnation:
            self.me.incarnation = incarnation + 1
            self._awareness.apply(1)
            self._counters["refuted"] += 1
            self._broadcast(self.me.name, self.me.alive())
        if source is not None:
            self._send(source, codec.encode_message(self.me.alive()))

    def _set_state(self, node: Node, state: State, now: float) -> None:
        if node.timer is not None:
            node.timer.cancel()
        node.timer = node.suspicion = None
        node.state = state
        node.changed = now

    def _arm(self, node: Node) -> None:
        if node.timer is not None:
            node.timer.cancel()
        if node.suspicion is not None:
            node.timer = self._timers.at(node.suspicion.deadline(), lambda now: self._expire(node, now))

    def _expire(self, node: Node, now: float) -> None:
        if now < self.trusted_after:
            node.timer = self._timers.at(self.trusted_after, lambda later: self._expire(node, later))
            return
        self._counters["suspicions_expired"] += 1
        self.dead(Dead(node.incarnation, node.name, self.me.name), now)

    def _broadcast(self, name: str, message: Alive | Suspect | Dead) -> bytes:
        body = codec.encode_message(message)
        self._queue.put(name, body)
        return body
