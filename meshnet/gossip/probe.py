"""Finding out who no longer answers: SWIM's probe with Lifeguard's patience (memberlist state.go: probeNode).

Each interval one member is pinged, in turn. Without an answer others are asked to ping it, and it is pinged over
TCP; without any word until the interval (stretched by this node's own health) ends, it is suspected. The members
that were asked say so when they got no answer either: their silence is a sign that this node is the slow one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from meshnet.gossip import codec
from meshnet.gossip.awareness import Awareness
from meshnet.gossip.codec import Ack, IndirectPing, Nack, Ping, Suspect
from meshnet.gossip.members import Members, Node
from meshnet.gossip.outbox import Outbox
from meshnet.gossip.rng import Random
from meshnet.gossip.settings import Settings
from meshnet.gossip.timers import Timer, Timers
from meshnet.gossip.types import LIVE, Address, Counters

RELAY_LIMIT = 1024
"""Most indirect pings worked on at once."""


@dataclass(slots=True)
class _Probe:
    seq: int
    node: Node
    started: float
    deadline: float
    timer: Timer
    nacks_due: int = 0
    nacks: int = 0
    tcp: bool = False
    streams: set[int] = field(default_factory=set)


class Prober:
    """`on_ack(node, payload, now)` is told of every direct answer to a probe, `on_return` of a dead member's."""

    def __init__(
        self,
        settings: Settings,
        members: Members,
        outbox: Outbox,
        timers: Timers,
        rng: Random,
        awareness: Awareness,
        counters: Counters,
        on_ack: Callable[[Node, bytes | None, float], None],
        on_return: Callable[[Node, float], None],
    ) -> None:
        self._settings = settings
        self._members = members
        self._outbox = outbox
        self._timers = timers
        self._rng = rng
        self._awareness = awareness
        self._counters = counters
        self._on_ack = on_ack
        self._on_return = on_return
        self._seq = rng.getrandbits(16)
        self._probe: _Probe | None = None
        self._tick_timer: Timer | None = None
        self._relays: dict[int, tuple[IndirectPing, Address, Timer]] = {}
        self._reconnects: dict[int, tuple[str, Timer]] = {}

    def wake(self, now: float) -> None:
        """There may be someone to probe: begin, somewhere within the next interval."""
        if self._tick_timer is None and self._probe is None:
            delay = self._rng.random() * self._settings.probe_interval
            self._tick_timer = self._timers.at(now + delay, self._tick)

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        return self._seq

    def _tick(self, now: float) -> None:
        self._tick_timer = None
        if self._members.leaving:
            return
        node = self._next_target()
        if node is None:
            return
        seq = self._next_seq()
        deadline = now + self._awareness.scale(self._settings.probe_interval)
        timer = self._timers.at(now + self._settings.probe_timeout, self._escalate)
        self._probe = _Probe(seq, node, now, deadline, timer)
        self._counters["probes"] += 1
        self._ping(seq, node)

    def _next_target(self) -> Node | None:
        """The next live member in turn; the order is shuffled anew after each round."""
        order = self._members.order
        for _ in range(2):
            while order:
                node = self._members.nodes.get(order.pop())
                if node is not None and node.live:
                    return node
            order[:] = [node.name for node in self._members.others(*LIVE)]
            self._rng.shuffle(order)
        return None

    def _ping(self, seq: int, node: Node) -> None:
        """Ping a member; one that is not alive in this node's eyes is told so in the same datagram."""
        me = self._members.me
        parts = [codec.encode_message(Ping(seq, node.name, me.address, me.name))]
        if node.state != "alive":
            parts.append(codec.encode_message(Suspect(node.incarnation, node.name, me.name)))
        self._outbox.send([node.address], parts)

    def _escalate(self, now: float) -> None:
        probe = self._probe
        if probe is None:
            return
        node, me = probe.node, self._members.me
        self._counters["probe_timeouts"] += 1
        helpers = [each for each in self._members.others("alive") if each is not node]
        for helper in self._rng.sample(helpers, min(self._settings.indirect_checks, len(helpers))):
            nack = helper.protocol >= 4
            probe.nacks_due += nack
            asked = IndirectPing(probe.seq, node.address, node.name, nack, me.address, me.name)
            self._outbox.send([helper.address], [codec.encode_message(asked)])
        if node.protocol >= 3:
            ping = Ping(probe.seq, node.name, me.address, me.name)
            probe.streams.add(self._outbox.open_stream(node.address, ping, reply=True))
        probe.timer = self._timers.at(max(probe.deadline, now), self._conclude)

    def _conclude(self, now: float) -> None:
        """The interval ended without an answer by datagram."""
        probe = self._probe
        if probe is None:
            return
        if now < self._members.trusted_after:
            probe.timer = self._timers.at(self._members.trusted_after, self._conclude)
            return
        self._probe = None
        self._awareness.apply(probe.nacks_due - probe.nacks if probe.nacks_due else 1)
        if probe.tcp:
            self._counters["tcp_only_answers"] += 1
        else:
            self._counters["probes_failed"] += 1
            node = self._members.nodes.get(probe.node.name)
            if node is not None and node.live:
                self._members.suspect(Suspect(node.incarnation, node.name, self._members.me.name), now)
        self._tick(now)

    def ping_received(
        self, ping: Ping, source: Address, payload: Callable[[Node | None], bytes | None], now: float
    ) -> None:
        """Answer, if it is this node that is meant. One believed dead that pings is told so, and can refute."""
        me = self._members.me
        if ping.name and ping.name != me.name:
            self._counters["misdirected_pings"] += 1
            return
        known = self._members.nodes.get(ping.source_name) if ping.source_name else None
        target = ping.source or source
        self._outbox.send([target], [codec.encode_message(Ack(ping.seq, payload(known)))])
        if known is not None and known is not me and known.state == "dead" and known.address == target:
            self._members.accuse(known, now)

    def indirect_received(self, asked: IndirectPing, source: Address, now: float) -> None:
        """Ping the target for somebody else."""
        if len(self._relays) >= RELAY_LIMIT:
            self._counters["relays_refused"] += 1
            return
        seq = self._next_seq()
        # the asker concludes at the end of its interval, and wants a nack before that
        rest = self._settings.probe_interval - self._settings.probe_timeout
        wait = 0.75 * min(self._settings.probe_timeout, rest)
        timer = self._timers.at(now + wait, lambda later: self._relay_failed(seq))
        self._relays[seq] = asked, asked.source or source, timer
        me = self._members.me
        ping = Ping(seq, asked.name, me.address, me.name)
        self._outbox.send([asked.target], [codec.encode_message(ping)])

    def _relay_failed(self, seq: int) -> None:
        relay = self._relays.pop(seq, None)
        if relay is not None and relay[0].nack:
            self._outbox.send([relay[1]], [codec.encode_message(Nack(relay[0].seq))])

    def ack_received(self, ack: Ack, now: float) -> None:
        """An answer to a probe, to a relayed ping, or of a member that was believed dead."""
        relay = self._relays.pop(ack.seq, None)
        if relay is not None:
            relay[2].cancel()
            self._outbox.send([relay[1]], [codec.encode_message(Ack(relay[0].seq))])
            return
        lost = self._reconnects.pop(ack.seq, None)
        if lost is not None:
            lost[1].cancel()
            node = self._members.nodes.get(lost[0])
            if node is not None:
                self._on_return(node, now)
            return
        probe = self._probe
        if probe is None or probe.seq != ack.seq:
            self._counters["late_acks"] += 1
            return
        self._succeed(probe)
        self._on_ack(probe.node, ack.payload, now)

    def _succeed(self, probe: _Probe) -> None:
        probe.timer.cancel()
        self._probe = None
        self._awareness.apply(-1)
        self._tick_timer = self._timers.at(probe.started + self._settings.probe_interval, self._tick)

    def nack_received(self, nack: Nack) -> None:
        """A helper says that the target does not answer it either."""
        if self._probe is not None and self._probe.seq == nack.seq:
            self._probe.nacks += 1

    def stream_answered(self, number: int, ack: Ack) -> None:
        """The TCP ping got its answer."""
        probe = self._probe
        if probe is not None and number in probe.streams and ack.seq == probe.seq:
            probe.tcp = True

    def try_dead(self, node: Node, now: float) -> None:
        """Ping a dead member in case it is back; its answer leads to `on_return`, the accusation to a refutation."""
        seq = self._next_seq()
        timer = self._timers.at(
            now + self._settings.stream_timeout, lambda later: self._reconnects.pop(seq, None) and None
        )
        self._reconnects[seq] = node.name, timer
        self._ping(seq, node)
