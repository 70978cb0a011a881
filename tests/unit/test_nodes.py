"""When a node counts as down."""

from __future__ import annotations

from meshnet.control.nodes import FIRST_TERM, Heartbeats, down, ready
from meshnet.model import Node, NodeStatus

UP = Node(id="a", status=NodeStatus("ready", "", "172.17.0.2"))


def test_three_periods() -> None:
    """A node is down once, three periods after it was last heard, and not before."""
    beats = Heartbeats(5.0, 3.0)
    beats.beat("a", 100.0)
    beats.beat("b", 104.0)
    assert beats.next_expiry() == 115.0
    assert beats.expired(114.9) == []
    assert beats.expired(115.0) == ["a"]
    assert beats.expired(115.0) == []
    beats.beat("b", 118.0)
    assert beats.expired(119.0) == []
    assert beats.next_expiry() == 133.0
    beats.forget("b")
    assert beats.next_expiry() is None


def test_the_managers_own_absence_counts_against_nobody() -> None:
    """A manager that starts gives each ready node time to find it; one that stood still extends all terms."""
    beats = Heartbeats(0.5, 3.0)
    beats.start([UP, down(Node(id="b"))], 50.0)
    assert beats.expired(50.0 + FIRST_TERM - 0.1) == []
    assert beats.expired(50.0 + FIRST_TERM) == ["a"]
    beats.beat("a", 100.0)
    beats.paused(60.0)
    assert beats.expired(161.4) == []
    assert beats.expired(161.5) == ["a"]


def test_status() -> None:
    """Down and ready keep the address; a node that is ready already stays the same object."""
    assert down(UP).status == NodeStatus("down", "heartbeat failure", "172.17.0.2")
    assert ready(down(UP)) == UP
    assert ready(UP) is UP


def test_all_at_once_are_doubted_first() -> None:
    """When no node is heard any more they get a second term; when one is heard again, the others are down."""
    beats = Heartbeats(5.0, 3.0)
    for node in ("a", "b", "c"):
        beats.beat(node, 100.0)
    assert beats.expired(115.0) == []
    assert beats.next_expiry() == 130.0
    beats.beat("b", 116.0)
    assert sorted(beats.expired(130.0)) == ["a", "c"]
    assert beats.expired(131.0) == ["b"]  # one alone is not doubted
    for node in ("a", "b"):
        beats.beat(node, 200.0)
    assert beats.expired(215.0) == []
    assert sorted(beats.expired(230.0)) == ["a", "b"]
