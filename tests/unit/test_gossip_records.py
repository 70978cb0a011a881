"""Records in memory: spreading, suffixes, hiding and returning, restarts, acknowledgements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gossip_net import Link, Net

from meshnet.errors import MeshnetError
from meshnet.gossip.types import EpochChanged, RecordsChanged

BAD = Link(loss=0.25, repeat=0.1, delay=(0.0005, 0.03))


def _joined(seed: int, count: int, link: Link | None = None, **settings: Any) -> Net:
    net = Net(seed, link, **settings)
    net.start(count)
    net.until(net.agree, 20)
    return net


def _publish(net: Net, name: str, key: str, **value: object) -> int:
    return net.engines[name].publish("demo", "endpoint", key, value, net.now)


def _missing(net: Net, name: str, seq: int) -> set[str]:
    return set(net.engines[name].acknowledged(seq)[1])


@pytest.mark.parametrize("count", [2, 5, 25])
def test_a_record_reaches_everyone_and_its_owner_knows(count: int) -> None:
    """In a small cluster a new record is everywhere, and known to be, after one exchange of datagrams."""
    net = _joined(1, count)
    seq = _publish(net, "n1", "web.1", ip="10.0.1.2", state="ready")
    net.until(lambda: all(net.keys(name) == {("n1", "web.1")} for name in net.engines), 0.01)
    net.until(lambda: not _missing(net, "n1", seq), 0.01)
    assert {r.value["ip"] for e in net.engines.values() for r in e.records() if r.value} == {"10.0.1.2"}
    assert RecordsChanged("n1") in net.events["n0"]


@pytest.mark.parametrize("seed", range(8))
def test_records_converge_on_a_bad_network(seed: int) -> None:
    """Under loss, repetition and reordering all nodes end up with the same records, and owners know it."""
    net = _joined(seed, 6, BAD)
    last: dict[str, int] = {}
    for step in range(40):
        name = f"n{net.rng.randrange(6)}"
        key = f"k{net.rng.randrange(5)}"
        if net.rng.random() < 0.3:
            last[name] = net.engines[name].withdraw("demo", "endpoint", key, net.now)
        else:
            last[name] = _publish(net, name, key, step=step)
        net.run(0.03)
    net.until(lambda: net.same_records() and all(not _missing(net, n, s) for n, s in last.items()), 15)


def test_an_acknowledgement_is_not_guessed() -> None:
    """A record counts as seen by a member only after word came from it: a cut-off one stays missing."""
    net = _joined(2, 4)
    net.partition(["n1"], ["n3"])
    seq = _publish(net, "n1", "k", state="draining")
    net.until(lambda: _missing(net, "n1", seq) == {"n3"}, 0.01)
    net.run(0.02)
    assert _missing(net, "n1", seq) == {"n3"}
    net.until(lambda: ("n1", "k") in net.keys("n3"), 2)  # by way of the others


def _settle(net: Net, *names: str) -> None:
    """These nodes have done what the records say that they have now."""
    for name in names:
        net.engines[name].settle(net.engines[name].positions(), net.now)
        net.flush(name)


def test_a_record_is_in_force_when_everyone_says_so() -> None:
    """To have seen a record is not to have done what it says: each member, the owner included, has to tell."""
    net = _joined(21, 4)
    _settle(net, *net.engines)
    seq = _publish(net, "n1", "k", state="draining")
    before = net.engines["n3"].positions()
    net.until(lambda: not _missing(net, "n1", seq), 0.1)
    _settle(net, "n0", "n1", "n2")
    net.engines["n3"].settle(before, net.now)  # what it did meanwhile was made of older records
    net.run(0.5)
    assert not net.engines["n1"].in_force(seq)
    _settle(net, "n3")
    net.until(lambda: net.engines["n1"].in_force(seq), 0.01)
    again = _publish(net, "n1", "k", state="gone")
    net.run(0.5)
    assert not net.engines["n1"].in_force(again)
    _settle(net, "n0", "n2", "n3")
    net.run(0.1)
    assert not net.engines["n1"].in_force(again)  # not at its own node
    _settle(net, "n1")
    assert net.engines["n1"].in_force(again)


def test_who_is_silent_can_be_asked() -> None:
    """A member whose word was lost says it again when it is asked; one that has nothing to say yet does not."""
    net = _joined(27, 4)
    seq = _publish(net, "n1", "k", state="draining")
    net.until(lambda: not _missing(net, "n1", seq), 0.1)
    _settle(net, "n0", "n1")
    net.engines["n2"].settle(net.engines["n2"].positions(), net.now)
    assert net.engines["n2"].datagrams_to_send()  # which nobody gets
    for in_force in (False, True):
        net.engines["n1"].ask_in_force(seq, net.now)
        net.flush("n1")
        net.run(0.1)
        assert net.engines["n1"].in_force(seq) is in_force
        _settle(net, "n3")


def test_what_is_in_force_is_told_once() -> None:
    """A member that looks again and again says nothing as long as there is no news."""
    net = _joined(22, 3)
    _publish(net, "n1", "k", state="ready")
    net.run(0.2)
    _settle(net, "n0", "n2")
    net.run(0.2)
    sent = net.engines["n0"].statistics()["datagrams_sent"]
    _settle(net, "n0")
    assert net.engines["n0"].statistics()["datagrams_sent"] == sent


def test_a_dead_member_need_not_say_so() -> None:
    """Who waits until a record is in force waits for live members."""
    net = _joined(23, 3)
    net.kill("n2")
    seq = _publish(net, "n1", "k", state="draining")
    net.run(0.1)
    _settle(net, "n0", "n1")
    net.run(0.1)
    assert not net.engines["n1"].in_force(seq)
    net.until(lambda: net.engines["n1"].in_force(seq), 4)


def test_a_restarted_member_says_it_anew() -> None:
    """What a member had in force before its restart counts no more: it has to look first."""
    net = _joined(24, 3)
    seq = _publish(net, "n1", "k", state="ready")
    net.run(0.2)
    _settle(net, *net.engines)
    net.until(lambda: net.engines["n1"].in_force(seq), 0.1)
    old = net.engines["n2"].settings
    net.kill("n2")
    net.add("n2", replace(old, epoch=old.epoch + 1, meta=replace(old.meta, epoch=old.epoch + 1)))
    net.join("n2", "n0")
    net.until(lambda: ("n1", "k") in net.keys("n2") and not _missing(net, "n1", seq), 5)
    assert not net.engines["n1"].in_force(seq)
    _settle(net, "n2")
    net.until(lambda: net.engines["n1"].in_force(seq), 0.1)


def test_a_newcomer_says_again_what_it_said_too_early() -> None:
    """What it told an owner that had not heard of it yet was lost on that one, and is not waited for in vain."""
    net = _joined(26, 3)
    owner = net.engines["n1"]
    seq = _publish(net, "n1", "k", state="ready")
    net.run(0.1)
    _settle(net, *net.engines)
    net.add("n9", net.settings("n9").local())
    net.join("n9", "n0")
    net.until(lambda: ("n1", "k") in net.keys("n9"), 1)
    assert "n9" not in {each.name for each in owner.members()}
    _settle(net, "n9")
    net.until(lambda: "n9" in {each.name for each in owner.members()}, 1)
    net.until(lambda: owner.in_force(seq), 0.1)


def test_in_a_large_cluster_to_have_seen_is_enough() -> None:
    """Where not everyone tells everyone, a record is in force when all have seen it."""
    net = _joined(25, 4, direct_members=2)
    seq = _publish(net, "n1", "k", state="draining")
    _settle(net, "n1")
    assert not net.engines["n1"].in_force(seq)
    net.until(lambda: net.engines["n1"].in_force(seq), 10)
    assert not _missing(net, "n1", seq)


def test_a_member_that_dies_is_not_waited_for() -> None:
    """An acknowledgement is complete once the silent member is known to be dead."""
    net = _joined(3, 4)
    net.kill("n3")
    seq = _publish(net, "n1", "k", state="draining")
    net.until(lambda: _missing(net, "n1", seq) == {"n3"}, 0.1)
    net.until(lambda: not _missing(net, "n1", seq), 3)


def test_a_newcomer_gets_everything_and_is_waited_for() -> None:
    """A node that joins later has all records at once, and counts for acknowledgements of older ones."""
    net = _joined(4, 4)
    seqs = {name: [_publish(net, name, f"k{n}", n=n) for n in range(40)][-1] for name in net.engines}
    net.until(net.same_records, 1)
    net.add("n4", net.settings("n4").local())
    net.join("n4", "n0")
    net.until(lambda: net.agree() and net.same_records(), 0.3)
    net.until(lambda: all(not _missing(net, name, seq) for name, seq in seqs.items()), 0.3)


@pytest.mark.parametrize("seed", range(6))
def test_a_restarted_node_knows_when_it_knows_everything(seed: int) -> None:
    """It has caught up no moment before all records of the live members are there, and then it has."""
    net = _joined(seed, 3, Link(loss=0.2, delay=(0.0005, 0.02)))
    for name in net.engines:
        for number in range(30):
            _publish(net, name, f"k{number}", number=number)
    net.until(net.same_records, 5)
    whole = {(r.owner, r.key) for r in net.engines["n1"].records()}
    net.kill("n0")
    engine = net.add("n0", net.settings("n0", epoch=2).local())
    assert engine.caught_up()  # nobody is known who could tell it anything
    for number in range(30):
        _publish(net, "n0", f"k{number}", number=number)
    net.join("n0", "n1")
    net.until(lambda: len(engine.members()) == 3, 5)

    def caught_up() -> bool:
        known = {(r.owner, r.key) for r in engine.records()}
        assert not engine.caught_up() or known == whole
        return engine.caught_up()

    net.until(caught_up, 5)


def test_a_difference_ships_only_the_suffix() -> None:
    """When one record of thousands differs, one record travels, not the state."""
    net = _joined(5, 3)
    for number in range(3000):
        _publish(net, "n1", f"k{number}", number=number)
    net.until(net.same_records, 5)
    net.run(2)
    net.partition(["n1"], ["n0"])
    before, sent = net.stream_bytes, net.engines["n2"].statistics()["records_shipped"]
    _publish(net, "n1", "k7", number="new")
    net.until(net.same_records, 3)  # n0 has it from n2
    assert net.engines["n2"].statistics()["records_shipped"] - sent == 1
    assert net.stream_bytes - before < 3000  # pings and exchanges of member state


def test_a_probe_heals_what_a_broadcast_missed() -> None:
    """A record that every push failed to bring is fetched after the next probes that see another digest."""
    net = _joined(6, 4)
    net.link.loss = 1.0
    _publish(net, "n1", "k", a=1)
    net.run(0.05)
    net.link.loss = 0.0
    net.until(net.same_records, 1)


def test_the_dead_hide_and_come_back_with_their_records() -> None:
    """Records of a dead member are hidden, and visible at once when it is reachable again."""
    net = _joined(7, 5)
    _publish(net, "n4", "k", a=1)
    net.until(net.same_records, 1)
    net.partition(["n4"], ["n0", "n1", "n2", "n3"])
    net.until(lambda: all(net.keys(f"n{n}") == set() for n in range(4)), 3)
    assert net.keys("n4") == {("n4", "k")}
    net.run(20)  # the dead member has left the table meanwhile
    net.heal()
    net.until(net.agree, 5)
    net.until(net.same_records, 0.01)
    assert net.keys("n0") == {("n4", "k")}


def test_a_suspect_keeps_its_records() -> None:
    """Suspicion alone hides nothing: that a member is suspected is for the chooser of backends to weigh."""
    net = _joined(8, 4)
    _publish(net, "n3", "k", a=1)
    net.until(net.same_records, 1)
    net.kill("n3")
    net.until(lambda: net.states("n0")["n3"] == "suspect", 1)
    assert net.keys("n0") == {("n3", "k")}


def test_leaving_drops_the_records() -> None:
    """What a node that left has published is gone for everyone, also when it comes back under the same epoch."""
    net = _joined(9, 4)
    _publish(net, "n3", "old", a=1)
    net.until(net.same_records, 1)
    net.engines["n3"].leave(net.now)
    net.until(lambda: all(net.keys(f"n{n}") == set() for n in range(3)), 0.5)
    net.kill("n3")
    net.add("n3", net.settings("n3").local())
    _publish(net, "n3", "new", a=1)
    net.join("n3", "n0")
    net.until(lambda: net.agree() and all(net.keys(name) == {("n3", "new")} for name in net.engines), 2)


def test_a_new_epoch_replaces_the_log() -> None:
    """A restarted node's records replace those of its earlier life as a whole, without a moment of both or none."""
    net = _joined(10, 4)
    for key in ("kept", "gone"):
        _publish(net, "n3", key, life=1)
    net.until(net.same_records, 1)
    net.kill("n3")
    net.add("n3", net.settings("n3", epoch=1).local())
    _publish(net, "n3", "kept", life=2)
    seen = set()

    def replaced() -> bool:
        seen.add(frozenset(net.keys("n0")))
        return all(net.keys(name) == {("n3", "kept")} for name in net.engines)

    net.join("n3", "n1")
    net.until(replaced, 1)
    assert seen == {frozenset({("n3", "kept"), ("n3", "gone")}), frozenset({("n3", "kept")})}


