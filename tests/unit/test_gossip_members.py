"""Membership in memory: joining, failing, refuting, leaving, partitions, restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gossip_net import Link, Net

from meshnet.gossip.codec import PROTOCOL, Alive, Dead, Suspect, encode_message
from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.types import JoinResult

VERSIONS = PROTOCOL + bytes(3)
BAD = Link(loss=0.2, repeat=0.1, delay=(0.0005, 0.03))


@pytest.mark.parametrize("count", [2, 3, 9, 25])
def test_one_address_finds_everyone(count: int) -> None:
    """A node that knows one other's address gets to know all, and is known to all, within a second."""
    net = Net(count)
    net.start(count)
    net.until(net.agree, 1)
    assert all([JoinResult(net.where("n0"), "")] == net.joins(f"n{n}") for n in range(1, count))


@pytest.mark.parametrize("seed", range(6))
def test_members_agree_on_a_bad_network(seed: int) -> None:
    """With a fifth of all datagrams lost, others repeated and late, all nodes still find one another."""
    net = Net(seed, BAD)
    net.start(8)
    net.until(net.agree, 20)


def test_join_reports_an_address_where_nobody_is() -> None:
    """A join that reaches nobody says so, and leaves the node alone but well."""
    net = Net(1)
    net.add("n0")
    net.engines["n0"].join([("10.9.9.9", 7946)], net.now)
    net.until(lambda: any(isinstance(e, JoinResult) and e.error == "refused" for e in net.events["n0"]), 1)
    assert net.states("n0") == {"n0": "alive"}


def test_a_node_alone_tries_its_seeds_again() -> None:
    """A node started before its seed joins by itself when the seed appears."""
    net = Net(2)
    settings = net.settings("n0")
    net.add("n1", net.settings("n1").local())
    net.engines["n1"].join([(settings.address, settings.port)], net.now)
    net.run(3)
    net.add("n0", settings.local())
    net.until(net.agree, 3)


@pytest.mark.parametrize("count", [3, 5, 9])
def test_a_crash_is_suspected_at_once_and_certain_soon(count: int) -> None:
    """With a lab's times a killed node is suspected everywhere in 1.7 s, dead in 3.2 s, and no other is."""
    net = Net(count)
    net.start(count)
    net.until(net.agree, 1)
    net.run(3)
    net.kill("n1")
    rest = list(net.engines)
    net.until(lambda: all(net.states(name)["n1"] == "suspect" for name in rest), 1.7)
    assert net.suspected_by("n0") == ["n1"]
    net.until(lambda: all(net.states(name)["n1"] == "dead" for name in rest), 3.2)
    assert all(state == "alive" for name in rest for other, state in net.states(name).items() if other != "n1")


def test_lan_times_are_memberlists() -> None:
    """With the default times a killed node of six is dead for all after 4 to 9 s, as serf's are."""
    net = Net(3)
    net.start(6, local=False)
    net.until(net.agree, 5)
    net.kill("n1")
    took = net.until(lambda: all(net.states(name)["n1"] == "dead" for name in net.engines), 12)
    assert 4 < took < 9


def test_an_accused_node_refutes() -> None:
    """A live node that hears an accusation raises its incarnation, and everybody keeps it."""
    net = Net(4)
    net.start(4)
    net.until(net.agree, 1)
    word = encode_message(Suspect(1, "n2", "n3"))
    net.engines["n0"].receive_datagram(word, ("10.0.0.4", 7946), net.now)
    assert net.states("n0")["n2"] == "suspect"
    net.until(lambda: net.agree() and _incarnations(net, "n2") == {2}, 0.5)
    net.run(3)
    assert net.agree()
    assert net.engines["n2"].statistics()["refuted"] == 1


def test_a_stale_alive_does_not_resurrect() -> None:
    """An alive of an incarnation at which the member was found dead changes nothing."""
    net = Net(5)
    net.start(3)
    net.until(net.agree, 1)
    old = next(m for m in net.engines["n0"].members() if m.name == "n2")
    net.kill("n2")
    net.until(lambda: net.states("n0")["n2"] == "dead", 3)
    alive = Alive(old.incarnation, "n2", (old.address, old.port), b"", VERSIONS)
    net.engines["n0"].receive_datagram(encode_message(alive), ("10.0.0.9", 1), net.now)
    assert net.states("n0")["n2"] == "dead"


def test_later_evidence_about_the_dead_counts() -> None:
    """A death notice of a higher incarnation is remembered, so that an alive between the two stays stale."""
    net = Net(6)
    net.start(3)
    net.until(net.agree, 1)
    engine = net.engines["n0"]
    where = next((m.address, m.port) for m in engine.members() if m.name == "n2")
    net.kill("n2")
    for message in (Dead(1, "n2", "n1"), Dead(7, "n2", "n1"), Alive(5, "n2", where, b"", VERSIONS)):
        engine.receive_datagram(encode_message(message), ("10.0.0.2", 7946), net.now)
    assert net.states("n0")["n2"] == "dead"


def test_a_farewell_is_not_a_failure() -> None:
    """A node that leaves is `left` for everyone quickly, without ever being suspected, and may come back."""
    net = Net(7)
    net.start(5)
    net.until(net.agree, 1)
    leaver = net.engines["n3"]
    leaver.leave(net.now)
    net.flush("n3")
    net.until(lambda: leaver.farewell_sent, 1)
    net.kill("n3")
    net.until(lambda: all(net.states(name).get("n3") == "left" for name in net.engines), 0.5)
    assert net.suspected_by("n0") == []
    net.add("n3", net.settings("n3", epoch=1).local())
    net.join("n3", "n1")
    net.until(net.agree, 2)


