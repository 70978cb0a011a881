"""What every store backend must do. A backend's test module subclasses `StoreConformance` and gives it a store."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from meshnet.control.store import Batch, Compacted, Compare, Delete, Event, Item, Put, Store

T = TypeVar("T")
Opener = Callable[[], Awaitable[Store]]


def run(scenario: Callable[[], Awaitable[T]]) -> T:
    """Runs a scenario to its end, at most ten seconds."""

    async def bounded() -> T:
        return await asyncio.wait_for(scenario(), 10)

    return asyncio.run(bounded())


async def take(watch: AsyncIterator[Batch], count: int) -> list[Batch]:
    return [await anext(watch) for _ in range(count)]


class StoreConformance(ABC):
    """`self.open()` gives a store that keeps 10 revisions; opened again, it is the same store after a restart."""

    @abstractmethod
    async def open(self) -> Store:
        """The store, opened."""

    def test_get_and_list(self) -> None:
        """What was put is read back, a list is sorted, sees only its prefix, and says at which revision it was so."""

        async def scenario() -> None:
            store = await self.open()
            await store.txn([], [Put("b/2", b"two"), Put("a/1", b"one"), Put("b/1", b"\x00\xff")])
            assert await store.get("b/2") == Item("b/2", b"two", 1, 1)
            assert await store.get("b/3") is None
            items, rev = await store.list("b/")
            assert [(item.key, item.value) for item in items] == [("b/1", b"\x00\xff"), ("b/2", b"two")]
            assert rev == 1
            await store.close()

        run(scenario)

    def test_a_transaction_is_one_revision(self) -> None:
        """All changes of one transaction have one revision; keys keep the revision of their creation."""

        async def scenario() -> None:
            store = await self.open()
            assert (await store.txn([], [Put("a", b"1"), Put("b", b"1")])).rev == 1
            result = await store.txn([], [Put("a", b"2"), Delete("b")])
            assert (result.ok, result.rev) == (True, 2)
            assert result.results == (Item("a", b"1", 1, 1), Item("b", b"1", 1, 1))
            assert await store.get("a") == Item("a", b"2", 1, 2)
            assert await store.get("b") is None
            await store.txn([], [Put("b", b"3")])
            assert await store.get("b") == Item("b", b"3", 3, 3)
            await store.close()

        run(scenario)

    def test_compare_and_swap(self) -> None:
        """If one comparison fails nothing changes and the compared items come back; 0 means that a key is absent."""

        async def scenario() -> None:
            store = await self.open()
            assert (await store.txn([Compare("a", 0)], [Put("a", b"1")])).ok
            refused = await store.txn([Compare("a", 0), Compare("b", 0)], [Put("a", b"2"), Put("b", b"2")])
            assert not refused.ok
            assert refused.rev == 1
            assert refused.results == (Item("a", b"1", 1, 1), None)
            assert await store.get("b") is None
            assert (await store.txn([Compare("a", 1)], [Put("a", b"2")])).rev == 2
            await store.close()

        run(scenario)

    def test_racing_writers(self) -> None:
        """Of many writers that compare the same revision exactly one wins."""

        async def scenario() -> None:
            store = await self.open()
            results = await asyncio.gather(
                *(store.txn([Compare("a", 0)], [Put("a", str(writer).encode())]) for writer in range(20))
            )
            assert sum(result.ok for result in results) == 1
            await store.close()

        run(scenario)

    def test_no_change_no_revision(self) -> None:
        """Deleting what does not exist, or changing nothing, makes no revision; naming a key twice is refused."""

        async def scenario() -> None:
            store = await self.open()
            assert (await store.txn([], [Delete("a")])).rev == 0
            assert (await store.txn([], [])).rev == 0
            with pytest.raises(ValueError):
                await store.txn([], [Put("a", b"1"), Delete("a")])
            await store.close()

        run(scenario)

    def test_watch_replays_and_follows(self) -> None:
        """A watch gives each matching revision once and in order, past ones first, one batch per transaction."""

        async def scenario() -> None:
            store = await self.open()
            await store.txn([], [Put("a/1", b"1"), Put("z", b"1")])
            await store.txn([], [Put("a/1", b"2"), Put("a/2", b"2")])
            watch = store.watch("a/", 2)
            assert await take(watch, 1) == [Batch(2, (Event("a/1", b"2"), Event("a/2", b"2")))]
            await store.txn([], [Put("z", b"3")])
            await store.txn([], [Delete("a/1")])
            assert await take(watch, 1) == [Batch(4, (Event("a/1", None),))]
            await store.close()

        run(scenario)

    def test_watch_without_gap(self) -> None:
        """A watch that starts while others write misses no revision and repeats none."""

        async def scenario() -> None:
            store = await self.open()

            async def write() -> None:
                for number in range(1, 9):
                    await store.txn([], [Put("a", str(number).encode())])

            writer = asyncio.create_task(write())
            batches = await take(store.watch("", 1), 8)
            assert [batch.rev for batch in batches] == list(range(1, 9))
            await writer
            await store.close()

        run(scenario)

    def test_compaction(self) -> None:
        """Old revisions are forgotten, never the present state; who asks for them is told to list again."""

        async def scenario() -> None:
            store = await self.open()
            await store.txn([], [Put("old", b"stays"), Put("gone", b"1")])
            await store.txn([], [Put("gone", b"2")])
            await store.txn([], [Delete("gone")])
            for number in range(40):
                await store.txn([], [Put("a", str(number).encode())])
            with pytest.raises(Compacted) as refused:
                await anext(store.watch("", 1))
            assert 0 < refused.value.compact_rev <= 43 - 10
            kept = await take(store.watch("", refused.value.compact_rev + 1), 43 - refused.value.compact_rev)
            assert [batch.rev for batch in kept] == list(range(refused.value.compact_rev + 1, 44))
            assert [item.key for item in (await store.list(""))[0]] == ["a", "old"]
            await store.close()

        run(scenario)

    def test_restart(self) -> None:
        """A store that is opened again has the same items, goes on counting, and replays what it kept."""

        async def scenario() -> None:
            store = await self.open()
            await store.txn([], [Put("a", b"1")])
            await store.txn([], [Put("a", b"2"), Put("b", b"2")])
            await store.txn([], [Delete("b")])
            await store.close()
            store = await self.open()
            assert await store.list("") == ([Item("a", b"2", 1, 2)], 3)
            assert [batch.rev for batch in await take(store.watch("", 2), 2)] == [2, 3]
            assert (await store.txn([], [Put("c", b"4")])).rev == 4
            await store.close()

        run(scenario)

    def test_close_ends_watches(self) -> None:
        """Closing the store ends its watches instead of leaving their readers waiting."""

        async def scenario() -> None:
            store = await self.open()
            watch = store.watch("", 1)
            reader = asyncio.ensure_future(anext(watch, None))
            await store.txn([], [Put("a", b"1")])
            assert await reader is not None
            reader = asyncio.ensure_future(anext(watch, None))
            await store.close()
            assert await reader is None

        run(scenario)