def test_a_new_life_after_a_death_begins_with_nothing() -> None:
    """What a node had published before it died is not seen again when it returns restarted, not for a moment."""
    net = _joined(14, 4)
    _publish(net, "n3", "old", life=1)
    net.until(net.same_records, 1)
    net.kill("n3")
    net.until(lambda: all(net.states(f"n{n}")["n3"] == "dead" for n in range(3)), 3)
    net.add("n3", net.settings("n3", epoch=1).local())
    _publish(net, "n3", "new", life=2)
    seen: set[frozenset[tuple[str, str]]] = set()

    def returned() -> bool:
        seen.update(frozenset(net.keys(f"n{n}")) for n in range(3))
        return all(net.keys(name) == {("n3", "new")} for name in net.engines)

    net.join("n3", "n1")
    net.until(returned, 2)
    assert seen == {frozenset(), frozenset({("n3", "new")})}


def test_a_node_that_lost_its_epoch_gets_a_newer_one() -> None:
    """A node restarted without its state takes an epoch beyond what others hold, and its new records win."""
    net = Net(11, epoch=5)
    net.start(4)
    net.until(net.agree, 1)
    for number in range(9):
        _publish(net, "n3", f"old{number}", a=1)
    net.until(net.same_records, 1)
    net.kill("n3")
    net.add("n3", net.settings("n3", epoch=2).local())
    seq = _publish(net, "n3", "new", a=1)
    net.join("n3", "n0")
    net.until(lambda: all(net.keys(name) == {("n3", "new")} for name in net.engines), 2)
    assert EpochChanged(6) in net.events["n3"]
    net.until(lambda: not _missing(net, "n3", seq), 1)
    net.until(lambda: all(_epoch(net, name, "n3") == 6 for name in net.engines), 1)


