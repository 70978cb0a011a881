"""The store in one SQLite file: an append-only table of changes, as kine keeps it.

One thread owns the connection, so transactions are serial without locks and the event loop never waits for the
disk. `synchronous=FULL` with a write-ahead log: a transaction that was acknowledged survives `kill -9` and a power
cut (NORMAL would lose the last ones). Watchers are fed by the same thread after each commit, so what a watch
replays from the table and what it then hears live meet without a gap. Compaction forgets superseded rows but
always keeps the last `keep` revisions for those who reconnect.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from meshnet.control.store import Batch, Compacted, Compare, Event, Item, Op, Put, TxnResult
from meshnet.errors import NoSpaceError

T = TypeVar("T")
Listing = tuple[list[Item], int]
KEEP = 1000
BACKLOG = 10_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    id INTEGER PRIMARY KEY,
    rev INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    create_rev INTEGER NOT NULL,
    UNIQUE (key, rev)
);
CREATE INDEX IF NOT EXISTS kv_rev ON kv (rev);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO meta VALUES ('compact_rev', 0), ('rev', 0);
"""
LATEST = "SELECT key, value, create_rev, rev FROM kv WHERE key = ? ORDER BY rev DESC LIMIT 1"
LIST = """
SELECT key, value, create_rev, rev FROM kv AS now WHERE key >= ? AND key < ? AND value IS NOT NULL
AND rev = (SELECT max(rev) FROM kv WHERE kv.key = now.key) ORDER BY key
"""
REPLAY = "SELECT rev, key, value FROM kv WHERE rev >= ? AND key >= ? AND key < ? ORDER BY rev, id"
# In this order: a tombstone may go only when nothing that it hides is left.
COMPACT = (
    "DELETE FROM kv WHERE rev <= ? AND EXISTS (SELECT 1 FROM kv AS k WHERE k.key = kv.key AND k.rev > kv.rev)",
    "DELETE FROM kv WHERE rev <= ? AND value IS NULL",
)


class _Watcher:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.queue: asyncio.Queue[Batch | Compacted | None] = asyncio.Queue()

    def put(self, entry: Batch | Compacted | None) -> None:
        """Runs in the event loop. A reader that does not keep up is told to list again."""
        if self.queue.qsize() == BACKLOG and isinstance(entry, Batch):
            entry = Compacted(entry.rev)
        if self.queue.qsize() <= BACKLOG:
            self.queue.put_nowait(entry)


class SqliteStore:
    """A `Store` in the file `path`. `keep` is the least number of revisions that compaction leaves."""

    def __init__(self, path: Path, keep: int = KEEP) -> None:
        self._path = path
        self._keep = keep
        self._watchers: list[_Watcher] = []
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection
        self._rev = 0
        self._compact_rev = 0
        self._closed = False

    @classmethod
    async def open(cls, path: Path, keep: int = KEEP) -> SqliteStore:
        """Opens or creates the file. Raises sqlite3.Error if it is not a store."""
        store = cls(path, keep)
        try:
            await store._run(store._open)
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    async def get(self, key: str) -> Item | None:
        return await self._run(partial(self._get, key))

    async def list(self, prefix: str) -> Listing:
        return await self._run(partial(self._list, prefix))

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> TxnResult:
        if len({op.key for op in ops}) != len(ops):
            raise ValueError("two operations of one transaction name the same key")
        return await self._run(partial(self._txn, tuple(compares), tuple(ops)))

    async def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Batch]:
        watcher = _Watcher(prefix)
        try:
            await self._run(partial(self._subscribe, watcher, from_rev))
            while (entry := await watcher.queue.get()) is not None:
                if isinstance(entry, Compacted):
                    raise entry
                yield entry
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._run(self._db.close)
        for watcher in self._watchers:
            watcher.put(None)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, work)

    # What follows runs in the store's thread.

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)
        known = dict(self._db.execute("SELECT name, value FROM meta"))
        self._rev, self._compact_rev = known["rev"], known["compact_rev"]

    def _get(self, key: str) -> Item | None:
        row = self._db.execute(LATEST, (key,)).fetchone()
        return None if row is None or row[1] is None else Item(*row)

    def _list(self, prefix: str) -> Listing:
        return [Item(*row) for row in self._db.execute(LIST, _range(prefix))], self._rev

    def _txn(self, compares: tuple[Compare, ...], ops: tuple[Op, ...]) -> TxnResult:
        found = [self._get(compare.key) for compare in compares]
        if any((item.mod_rev if item else 0) != compare.mod_rev for item, compare in zip(found, compares, strict=True)):
            return TxnResult(False, self._rev, tuple(found))
        before = tuple(self._get(op.key) for op in ops)
        rows = [row for op, item in zip(ops, before, strict=True) if (row := self._row(op, item))]
        if rows:
            self._commit(rows)
            self._publish(Batch(self._rev, tuple(Event(key, value) for _, key, value, _ in rows)))
        return TxnResult(True, self._rev, before)

    def _row(self, op: Op, before: Item | None) -> tuple[int, str, bytes | None, int] | None:
        """The change as a row; None for the deletion of what does not exist."""
        rev = self._rev + 1
        if isinstance(op, Put):
            return rev, op.key, op.value, before.create_rev if before else rev
        return (rev, op.key, None, before.create_rev) if before else None

    def _commit(self, rows: Sequence[tuple[int, str, bytes | None, int]]) -> None:
        rev = self._rev + 1
        limit = rev - self._keep
        compact = limit - self._compact_rev >= self._keep
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT INTO kv (rev, key, value, create_rev) VALUES (?, ?, ?, ?)", rows)
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'rev'", (rev,))
            if compact:
                for statement in COMPACT:
                    self._db.execute(statement, (limit,))
                self._db.execute("UPDATE meta SET value = ? WHERE name = 'compact_rev'", (limit,))
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and self._full(error):
                raise NoSpaceError(str(self._path.parent)) from None
            raise
        self._rev = rev
        if compact:
            self._compact_rev = limit

    def _full(self, error: sqlite3.Error) -> bool:
        """SQLite says so itself, but for files that it maps: those are an I/O error."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not os.statvfs(self._path).f_bavail)

    def _publish(self, batch: Batch) -> None:
        for watcher in tuple(self._watchers):
            events = tuple(event for event in batch.events if event.key.startswith(watcher.prefix))
            if events:
                self._loop.call_soon_threadsafe(watcher.put, Batch(batch.rev, events))

    def _subscribe(self, watcher: _Watcher, from_rev: int) -> None:
        if from_rev <= self._compact_rev:
            raise Compacted(self._compact_rev)
        batches: dict[int, tuple[Event, ...]] = {}
        for rev, key, value in self._db.execute(REPLAY, (from_rev, *_range(watcher.prefix))):
            batches[rev] = (*batches.get(rev, ()), Event(key, value))
        for rev, events in batches.items():
            self._loop.call_soon_threadsafe(watcher.put, Batch(rev, events))
        self._watchers.append(watcher)


def _range(prefix: str) -> tuple[str, str]:
    """The keys that start with `prefix` as a half-open range, so that the index is used."""
    return prefix, prefix + "\U0010ffff"
