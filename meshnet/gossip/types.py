"""The words of the gossip layer: addresses, members, records, and the events that tell of their changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshnet.gossip.meta import MemberMeta

Address = tuple[str, int]
"""An IP address in its usual text form and a port."""

State = Literal["alive", "suspect", "dead", "left"]

LIVE: tuple[State, ...] = ("alive", "suspect")
"""States in which a member's records are visible and its word is waited for."""


class WireError(Exception):
    """A peer's bytes cannot be used (a remote fault). `reason` is the counter that it raises by one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """One member as seen from here. `meta` is None for a member that is not a meshnet node."""

    name: str
    address: str
    port: int
    state: State
    incarnation: int
    meta: MemberMeta | None


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an owner's log: the newest word of `owner` about (network, kind, key).

    `value` is None for a tombstone. `signature` is reserved for the owner's key. `body` is the value as it
    travels, so that a relay passes on exactly the bytes that the owner wrote.
    """

    owner: str
    epoch: int
    seq: int
    network: str
    kind: str
    key: str
    value: Mapping[str, object] | None
    signature: bytes = b""
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member joined, changed its state or its metadata. `before` is None for a member not known until now."""

    member: Member
    before: State | None


@dataclass(frozen=True, slots=True)
class RecordsChanged:
    """The visible records of `owner` are not what they were."""

    owner: str


@dataclass(frozen=True, slots=True)
class EpochChanged:
    """This node's epoch had to move, since peers hold a log of its name that is newer. Persist the new one."""

    epoch: int


@dataclass(frozen=True, slots=True)
class JoinResult:
    """The exchange with one address given to `join` ended; `error` is empty when it worked."""

    address: Address
    error: str


@dataclass(frozen=True, slots=True)
class AcknowledgedChanged:
    """Some member is now known to have seen more of this node's log."""

    name: str


Event = MemberChanged | RecordsChanged | EpochChanged | JoinResult | AcknowledgedChanged
Emit = Callable[[Event], None]
Counters = Counter[str]
