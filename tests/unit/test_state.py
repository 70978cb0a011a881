"""The view that follows the store, and the one way to change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from swarm import run

from meshnet.control.objects import Change, Changes, Cursor, decode, encode, new_id, seconds, stamp, touched
from meshnet.control.sqlite import SqliteStore
from meshnet.control.state import State
from meshnet.control.store import Batch, Compare, Item, Op, Put, Store, TxnResult
from meshnet.control.view import View
from meshnet.errors import ConflictError, MeshnetError
from meshnet.model import Network, NetworkSpec, Service, Task, Version


def stated(tmp_path: Path, scenario: Callable[[State, Store], Awaitable[None]]) -> None:
    async def inner() -> None:
        store = await SqliteStore.open(tmp_path / "swarm.db")
        state = State(store, lambda: 1_790_000_000.5)
        await state.start()
        try:
            await scenario(state, store)
        finally:
            await state.stop()
            await store.close()

    run(inner)


def test_write_and_view(tmp_path: Path) -> None:
    """What was written is in the view when `write` returns, with its version and times; listeners saw it once."""

    async def scenario(state: State, store: Store) -> None:
        heard: list[Change] = []
        silence = state.listen(heard.extend)
        network = Network(id="n1", spec=NetworkSpec(name="demo"))
        written = await state.write(lambda view: Changes((network,)))
        (stored,) = written.put
        assert stored == state.view.networks["n1"]
        assert (stored.version, stored.id) == (Version(1), "n1")
        assert state.view.networks["n1"].created_at == "2026-09-21T14:13:20.500000000Z"
        assert heard == [Change(None, stored)]
        await state.write(lambda view: Changes(drop=(view.networks["n1"],)))
        assert heard[1:] == [Change(stored, None)]
        assert state.view.networks == {}
        silence()
        await state.write(lambda view: Changes((network,)))
        assert len(heard) == 2

    stated(tmp_path, scenario)


def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    """What the deciding function raises comes out of `write`, and no revision is made; nothing to do makes none."""

    async def scenario(state: State, store: Store) -> None:
        def refuse(view: View) -> Changes:
            raise MeshnetError("no")

        with pytest.raises(MeshnetError, match="no"):
            await state.write(refuse)
        assert not await state.write(lambda view: Changes())
        assert state.view.rev == 0

    stated(tmp_path, scenario)


def test_writers_take_turns(tmp_path: Path) -> None:
    """Many writers at once each decide on the state that the one before left: no update is lost."""

    async def scenario(state: State, store: Store) -> None:
        def increment(view: View) -> Changes:
            known = view.cursors.get("vni", Cursor("vni", last="0"))
            return Changes((replace(known, last=str(int(known.last) + 1)),))

        await asyncio.gather(*(state.write(increment) for _ in range(30)))
        assert state.view.cursors["vni"].last == "30"

    stated(tmp_path, scenario)


def test_another_writer(tmp_path: Path) -> None:
    """What another manager wrote meanwhile is seen before deciding again; a store that never gives in is an error."""

    async def scenario(state: State, store: Store) -> None:
        class Rival:
            """Writes just before each of the first `times` transactions."""

            def __init__(self, times: int) -> None:
                self.times = times

            async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> TxnResult:
                if self.times:
                    self.times -= 1
                    await store.txn([], [Put("cursor/vni", encode(Cursor("vni", last=f"rival {self.times}")))])
                return await store.txn(compares, ops)

            async def list(self, prefix: str) -> tuple[list[Item], int]:
                return await store.list(prefix)

            async def get(self, key: str) -> Item | None:
                return await store.get(key)

            def watch(self, prefix: str, from_rev: int) -> AsyncIterator[Batch]:
                return store.watch(prefix, from_rev)

            async def close(self) -> None:
                return None

        async def contest(times: int) -> list[str]:
            seen: list[str] = []

            def decide(view: View) -> Changes:
                known = view.cursors.get("vni", Cursor("vni"))
                seen.append(known.last)
                return Changes((replace(known, last="mine"),))

            contested = State(Rival(times), lambda: 0.0)
            await contested.start()
            try:
                await contested.write(decide)
            finally:
                await contested.stop()
            return seen

        assert await contest(2) == ["", "rival 1", "rival 0"]
        with pytest.raises(ConflictError):
            await contest(100)

    stated(tmp_path, scenario)


def test_a_restart_fills_the_view(tmp_path: Path) -> None:
    """A new state over the same store begins with everything, and indexes it."""

    async def first(state: State, store: Store) -> None:
        await state.write(lambda view: Changes((Service(id="s"), Task(id="t", service_id="s", node_id="n"))))

    async def second(state: State, store: Store) -> None:
        assert list(state.view.services) == ["s"]
        assert list(state.view.tasks_of["s"]) == list(state.view.tasks_on["n"]) == ["t"]

    stated(tmp_path, first)
    stated(tmp_path, second)


def test_objects_survive_encoding() -> None:
    """An object read back is the one written, with the store's revision as version."""
    task = Task(id="t1", service_id="s", slot=2, desired_state="ready")
    stored = touched(task, 12.25)
    assert decode("task/t1", encode(stored), 7) == replace(stored, version=Version(7))


def test_times() -> None:
    """Times are RFC 3339 in UTC with nanoseconds; the Engine's own are understood; nonsense is the epoch."""
    assert stamp(1_790_000_000.123456) == "2026-09-21T14:13:20.123456000Z"
    assert seconds(stamp(1_790_000_000.25)) == 1_790_000_000.25
    assert seconds("2026-11-20T10:39:37.514743003Z") == pytest.approx(1_795_171_177.514743)
    assert seconds("2026-11-20T10:39:37Z") == 1_795_171_177.0
    assert seconds("") == seconds("soon") == 0.0


def test_ids() -> None:
    """Ids have Swarm's form: 25 characters of base 36."""
    from random import Random

    made = {new_id(Random(seed)) for seed in range(50)}
    assert len(made) == 50
    assert all(len(ident) == 25 and ident.isalnum() and ident.islower() | ident.isdigit() for ident in made)
