"""One owner's log of records, and the deltas that bring another copy of it up to date.

The owner numbers its changes 1, 2, 3 ... A newer record about the same (network, kind, key) supersedes the older,
so a log holds each key once and its sequence numbers have gaps. A copy at `head` h holds exactly what the owner's
log held after its h-th change. A delta (base, head] carries the records of that range which are not superseded;
it fits a copy whose head is at least base. Base 0 is a snapshot: it replaces the copy. Snapshots carry the
tombstones above the floor, too: whoever took one may be asked for a suffix next.

Withdrawing a key leaves a tombstone, so that the suffix tells of it. The owner moves a floor: tombstones up to it
are forgotten everywhere, and whoever is further behind than the floor takes a snapshot instead of a suffix. So
nothing withdrawn can come back, however late a copy is.

Rejected: clocks and last-writer-wins between nodes (a forged or skewed clock resurrects what was withdrawn), and
timed tombstones (a copy that slept longer does the same).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgpack

from meshnet.errors import MeshnetError
from meshnet.gossip.types import Record, WireError

TEXT_LIMIT = 255
"""Bytes of a network, kind or key."""
SEQ_LIMIT = 1 << 63

_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException)

Key = tuple[str, str, str]
Position = tuple[int, int]
"""(epoch, seq): how far a copy of a log is."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The changes (base, head] of one owner's log. `floor` is the owner's tombstone floor."""

    owner: str
    epoch: int
    base: int
    head: int
    floor: int
    records: tuple[Record, ...]


class Applied(Enum):
    """What a delta did to a copy."""

    STALE = "stale"
    """Nothing new in it."""
    GAP = "gap"
    """It begins after what the copy has."""
    ADVANCED = "advanced"
    """The copy is now at the delta's head; what is visible is the same."""
    CHANGED = "changed"
    """The same, and visible records changed."""


def encode_value(value: Mapping[str, object], limit: int) -> bytes:
    """A record's value as bytes. Raises MeshnetError when it has no msgpack form or exceeds `limit` bytes."""
    try:
        body = bytes(msgpack.packb(dict(value)))
    except (TypeError, ValueError, OverflowError) as error:
        raise MeshnetError(f"a record's value must be plain data: {error}") from error
    if len(body) > limit:
        raise MeshnetError(f"a record's value takes {len(body)} bytes, the limit is {limit}")
    return body


def decode_value(body: bytes) -> dict[str, object]:
    """The value in a record's body. Raises WireError."""
    try:
        value: Any = msgpack.unpackb(body)
    except _UNPACK_ERRORS:
        raise WireError("malformed") from None
    if not isinstance(value, dict):
        raise WireError("malformed")
    return value


class OwnerLog:
    """One copy (or, on the owner, the original) of an owner's log."""

    def __init__(self, owner: str, epoch: int) -> None:
        self.owner = owner
        self.epoch = epoch
        self.head = 0
        self.floor = 0
        self.hidden_since: float | None = None
        self._records: dict[Key, Record] = {}  # in order of seq: a superseding record moves to the end
        self._tombstones = 0
        self._hash: tuple[Position, bytes] | None = None

    def __len__(self) -> int:
        return len(self._records)

    @property
    def position(self) -> Position:
        """(epoch, head)."""
        return self.epoch, self.head

    @property
    def tombstones(self) -> int:
        """How many records only say that something was withdrawn."""
        return self._tombstones

    def visible(self) -> Iterator[Record]:
        """The records that are not tombstones."""
        return (record for record in self._records.values() if record.value is not None)

    def holds(self, key: Key) -> Record | None:
        """The newest record of this key, if there is a visible one."""
        record = self._records.get(key)
        return record if record is not None and record.value is not None else None

    def append(self, key: Key, body: bytes | None) -> Record:
        """The owner's next change: publish `body` under `key`, or withdraw it (None)."""
        if any(len(part.encode()) > TEXT_LIMIT for part in key):
            raise MeshnetError(f"network, kind and key of a record take at most {TEXT_LIMIT} bytes each")
        value = None if body is None else decode_value(body)
        record = Record(self.owner, self.epoch, self.head + 1, *key, value, b"", body)
        self._put(record)
        self.head += 1
        return record

    def delta(self, base: int, limit: int | None = None) -> Delta:
        """What a copy at `base` lacks; a snapshot when it is behind the floor. At most `limit` records."""
        if base < self.floor:
            base = 0
        records: list[Record] = []
        for record in reversed(self._records.values()):
            if record.seq <= base:
                break
            records.append(record)
        records.reverse()
        head = self.head
        if limit is not None and base and len(records) > limit:
            records = records[:limit]
            head = records[-1].seq
        return Delta(self.owner, self.epoch, base, head, self.floor, tuple(records))

    def apply(self, delta: Delta) -> Applied:
        """Bring this copy forward. Deltas of an older epoch and of changes known already do nothing."""
        if delta.epoch < self.epoch or (delta.epoch == self.epoch and delta.head < self.head):
            return Applied.STALE
        if delta.epoch > self.epoch:
            if delta.base:
                return Applied.GAP
        elif delta.head == self.head:
            self._raise_floor(delta.floor)
            return Applied.STALE
        elif delta.base > self.head:
            return Applied.GAP
        changed = self._replace(delta) if delta.base == 0 else self._extend(delta)
        self.epoch, self.head = delta.epoch, delta.head
        self._raise_floor(delta.floor)
        return Applied.CHANGED if changed else Applied.ADVANCED

    def raise_floor(self, floor: int) -> None:
        """Forget tombstones up to `floor` (the owner's decision)."""
        self._raise_floor(min(floor, self.head))

    def move_to_epoch(self, epoch: int) -> None:
        """The owner goes on under another epoch, with the same records."""
        self.epoch = epoch
        self._records = {key: replace(record, epoch=epoch) for key, record in self._records.items()}

    def digest(self) -> bytes:
        """8 bytes that stand for owner and position."""
        if self._hash is None or self._hash[0] != self.position:
            content = struct.pack("!QQ", self.epoch, self.head) + self.owner.encode()
            self._hash = self.position, hashlib.blake2b(content, digest_size=8).digest()
        return self._hash[1]

    def _replace(self, delta: Delta) -> bool:
        before = {key: record.body for key, record in self._records.items() if record.value is not None}
        self._records = {}
        self._tombstones = 0
        self.floor = 0
        for record in delta.records:
            self._put(record)
        return before != {key: each.body for key, each in self._records.items() if each.value is not None}

    def _extend(self, delta: Delta) -> bool:
        changed = False
        for record in delta.records:
            if record.seq > self.head:
                before = self.holds((record.network, record.kind, record.key))
                changed = changed or (before.body if before else None) != record.body
                self._put(record)
        return changed

    def _put(self, record: Record) -> None:
        key = (record.network, record.kind, record.key)
        old = self._records.pop(key, None)
        if old is not None and old.value is None:
            self._tombstones -= 1
        if record.value is None:
            self._tombstones += 1
        self._records[key] = record

    def _raise_floor(self, floor: int) -> None:
        if floor <= self.floor or floor > self.head:
            return
        self.floor = floor
        if self._tombstones:
            kept = {key: each for key, each in self._records.items() if each.value is not None or each.seq > floor}
            self._records = kept
            self._tombstones = sum(1 for each in kept.values() if each.value is None)


def combined_digest(logs: Iterable[OwnerLog]) -> bytes:
    """8 bytes that are equal on two nodes exactly when (but for chance) they hold the same logs equally far."""
    total = 0
    for log in logs:
        total ^= int.from_bytes(log.digest())
    return total.to_bytes(8)
