"""Membership and owner-written records by gossip.

Membership is SWIM with Lifeguard, and speaks hashicorp/memberlist's wire format (protocol 2), so that a
memberlist or serf peer sees an ordinary member. On top of it each member owns one log of records; digests of
"who has which log up to where" ride in probe acknowledgements, and a difference ships exactly the missing suffix.

Everything except `transport` is a value: datagrams and stream bytes go in with the time, datagrams, streams to
open and events come out, and a timer is asked for. `transport.Gossip` gives the engine sockets and a clock.
"""

from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.settings import Settings
from meshnet.gossip.types import Member, Record, State

__all__ = ["Member", "MemberMeta", "Record", "Settings", "State"]
