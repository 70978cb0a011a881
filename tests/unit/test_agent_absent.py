"""Members that gossip has given up are remembered as they were, for as long as that helps."""

from __future__ import annotations

from meshnet.agent.absent import KEEP, LIMIT, Absent
from meshnet.datapath.plan import Located, Peer
from meshnet.model import Endpoint, mac_of

TWO, THREE = Peer("n2", "172.17.0.3"), Peer("n3", "172.17.0.4", "suspect")


def of(owner: str, ip: str, state: str = "ready") -> Located:
    return Located(owner, "demo", Endpoint(endpoint=ip, ip=ip, mac=mac_of(ip), state=state))


def test_the_dead_are_remembered_and_the_returned_forgotten() -> None:
    """Who is gone is `dead` with its last endpoints, draining; back again, they stay until it has told of others."""
    absent, two, three = Absent(), of("n2", "10.0.1.2"), of("n3", "10.0.1.3", "draining")
    assert absent.update([TWO, THREE], [two, of("n3", "10.0.1.3")], (), 0.0) == ([], [])
    dead = [Peer("n3", "172.17.0.4", "dead")]
    assert absent.update([TWO], [two], (), 1.0) == (dead, [three])
    assert absent.update([TWO], [two], (), 2.0) == (dead, [three])
    assert absent.update([TWO, THREE], [two], (), 3.0) == ([], [three])
    assert absent.update([TWO, THREE], [two, of("n3", "10.0.1.9")], (), 4.0) == ([], [])
    assert absent.update([TWO], [two], (), 5.0)[1] == [of("n3", "10.0.1.9", "draining")]


def test_who_left_in_order_is_forgotten() -> None:
    """A farewell is a farewell: its tasks ended before."""
    absent = Absent()
    absent.update([THREE], [of("n3", "10.0.1.3")], (), 0.0)
    assert absent.update([], [], ("n3",), 1.0) == ([], [])
    assert absent.update([], [], (), 2.0) == ([], [])


def test_memory_is_bounded() -> None:
    """An absent member is given up after an hour, and the longest absent first when they are too many."""
    absent = Absent()
    absent.update([THREE], [of("n3", "10.0.1.3")], (), 0.0)
    assert absent.update([], [], (), 10.0)[0]
    assert absent.update([], [], (), 10.0 + KEEP)[0]
    assert absent.update([], [], (), 11.0 + KEEP) == ([], [])
    crowd = [Peer(f"m{number}", "172.17.0.4") for number in range(LIMIT + 5)]
    absent.update(crowd, [of(peer.id, "10.0.1.3") for peer in crowd], (), 0.0)
    absent.update(crowd[1:], [of(peer.id, "10.0.1.3") for peer in crowd[1:]], (), 1.0)
    gone, _ = absent.update([], [], (), 2.0)
    assert len(gone) == LIMIT
    assert "m0" not in {peer.id for peer in gone}
