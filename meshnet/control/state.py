"""The store as objects: a view kept up to date by a watch, and one way to change it.

`write` is the only way: it takes a function that looks at the view and returns the changes it wants, commits them
as one transaction that compares every object with what the function saw, and returns when the view shows them.
Writers take turns, so a function decides on the newest state; with a store that others write to as well, a lost
comparison lets it decide again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshnet.control.objects import Change, Changes, Object, decode, encode, key_of, kind_of, touched
from meshnet.control.store import Compacted, Compare, Delete, Op, Put, Store
from meshnet.control.view import View
from meshnet.errors import ConflictError

ATTEMPTS = 8


Decide = Callable[[View], Changes]
Listener = Callable[[list[Change]], None]


class State:
    """`clock` gives seconds since the epoch. Listeners are called with the changes of each revision, in order."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.view = View()
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._advanced = asyncio.Condition()
        self._listeners: list[Listener] = []
        self._reader: asyncio.Task[None] | None = None
        self._failed: BaseException | None = None

    async def start(self) -> None:
        """Fills the view and begins to follow the store."""
        await self._load()
        self._reader = asyncio.create_task(self._follow(), name="state")

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` after each revision has been applied. Returns the way to stop it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def write(self, decide: Decide) -> Changes:
        """Commits what `decide` wants; returns the objects as they are in the view then.

        What `decide` raises is passed on and nothing is changed. Raises ConflictError when others kept winning.
        """
        async with self._turn:
            for _ in range(ATTEMPTS):
                changes = decide(self.view)
                if not changes:
                    return changes
                compares, ops = self._transaction(changes)
                result = await self._store.txn(compares, ops)
                await self._reached(result.rev)
                if result.ok:
                    return self._as_written(changes)
            raise ConflictError("the swarm's state changed too quickly; try again")

    def _transaction(self, changes: Changes) -> tuple[list[Compare], list[Op]]:
        now = self._clock()
        compares: list[Compare] = []
        ops: list[Op] = []
        for thing in changes.put:
            compares.append(Compare(key_of(thing), self._version(thing)))
            ops.append(Put(key_of(thing), encode(touched(thing, now))))
        for thing in changes.drop:
            compares.append(Compare(key_of(thing), self._version(thing)))
            ops.append(Delete(key_of(thing)))
        return compares, ops

    def _version(self, thing: Object) -> int:
        known = self.view.get(kind_of(thing), thing.id)
        return known.version.index if known else 0

    def _as_written(self, changes: Changes) -> Changes:
        put = (self.view.get(kind_of(thing), thing.id) for thing in changes.put)
        return Changes(tuple(thing for thing in put if thing is not None), changes.drop)

    async def _reached(self, rev: int) -> None:
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.view.rev >= rev or self._failed is not None)
        if self._failed is not None:
            raise self._failed

    async def _load(self) -> None:
        items, rev = await self._store.list("")
        found = {item.key: decode(item.key, item.value, item.mod_rev) for item in items}
        changes = [self._replace(thing, None) for thing in list(self.view.all()) if key_of(thing) not in found]
        for thing in found.values():
            known = self.view.get(kind_of(thing), thing.id)
            if known is None or known.version != thing.version:
                changes.append(self._replace(thing, thing))
        await self._advance(rev, changes)

    async def _follow(self) -> None:
        try:
            while True:
                try:
                    async for batch in self._store.watch("", self.view.rev + 1):
                        changes = []
                        for event in batch.events:
                            kind, _, ident = event.key.partition("/")
                            after = None if event.value is None else decode(event.key, event.value, batch.rev)
                            changes.append(Change(self.view.apply(kind, ident, after), after))
                        await self._advance(batch.rev, changes)
                    return
                except Compacted:
                    await self._load()
        except Exception as error:  # for everyone who waits
            async with self._advanced:
                self._failed = error
                self._advanced.notify_all()
            raise

    def _replace(self, thing: Object, after: Object | None) -> Change:
        return Change(self.view.apply(kind_of(thing), thing.id, after), after)

    async def _advance(self, rev: int, changes: list[Change]) -> None:
        self.view.rev = rev
        for listener in tuple(self._listeners):
            listener(changes)
        async with self._advanced:
            self._advanced.notify_all()