def test_a_longer_log_of_the_same_epoch_is_not_mistaken_for_a_continuation() -> None:
    """A node restarted without its state under the same epoch, with more records than before, replaces the old log."""
    net = Net(18, epoch=5)
    net.start(4)
    net.until(net.agree, 1)
    for number in range(3):
        _publish(net, "n3", f"old{number}", a=1)
    net.until(net.same_records, 1)
    net.kill("n3")
    net.add("n3", net.settings("n3", epoch=5).local())
    wanted = {("n3", f"new{number}") for number in range(8)}
    for _, key in wanted:
        _publish(net, "n3", key, a=1)
    net.join("n3", "n0")
    net.until(lambda: all(net.keys(name) == wanted for name in net.engines), 2)


def test_withdrawn_records_do_not_come_back() -> None:
    """After many withdrawals the owner forgets them, and a copy that slept through them still loses the records."""
    net = _joined(12, 3)
    for number in range(300):
        _publish(net, "n1", f"k{number}", a=1)
    net.until(net.same_records, 2)
    net.partition(["n2"], ["n0", "n1"])
    net.until(lambda: net.states("n1")["n2"] == "dead", 5)
    for number in range(299):
        net.engines["n1"].withdraw("demo", "endpoint", f"k{number}", net.now)
    net.run(1)
    seq = _publish(net, "n1", "last", a=1)
    net.run(1)
    net.heal()
    net.until(lambda: net.agree() and net.same_records(), 8)
    assert net.keys("n2") == {("n1", "k299"), ("n1", "last")}
    net.until(lambda: not _missing(net, "n1", seq), 2)


