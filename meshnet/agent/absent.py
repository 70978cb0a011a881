"""Members that gossip has given up, as they were when they were last heard of.

An agent that is dead, stopped or cut off takes nothing with it: its node's tasks run on, and the kernel there carries
their packets. So their addresses stay reachable from here, and what comes from that node is taken, while its backends
get no new connections. If the whole node is gone, packets to it are lost on the wire instead of here, which is the same
to whoever sent them.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshnet.datapath.plan import Located, Peer

KEEP = 3600.0  # s after which an absent member is given up here too
LIMIT = 1024  # absent members that are remembered


@dataclass(slots=True)
class _Heard:
    peer: Peer
    endpoints: list[Located]
    absent_since: float = math.inf


class Absent:
    """Remembers members by name (node id)."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}

    def update(
        self, peers: Collection[Peer], located: Iterable[Located], left: Collection[str], now: float
    ) -> tuple[list[Peer], list[Located]]:
        """Takes live peers, their endpoints, and who left in order; returns absent peers (`dead`) and their endpoints.

        These are `draining`, whatever they were. A peer that is back is absent no more, but its former endpoints are
        until it has told of its present ones. `now` is in seconds, of any clock that does not jump.
        """
        endpoints: dict[str, list[Located]] = defaultdict(list)
        for item in located:
            endpoints[item.owner].append(item)
        live = {peer.id for peer in peers}
        for peer in peers:
            if endpoints[peer.id]:
                self._heard[peer.id] = _Heard(peer, endpoints[peer.id])
        for name in [name for name in self._heard if name in left]:
            del self._heard[name]
        silent = {name: heard for name, heard in self._heard.items() if name not in live or not endpoints[name]}
        for heard in silent.values():
            heard.absent_since = min(heard.absent_since, now)
        self._forget(silent, now)
        gone = [heard.peer for name, heard in silent.items() if name in self._heard and name not in live]
        return (
            [dataclasses.replace(peer, state="dead") for peer in gone],
            [_draining(item) for name, heard in silent.items() if name in self._heard for item in heard.endpoints],
        )

    def _forget(self, silent: dict[str, _Heard], now: float) -> None:
        """Drops who has been absent for long, and the longest absent of too many."""
        by_time = sorted(silent, key=lambda name: silent[name].absent_since)
        surplus = max(0, len(by_time) - LIMIT)
        for place, name in enumerate(by_time):
            if place < surplus or now - silent[name].absent_since > KEEP:
                del self._heard[name]


def _draining(item: Located) -> Located:
    return dataclasses.replace(item, endpoint=dataclasses.replace(item.endpoint, state="draining"))
