"""The keys that seal a swarm's gossip, and how they change without a member that cannot read another.

A ring's first key seals, all open. A new key is first one to open with everywhere, then the one to seal with, then
the only one: each step waits until every node has said that it made the one before. A node that is down may still
gossip, so it is waited for, too, but only as long as a key is to live.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from meshnet.gossip.rng import Random

KEY_BITS = 256
PERIOD = 12 * 3600.0
"""Seconds that a key is used: swarmkit's manager/keymanager."""


@dataclass(frozen=True, slots=True)
class GossipKeys:
    """`keys` are base64, the one that seals first. `version` counts steps; `since` is when the last was made (s)."""

    version: int = 0
    keys: tuple[str, ...] = ()
    fresh: str = ""  # the key that is being introduced
    since: int = 0

    def raw(self) -> tuple[bytes, ...]:
        """The keys as bytes, the one that seals first."""
        return tuple(base64.b64decode(key) for key in self.keys)


def first_keys(now: float, rng: Random) -> GossipKeys:
    """The ring of a new swarm. `now` in seconds since the epoch."""
    return GossipKeys(1, (_new_key(rng),), since=int(now))


def begin(ring: GossipKeys, now: float, rng: Random) -> GossipKeys:
    """Introduces a new key; the same ring if that is going on already."""
    if ring.fresh:
        return ring
    fresh = _new_key(rng)
    return GossipKeys(ring.version + 1, (*ring.keys, fresh), fresh, int(now))


def step(
    ring: GossipKeys, held: Mapping[str, int], nodes: Iterable[str], now: float, rng: Random, period: float
) -> GossipKeys:
    """The next step if it is time for it, or the same ring.

    `held` is the version that each node was heard to hold, `nodes` who must hold this one, `period` in seconds.
    """
    late = now >= ring.since + period
    if not ring.fresh:
        return begin(ring, now, rng) if late else ring
    if not late and any(held.get(node) != ring.version for node in nodes):
        return ring
    after = replace(ring, version=ring.version + 1, since=int(now))
    if ring.keys[0] != ring.fresh:
        return replace(after, keys=(ring.fresh, *(key for key in ring.keys if key != ring.fresh)))
    return replace(after, keys=(ring.fresh,), fresh="")


def _new_key(rng: Random) -> str:
    return base64.b64encode(rng.getrandbits(KEY_BITS).to_bytes(KEY_BITS // 8)).decode()
