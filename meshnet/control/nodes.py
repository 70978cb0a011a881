"""Who is there: heartbeats, and the node objects that follow from them.

A node is down when it has not been heard for `grace` periods (Swarm: 5 s and 3). Time that the manager itself did not
run counts against nobody: a manager that starts gives every node a fresh term, and one that was stopped or starved
for a while extends all terms by that while (`paused`). When the terms of several nodes, and of all there are, end at
once, it is likelier that the manager hears nothing than that all are gone: they get a second term.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from meshnet.model import Node, NodeStatus

DOWN = "heartbeat failure"
LEFT = "stopped in order"
FIRST_TERM = 6.0  # agents that lost their manager look for it every 2 s at the latest


class Heartbeats:
    """Terms of the nodes that are up. Times are seconds of any clock that only goes forward."""

    def __init__(self, period: float = 5.0, grace: float = 3.0) -> None:
        self.period = period
        self._term = period * grace
        self._until: dict[str, float] = {}
        self._doubted = False

    def start(self, nodes: Iterable[Node], now: float) -> None:
        """Gives every node that the store says is ready a fresh term, long enough to find the manager again."""
        self._until = {node.id: now + max(self._term, FIRST_TERM) for node in nodes if node.status.state == "ready"}

    def every(self, period: float) -> None:
        """Changes the period. Terms that run go on; each node hears of the new one with its next report."""
        term = self._term / self.period * period
        longer = max(0.0, term - self._term)
        self._until = {node_id: until + longer for node_id, until in self._until.items()}
        self.period, self._term = period, term

    def beat(self, node_id: str, now: float) -> None:
        self._until[node_id] = now + self._term
        self._doubted = False

    def forget(self, node_id: str) -> None:
        self._until.pop(node_id, None)

    def paused(self, seconds: float) -> None:
        """The manager did not run for so long: nobody could be heard."""
        self._until = {node_id: until + seconds for node_id, until in self._until.items()}

    def expired(self, now: float) -> list[str]:
        """The nodes whose term is over; each is named once. All at once get a second term before they are."""
        over = [node_id for node_id, until in self._until.items() if until <= now]
        if 1 < len(over) == len(self._until) and not self._doubted:
            self._doubted = True
            self._until = dict.fromkeys(over, now + self._term)
            return []
        for node_id in over:
            del self._until[node_id]
        return over

    def counts_on(self, node_id: str) -> bool:
        """Whether the node has a term: one that was named as expired has none until it is heard."""
        return node_id in self._until

    def again(self, node_id: str, until: float) -> None:
        """Has a node that was named be named again at `until`: what follows from it could not be written."""
        self._until.setdefault(node_id, until)

    def next_expiry(self) -> float | None:
        return min(self._until.values(), default=None)


def down(node: Node) -> Node:
    """The node as lost."""
    return dataclasses.replace(node, status=NodeStatus("down", DOWN, node.status.addr))


def left(node: Node) -> Node:
    """The node as one that said that it stops; the same object if it is down."""
    if node.status.state == "down":
        return node
    return dataclasses.replace(node, status=NodeStatus("down", LEFT, node.status.addr))


def ready(node: Node) -> Node:
    """The node as heard; the same object if it was ready."""
    if node.status.state == "ready":
        return node
    return dataclasses.replace(node, status=NodeStatus("ready", "", node.status.addr))
