"""Where the desired state is kept: a key-value store with revisions, transactions and watches (etcd's model).

Every committed transaction is one revision, however many keys it changes, and is seen by a watcher as one
`Batch`. A key's `mod_rev` is the revision of its last change; a `Compare` on it is the whole of concurrency
control. Backends are interchangeable: `tests/unit/store_conformance.py` says what each must do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """A key as it is now. `create_rev` changes when a key is deleted and made again."""

    key: str
    value: bytes
    create_rev: int
    mod_rev: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds if the key's last change was at `mod_rev`; 0 means that the key does not exist."""

    key: str
    mod_rev: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key; `value` None means that it was deleted."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All changes of one revision that match a watch's prefix."""

    rev: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`ok` False: a comparison failed, nothing changed, and `results` holds the items that were compared.

    `ok` True: `rev` is the new revision (the current one if there were no operations), and `results` holds, per
    operation, the item as it was before, or None.
    """

    ok: bool
    rev: int
    results: tuple[Item | None, ...]


class Compacted(Exception):
    """The revisions asked for are gone; list again and watch from there."""

    def __init__(self, compact_rev: int) -> None:
        super().__init__(f"revisions up to {compact_rev} are compacted")
        self.compact_rev = compact_rev


class Store(Protocol):
    async def get(self, key: str) -> Item | None:
        """The key's present item, or None."""

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        """All items whose key starts with `prefix`, by key, and the revision at which this was so."""

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> TxnResult:
        """Applies all of `ops` as one revision if all `compares` hold, else nothing.

        Durable when it returns. Raises ValueError if two operations name the same key.
        """

    def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Batch]:
        """Every revision from `from_rev` (included) on that changed a key under `prefix`, in order, without end.

        Raises Compacted if `from_rev` is no longer kept, or if the reader falls too far behind.
        """

    async def close(self) -> None:
        """Ends the watches and releases the files."""
