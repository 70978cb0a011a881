"""What a manager can be told about its swarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnet.control.trust import gossipkeys, swarm
from meshnet.ipam import DEFAULT_POOLS, DEFAULT_SIZE


@dataclass(frozen=True, slots=True)
class Settings:
    """`lab` names the lab that the manager belongs to; so far it runs nowhere else.

    heartbeat: seconds between two reports of a node. Shorter notices a lost node sooner and costs one small request
        per node and period.
    grace: periods without a report until a node counts as down.
    history: tasks that a place of a service keeps, the running one included.
    pools, pool_size: where networks get their subnets from, and the prefix length of each.
    avoid: subnets that no network may meet, such as that of the nodes themselves.
    has_image: whether nodes can run an image of that name now; None if the manager cannot know.
    advertise: host:port under which nodes reach this manager; the listening address if empty.
    key_period: seconds until the gossip key is changed.
    data_path_port: UDP port of the overlay networks' tunnels, the same on every node.
    resolver: the port of nodes' resolvers for clients outside, which no service may publish; 0 is none.
    expiry: nanoseconds that the certificates of a new swarm's nodes are valid.
    """

    lab: str = ""
    heartbeat: float = 5.0
    grace: float = 3.0
    history: int = 5
    pools: tuple[str, ...] = DEFAULT_POOLS
    pool_size: int = DEFAULT_SIZE
    avoid: tuple[str, ...] = ()
    has_image: Callable[[str], bool] | None = None
    advertise: str = ""
    key_period: float = gossipkeys.PERIOD
    expiry: int = swarm.EXPIRY
    data_path_port: int = 4789
    resolver: int = 0
