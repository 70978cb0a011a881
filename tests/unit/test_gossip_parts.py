"""The small parts of gossip, each by itself: suspicion, awareness, queue, timers, owner logs, settings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnet.errors import MeshnetError
from meshnet.gossip.awareness import Awareness
from meshnet.gossip.meta import MemberMeta, encode_meta
from meshnet.gossip.queue import QUEUE_LIMIT, TransmitQueue, transmissions
from meshnet.gossip.records import Applied, OwnerLog, encode_value
from meshnet.gossip.settings import Settings
from meshnet.gossip.suspicion import Suspicion
from meshnet.gossip.timers import Timers

LAN = Settings("n0", "10.0.0.1")


@pytest.mark.parametrize(("members", "least"), [(4, 4.0), (10, 4.0), (100, 8.0), (1000, 12.0)])
def test_suspicion_times_are_lifeguards(members: int, least: float) -> None:
    """One accuser: six times the least time; two confirmations: the least time; the accuser itself counts once."""
    suspicion = Suspicion(LAN, members, "a", 100.0)
    assert suspicion.deadline() == pytest.approx(100 + 6 * least)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    between = 100 + 6 * least - 5 * least * math.log(2) / math.log(3)
    assert suspicion.deadline() == pytest.approx(between)
    assert not suspicion.confirm("b")
    assert suspicion.confirm("c")
    assert suspicion.deadline() == pytest.approx(100 + least)
    assert not suspicion.confirm("d")


def test_a_small_cluster_does_not_wait_for_confirmations() -> None:
    """Where nobody is left to confirm, the least time holds at once."""
    assert Suspicion(LAN, 3, "a", 100.0).deadline() == 104.0


def test_awareness_stays_in_its_bounds() -> None:
    """The score is 0 to 7, and stretches times by one more than itself."""
    awareness = Awareness(8)
    awareness.apply(-1)
    assert awareness.scale(1.0) == 1.0
    awareness.apply(100)
    assert awareness.score == 7
    assert awareness.scale(0.5) == 4.0


@pytest.mark.parametrize(("members", "times"), [(9, 15), (25, 18), (99, 21), (10_000, 36)])
def test_broadcasts_are_repeated_often_enough(members: int, times: int) -> None:
    """The retransmit rule gives the numbers that the simulation was made with."""
    assert transmissions(members) == times


def test_the_queue_prefers_what_was_told_least() -> None:
    """Least told first, the largest that fits of those; a newer word replaces the older; told enough is gone."""
    queue = TransmitQueue(3)
    queue.put("a", b"a" * 50)
    queue.put("b", b"b" * 60)
    assert queue.take(100, 2, 9) == [[b"b" * 60]]
    assert queue.take(100, 2, 9) == [[b"a" * 50]]
    queue.put("b", b"B" * 10)
    assert queue.take(100, 2, 9) == [[b"B" * 10, b"a" * 50]]
    rounds = 0
    while len(queue):
        queue.take(100, 2, 9)
        rounds += 1
    assert rounds == 4  # 15 transmissions to 3 targets per tick, one tick done


def test_a_tick_fills_several_packets_without_repeating() -> None:
    """When much is queued one tick sends more packets, each part once, none above the budget."""
    queue = TransmitQueue(3)
    for number in range(50):
        queue.put(number, bytes([number]) * 100)
    packets = queue.take(1000, 2, 9, packets=4)
    parts = [part for packet in packets for part in packet]
    assert len(packets) == 4
    assert len(parts) == len(set(parts)) == 36
    assert all(sum(len(part) + 2 for part in packet) <= 1000 for packet in packets)


def test_the_queue_is_bounded() -> None:
    """However much is queued, what was told most often goes first."""
    queue = TransmitQueue(3)
    queue.put("old", b"x")
    queue.take(100, 2, 9)
    for number in range(QUEUE_LIMIT):
        queue.put(number, b"y")
    assert len(queue) == QUEUE_LIMIT
    assert queue.take(100_000, 2, 9) == [[b"y"] * 255]


def test_timers_run_in_order_and_end() -> None:
    """Due actions run by time; cancelled ones do not; one that schedules itself waits for the next call."""
    timers = Timers()
    ran: list[str] = []
    timers.at(3.0, lambda now: ran.append("c"))
    timers.at(1.0, lambda now: ran.append("a"))
    timers.at(2.0, lambda now: ran.append("b")).cancel()

    def again(now: float) -> None:
        ran.append("again")
        timers.at(now, again)

    timers.at(1.5, again)
    assert timers.next() == 1.0
    timers.run(2.5)
    assert ran == ["a", "again"]
    assert timers.next() == 2.5


def test_early_timers_run_once_and_only_beside_others() -> None:
    """What may be early wakes nobody before its time, runs with what is due, and does not run again at its time."""
    timers = Timers()
    ran: list[tuple[str, float]] = []
    timers.at(10.0, lambda now: ran.append(("early", now)), early=5.0)
    timers.at(4.0, lambda now: ran.append(("soon", now)))
    timers.at(6.0, lambda now: ran.append(("later", now)))
    for now in (4.0, 6.0, 10.0):
        timers.run(now)
    assert ran == [("soon", 4.0), ("later", 6.0), ("early", 6.0)]
    timers.at(20.0, lambda now: ran.append(("alone", now)), early=5.0)
    assert timers.next() == 20.0
    timers.run(20.0)
    assert ran[3:] == [("alone", 20.0)]
    assert len(timers) == 0


def test_timers_that_are_over_are_let_go() -> None:
    """Whatever was cancelled, or ran early, is kept no longer than until its time, and not at all if it is next."""
    timers = Timers()
    for _ in range(1000):
        timers.at(3600.0, lambda now: None, early=1800.0).cancel()
        timers.next()
    assert len(timers) == 0
    sizes = []

    def tick(now: float) -> None:
        timers.at(now + 30.0, tick, early=15.0)

    tick(0.0)
    for now in range(10_000):
        timers.at(float(now), lambda now: None)
        timers.run(float(now))
        timers.next()
        sizes.append(len(timers))
    assert max(sizes) < 10


OPERATIONS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 3)), st.booleans()), max_size=60
)


@given(OPERATIONS, st.integers(0, 3))
def test_any_copy_at_any_time_catches_up(operations: list[tuple[str, int | None, bool]], late: int) -> None:
    """Whatever is published and withdrawn, and whenever a copy asks, the delta makes it equal to the original."""
    original = OwnerLog("n1", 1)
    copies = [OwnerLog("n1", 1) for _ in range(4)]
    for step, (key, value, forget) in enumerate(operations):
        body = None if value is None else encode_value({"v": value}, 100)
        original.append(("net", "kind", key), body)
        if forget:
            original.raise_floor(original.head - late)
        copy = copies[step % 4]
        copy.apply(original.delta(copy.head))
        assert _content(copy) == _content(original)
        assert copy.position == original.position
        assert copy.digest() == original.digest()
    for copy in copies:  # from one another, too
        copy.apply(copies[0].delta(copy.head) if copies[0].head >= copy.head else original.delta(copy.head))
        copy.apply(original.delta(copy.head))
        assert _content(copy) == _content(original)


def test_deltas_are_told_apart() -> None:
    """Old, doubled, early and new deltas do what they should."""
    original, copy = OwnerLog("n1", 1), OwnerLog("n1", 1)
    body = encode_value({}, 100)
    original.append(("n", "k", "a"), body)
    first = original.delta(0)
    original.append(("n", "k", "b"), body)
    second = original.delta(1)
    original.append(("n", "k", "b"), body)
    third = original.delta(2)
    assert copy.apply(first) is Applied.CHANGED
    assert copy.apply(third) is Applied.GAP
    assert copy.apply(second) is Applied.CHANGED
    assert copy.apply(third) is Applied.ADVANCED
    assert copy.apply(second) is Applied.STALE
    original.move_to_epoch(2)
    assert copy.apply(original.delta(2)) is Applied.GAP
    assert copy.apply(original.delta(0)) is Applied.ADVANCED
    assert copy.apply(first) is Applied.STALE
    assert copy.position == (2, 3)


def test_tombstones_are_forgotten_up_to_the_floor() -> None:
    """Below the floor nothing is kept of what was withdrawn, and a late copy takes a snapshot."""
    log = OwnerLog("n1", 1)
    for key in "abc":
        log.append(("n", "k", key), encode_value({}, 100))
    for key in "ab":
        log.append(("n", "k", key), None)
    assert (log.tombstones, len(log)) == (2, 3)
    log.raise_floor(4)
    assert (log.tombstones, len(log)) == (1, 2)
    assert log.delta(3).base == 0
    assert log.delta(4).base == 4
    assert [record.seq for record in log.delta(4).records] == [5]


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"label": b"x" * 256},
        {"keys": (b"short",)},
        {"epoch": -1},
        {"epoch": 1 << 50},
        {"packet_size": 100},
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, object]) -> None:
    """Names, labels, keys and sizes that the wire format has no room for are errors at once."""
    with pytest.raises(MeshnetError):
        Settings(**{"name": "n0", "address": "10.0.0.1", **fields})  # type: ignore[arg-type]


def test_metadata_that_do_not_fit_are_refused() -> None:
    """memberlist carries 512 bytes of metadata; more is an error of this node, not of its peers."""
    with pytest.raises(MeshnetError, match="512"):
        encode_meta(MemberMeta(hostname="x" * 600))


def _content(log: OwnerLog) -> list[tuple[str, int, object]]:
    return sorted((record.key, record.seq, record.value) for record in log.visible())