def test_one_turn_of_publishing_is_one_datagram_per_peer() -> None:
    """Records published together travel together."""
    net = _joined(13, 4)
    net.run(1)
    before = net.engines["n1"].statistics()["pushes"]
    for number in range(10):
        _publish(net, "n1", f"k{number}", a=number)
    net.until(net.same_records, 0.1)
    assert net.engines["n1"].statistics()["pushes"] - before == 3


def test_the_same_value_again_is_no_change() -> None:
    """Publishing what is published costs nothing and returns a number that is acknowledged already."""
    net = _joined(14, 3)
    seq = _publish(net, "n1", "k", a=1)
    net.until(lambda: not _missing(net, "n1", seq), 0.1)
    assert _publish(net, "n1", "k", a=1) == seq
    assert net.engines["n1"].withdraw("demo", "endpoint", "never", net.now) == seq


def test_a_large_cluster_gossips_its_records() -> None:
    """Beyond the number of direct peers records spread by gossip, reach everyone, and digests tell who has them."""
    net = _joined(15, 20, Link(loss=0.05), direct_members=4)
    net.run(1)
    seq = _publish(net, "n1", "k", a=1)
    net.until(net.same_records, 2)
    net.until(lambda: not _missing(net, "n1", seq), 30)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": "x" * 9000}])
def test_values_that_cannot_travel_are_refused(value: dict[str, object]) -> None:
    """A value that is not plain data or too large is the caller's mistake, and changes nothing."""
    net = _joined(16, 2)
    with pytest.raises(MeshnetError):
        net.engines["n1"].publish("demo", "endpoint", "k", value, net.now)
    assert net.engines["n1"].records() == []


def test_values_larger_than_a_datagram_travel() -> None:
    """A record that exceeds a datagram goes over a stream."""
    net = _joined(17, 3)
    _publish(net, "n1", "big", text="x" * 5000)
    seq = _publish(net, "n1", "small", a=1)
    net.until(net.same_records, 1)
    net.until(lambda: not _missing(net, "n1", seq), 1)
    assert net.keys("n0") == {("n1", "big"), ("n1", "small")}


def _epoch(net: Net, at: str, of: str) -> int:
    return next(m.meta.epoch for m in net.engines[at].members() if m.name == of and m.meta is not None)
