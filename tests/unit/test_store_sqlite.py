"""The SQLite store: the conformance suite, and what `kill -9` leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from store_conformance import StoreConformance, run, take

from meshnet.control.sqlite import SqliteStore
from meshnet.control.store import Batch, Compacted, Put, Store

WRITER = """
import asyncio, sys
from pathlib import Path
from meshnet.control.sqlite import SqliteStore
from meshnet.control.store import Put

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), keep=20)
    while True:
        number = ((await store.list(""))[1] + 1)
        value = str(number).encode()
        result = await store.txn([], [Put("left", value), Put("right", value), Put(f"n/{number % 50}", value)])
        print(result.rev, flush=True)

asyncio.run(main())
"""


class TestSqliteStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "state.db"

    async def open(self) -> Store:
        return await SqliteStore.open(self.path, keep=10)

    def test_a_slow_reader_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A watch whose reader falls too far behind ends with Compacted instead of growing without bound."""
        monkeypatch.setattr("meshnet.control.sqlite.BACKLOG", 3)

        async def scenario() -> None:
            store = await self.open()
            watch = store.watch("", 1)
            await store.txn([], [Put("a", b"0")])
            assert len(await take(watch, 1)) == 1
            for number in range(9):
                await store.txn([], [Put("a", str(number).encode())])
            with pytest.raises(Compacted):
                await take(watch, 9)
            await store.close()

        run(scenario)

    def test_commits_wait_for_the_disk(self) -> None:
        """A transaction is on the disk when it is acknowledged (no test can cut the power; the setting can be read)."""

        async def scenario() -> None:
            store = await SqliteStore.open(self.path)
            read = partial(store._db.execute, "PRAGMA synchronous")
            assert (await store._run(lambda: read().fetchone())) == (2,)
            await store.close()

        run(scenario)

    def test_a_reader_that_leaves_is_forgotten(self) -> None:
        """A watch that is closed costs nothing more."""

        async def scenario() -> None:
            store = await SqliteStore.open(self.path)
            await store.txn([], [Put("a", b"0")])
            watch = store.watch("", 1)
            assert isinstance(await anext(watch), Batch)
            assert len(store._watchers) == 1
            await watch.aclose()  # type: ignore[attr-defined]
            assert store._watchers == []
            await store.close()

        run(scenario)


@pytest.mark.parametrize("acknowledged", [1, 7, 30])
def test_kill_9(tmp_path: Path, acknowledged: int) -> None:
    """After `kill -9` in the middle of writing, every acknowledged transaction is there, and no half of one."""
    path = tmp_path / "state.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        last = 0
        for _ in range(acknowledged):
            last = int(writer.stdout.readline())
    finally:
        writer.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.stdout.read().split())])
        writer.stdout.close()
        writer.wait()

    async def scenario() -> None:
        store = await SqliteStore.open(path)
        items, rev = await store.list("")
        values = {item.key: int(item.value) for item in items}
        assert rev >= last >= acknowledged, json.dumps(values)
        assert values["left"] == values["right"] == rev
        assert max(value for key, value in values.items() if key.startswith("n/")) == rev
        assert (await store.txn([], [Put("left", b"0")])).rev == rev + 1
        await store.close()

    run(scenario)