def test_the_gone_are_forgotten() -> None:
    """Dead and left members leave the table after a while, and no exchange of state brings them back."""
    net = Net(8)
    net.start(4)
    net.until(net.agree, 1)
    net.kill("n2")
    net.engines["n3"].leave(net.now)
    net.run(0.5)
    net.kill("n3")
    net.run(40)
    assert net.states("n0") == net.states("n1") == {"n0": "alive", "n1": "alive"}


@pytest.mark.parametrize("seed", range(4))
def test_a_split_cluster_heals_by_itself(seed: int) -> None:
    """Halves that have buried each other find together again when they can, without anyone's doing."""
    net = Net(seed)
    net.start(6)
    net.until(net.agree, 2)
    left, right = ["n0", "n1", "n2"], ["n3", "n4", "n5"]
    net.partition(left, right)
    net.until(lambda: net.agree_within(left) and net.agree_within(right), 10)
    net.run(25 if seed % 2 else 3)  # longer than the dead stay in the table, and shorter
    net.heal()
    net.until(net.agree, 8)


def test_one_deaf_direction_kills_nobody() -> None:
    """When one node cannot send to one other (but all else works), others vouch for it."""
    net = Net(9)
    net.start(5)
    net.until(net.agree, 1)
    net.partition(["n1"], ["n2"], both=False)
    net.run(20)
    assert net.agree()


def test_a_restarted_node_takes_its_place_again() -> None:
    """A node that crashed and came back with nothing but a new epoch is alive for all within a second."""
    net = Net(10)
    net.start(5)
    net.until(net.agree, 1)
    net.run(2)
    net.kill("n4")
    net.add("n4", net.settings("n4", epoch=1).local())
    net.join("n4", "n0")
    net.until(lambda: net.agree() and _epochs(net, "n4") == {1}, 1)
    net.run(5)
    assert net.agree()


def test_a_node_that_died_and_came_back_is_alive_at_once() -> None:
    """Also after it was declared dead, a restarted node is alive for all within a second."""
    net = Net(11)
    net.start(5)
    net.until(net.agree, 1)
    net.kill("n4")
    net.until(lambda: all(net.states(name)["n4"] == "dead" for name in net.engines), 5)
    net.add("n4", net.settings("n4", epoch=1).local())
    net.join("n4", "n2")
    net.until(net.agree, 1)


def test_a_paused_node_accuses_nobody() -> None:
    """A node that did not run for a while notices it, and does not take the others for dead."""
    net = Net(12)
    net.start(6)
    net.until(net.agree, 1)
    net.run(2)
    net.paused["n1"] = net.now + 0.45
    net.run(0.5)
    assert net.engines["n1"].statistics()["stalls"] >= 1
    assert net.suspected_by("n1") == []
    net.run(3)
    assert net.agree()


def test_metadata_changes_reach_everyone() -> None:
    """What a node says of itself is known to all within half a second after it changed."""
    net = Net(13)
    net.start(5)
    net.until(net.agree, 1)
    net.engines["n2"].update_meta(MemberMeta(role="manager", tunnel="10.1.1.1"), net.now)
    net.until(lambda: all(_roles(net, name)["n2"] == "manager" for name in net.engines), 0.5)


def test_a_second_node_of_the_same_name_is_refused() -> None:
    """Another address cannot take a live member's name."""
    net = Net(14)
    net.start(3)
    net.until(net.agree, 1)
    thief = Alive(9, "n2", ("10.66.66.66", 7946), b"", VERSIONS)
    net.engines["n0"].receive_datagram(encode_message(thief), ("10.66.66.66", 7946), net.now)
    assert {m.address for m in net.engines["n0"].members() if m.name == "n2"} == {"10.0.0.3"}
    assert net.engines["n0"].statistics()["address_conflict"] == 1


def test_two_nodes_of_one_name_do_not_shout_each_other_down() -> None:
    """Each of two nodes with the same name outbids what it hears of the other, at most twice a second."""
    net = Net(16)
    net.start(3)
    net.until(net.agree, 1)
    twin = net.add("twin", replace(net.settings("n2"), address="10.66.66.66").local())
    for name in ("n0", "n2"):  # it knows its own old address, as a copy of a node's files does
        net.join("twin", name)
    net.run(3)
    before, said = net.datagrams, max(_incarnations(net, "n2"))
    net.run(10)
    assert net.datagrams - before <= 1000
    assert max(_incarnations(net, "n2")) - said <= 2 * 2 * 10 + 2
    assert twin.statistics()["address_conflict"] > 0
    assert {m.address for m in net.engines["n0"].members() if m.name == "n2"} == {"10.0.0.3"}


def test_nobody_sends_when_nothing_happens() -> None:
    """At rest a node sends its probe, its answers, and nothing else but a rare exchange of state."""
    net = Net(15)
    net.start(3)
    net.until(net.agree, 1)
    net.run(5)
    before = net.datagrams
    net.run(10)
    assert net.datagrams - before <= 10 * 3 * 10 + 10
    assert net.engines["n0"].statistics()["queued_broadcasts"] == 0


def _roles(net: Net, name: str) -> dict[str, str]:
    return {m.name: m.meta.role for m in net.engines[name].members() if m.meta is not None}


def _incarnations(net: Net, of: str) -> set[int]:
    return {m.incarnation for e in net.engines.values() for m in e.members() if m.name == of}


def _epochs(net: Net, of: str) -> set[int]:
    return {m.meta.epoch for e in net.engines.values() for m in e.members() if m.name == of and m.meta is not None}
