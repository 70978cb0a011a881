"""Containers that people start: what comes at the same time as something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_fakes import TASK, FakeContainer, FakeHost, FakeResolver, Gate, eventually

from meshnet.agent import restarting, standalone
from meshnet.agent.agent import Agent
from meshnet.agent.inventory import Entry
from meshnet.agent.restarting import RestartPolicy
from meshnet.agent.standalone import Kept, Standalone
from meshnet.api.node.containers import prune, removed, stop
from meshnet.api.node.context import NODE
from meshnet.api.node.starting import restart
from meshnet.control.attachments import Attach, Wish
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import Assignments, Task
from meshnet.sandbox.spec import ContainerSpec

IDENT = "c" * 64


class Made(FakeContainer):
    """One run of a container."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(said)
        self.started = False

    @property
    def status(self) -> str:
        return "exited" if self._over.is_set() else "running" if self.started else "created"

    async def start(self) -> None:
        await super().start()
        self.started = True

    async def stop(self, grace: float | None = None) -> int:
        return await super().stop()

    async def kill(self) -> int:
        self.exits(137)
        return 137


class Names(FakeResolver):
    def set_zone(self, zone: object) -> None:
        """It is told the same as a task's."""


class World:
    """A fake node with one container. `runs` are those that were made of it."""

    def __init__(self, directory: Path, **kept: Any) -> None:
        self.host = FakeHost()
        self.creating, self.attaching, self.starting, self.removing = Gate(), Gate(), Gate(), Gate()
        self.runs: list[Made] = []
        self.agent: Any = SimpleNamespace(
            run_dir=directory,
            standalones={},
            runners={},
            ended_tasks={},
            assignments=Assignments(),
            settings=SimpleNamespace(vxlan_port=4789, resolver=0),
            joined=False,
            host=self.host,
            spaces=self.host.spaces,
            containers=SimpleNamespace(create=self._create, adopt=self._adopt),
            manager=SimpleNamespace(attach=self._attach, detach=self._nothing, close=self._nothing),
            picture=SimpleNamespace(new_resolver=lambda _: Names(self.host.said), zone_of=lambda _: None),
            outside=SimpleNamespace(stop=self._nothing),
            datapath=SimpleNamespace(close=self._nothing),
            happened=lambda *_, **__: None,
        )
        place = directory / "containers" / IDENT / "container"
        spec = ContainerSpec(IDENT, "box", "app", dir=str(place), cgroup="", netns="/netns/box")
        self.own = self.add(Kept(spec, "none", **kept))

    def add(self, kept: Kept) -> Standalone:
        one = Standalone(self.agent, kept)
        one.keep()
        self.agent.standalones[one.id] = one
        return one

    def entry(self) -> Entry:
        return Entry(self.own.kept.spec, self.own.kept.spec.dir, self.own.container, None, self.own)

    async def _create(self, spec: ContainerSpec) -> Made:
        await self.creating.passed()
        made = Made(self.host.said)
        made.starting, made.removing = self.starting, self.removing
        self.runs.append(made)
        return made

    async def _adopt(self, directory: str) -> Made | None:
        return self.runs[-1] if self.runs else None

    async def _attach(self, wish: Attach) -> Task:
        await self.attaching.passed()
        return TASK

    async def _nothing(self, *_: object) -> None:
        return


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(5):
            await scenario()

    asyncio.run(whole())


async def turns() -> None:
    """Lets everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("held", ["creating", "starting"])
def test_removed_while_it_is_started(tmp_path: Path, held: str) -> None:
    """A removal waits for a start on its way, and ends what that has begun: nothing runs that no list shows."""

    async def scenario() -> None:
        world = World(tmp_path)
        gate: Gate = getattr(world, held)
        gate.open.clear()
        starting = asyncio.ensure_future(world.own.start())
        await turns()
        removing = asyncio.ensure_future(removed(world.agent, world.entry()))
        await turns()
        gate.open.set()
        await asyncio.gather(starting, removing)
        assert [made.status for made in world.runs] == ["exited"]
        assert world.agent.standalones == {}
        assert not world.own.place.exists()

    play(scenario)


def test_started_while_it_removes_itself(tmp_path: Path) -> None:
    """A start that waited for the end of one that removes itself finds it gone, and starts nothing."""

    async def scenario() -> None:
        world = World(tmp_path, auto_remove=True)
        await world.own.start()
        world.removing.open.clear()
        world.runs[0].exits(0)
        await turns()
        again = asyncio.ensure_future(world.own.start())
        await turns()
        world.removing.open.set()
        with pytest.raises(NotFoundError, match=f"No such container: {IDENT}"):
            await again
        assert len(world.runs) == 1
        assert not world.own.place.exists()

    play(scenario)


def test_restart_of_one_that_removes_itself(tmp_path: Path) -> None:
    """It is not removed by being restarted, and is by its next end."""

    async def scenario() -> None:
        world = World(tmp_path, auto_remove=True)
        await world.own.start()
        node = SimpleNamespace(agent=world.agent, complete=lambda work: work)
        request: Any = SimpleNamespace(config_dict={NODE: node}, match_info={"id": IDENT}, query={})
        await restart(request)
        assert [made.status for made in world.runs] == ["exited", "running"]
        assert world.agent.standalones == {IDENT: world.own}
        world.runs[1].exits(0)
        await eventually(lambda: not world.agent.standalones, lambda: "removed")

    play(scenario)


def test_its_node_ends_while_it_is_started(tmp_path: Path) -> None:
    """A node that ends waits for a start on its way and ends what it began; none begins any more."""

    async def scenario() -> None:
        world = World(tmp_path)
        world.creating.open.clear()
        starting = asyncio.ensure_future(world.own.start())
        await turns()
        ending = asyncio.ensure_future(world.own.stop())
        await turns()
        world.creating.open.set()
        await asyncio.gather(starting, ending)
        assert [made.status for made in world.runs] == ["exited"]
        with pytest.raises(MeshnetError, match="its node ends"):
            await world.own.start()

    play(scenario)


def test_its_node_ends_while_a_restart_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that ends does not wait for a container whose policy starts it for ever in vain."""
    monkeypatch.setattr(restarting, "delay", lambda _: 0.0)

    async def scenario() -> None:
        world = World(tmp_path, restart=RestartPolicy("always"))
        await world.own.start()
        world.creating.open.clear()
        world.creating.error = MeshnetError("no room", 500)
        world.runs[0].exits(1)
        await eventually(lambda: world.own._lock.locked() and world.own.ended.is_set(), lambda: "starts again")
        ending = asyncio.ensure_future(world.own.stop())
        await turns()
        world.creating.open.set()
        await ending

    play(scenario)


def test_networks_change_as_it_ends(tmp_path: Path) -> None:
    """A change of networks on its way is done before what it has is taken down: nobody hears of it after its end."""

    async def scenario() -> None:
        world = World(tmp_path, networks=(Wish("net"),))
        await world.own.start()
        world.attaching.open.clear()
        changing = asyncio.ensure_future(world.own.change_networks((Wish("net"), Wish("other"))))
        world.agent.neighbours = SimpleNamespace(withdraw=lambda *_: 0)
        await turns()
        world.runs[0].exits(0)
        await turns()
        world.attaching.open.set()
        await asyncio.gather(changing, world.own.ended.wait())
        said = world.host.said
        assert "withdraw" in said
        assert not {"ready", "wire"} & set(said[said.index("withdraw") :]), said
        assert world.own.kept.task is None

    play(scenario)


def test_attached_while_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who attaches between its creation and its first instruction is attached at once, not at its next start."""
    monkeypatch.setattr(standalone, "Attachment", lambda directory: directory)

    async def scenario() -> None:
        world = World(tmp_path)
        world.starting.open.clear()
        starting = asyncio.ensure_future(world.own.start())
        await eventually(lambda: world.own.container is not None, lambda: "created")
        assert world.own.attached().done()
        world.starting.open.set()
        await starting

    play(scenario)


def test_asked_for_before_it_is_taken_up(tmp_path: Path) -> None:
    """What an earlier agent left is neither started, stopped nor removed before it is known whether it runs."""

    async def scenario() -> None:
        world = World(tmp_path)
        await left_behind(world)
        Path(world.own.kept.spec.dir).mkdir()
        request: Any = SimpleNamespace(
            config_dict={NODE: SimpleNamespace(agent=world.agent)}, match_info={"id": IDENT}, query={}
        )
        works = (world.own.start(), removed(world.agent, world.entry()), world.own.change_networks(()), stop(request))
        for work in works:
            with pytest.raises(MeshnetError, match="try again"):
                await work
        assert json.loads((await prune(request)).body)["ContainersDeleted"] is None  # type: ignore[arg-type]
        assert Path(world.own.kept.spec.dir).exists()
        await world.own.resume()
        assert not await world.own.start(), "it runs"
        assert len(world.runs) == 1

    play(scenario)


async def left_behind(world: World) -> None:
    """Puts one that runs where it is after a restart of its agent."""
    await world.own.start()
    await world.own.abandon()
    world.own = world.add(world.own.kept)
    world.own.taken_up = False


def test_its_node_ends_before_it_is_taken_up(tmp_path: Path) -> None:
    """A node that ends takes what an earlier agent left with it."""

    async def scenario() -> None:
        world = World(tmp_path)
        await left_behind(world)
        await world.own.stop()
        assert [made.status for made in world.runs] == ["exited"]

    play(scenario)


def test_taken_up_but_not_wired(tmp_path: Path) -> None:
    """One that was taken up is watched, also when its networks cannot be had."""

    async def scenario() -> None:
        world = World(tmp_path, networks=(Wish("net"),))
        await left_behind(world)
        world.host.wiring.error = MeshnetError("not wired", 500)
        with pytest.raises(MeshnetError, match="not wired"):
            await world.own.resume()
        world.runs[0].exits(0)
        await world.own.ended.wait()

    play(scenario)


def test_removed_while_its_next_exit_is_waited_for(tmp_path: Path) -> None:
    """Who waits for the exit of one that was never started hears when it is removed."""

    async def scenario() -> None:
        world = World(tmp_path)
        waiting = asyncio.ensure_future(world.own.next_exit())
        await turns()
        await removed(world.agent, world.entry())
        assert await waiting == standalone.NOT_STARTED

    play(scenario)


def test_started_before_others_are_taken_up(tmp_path: Path) -> None:
    """One that this agent has made is not taken up as an earlier one's: it is watched once."""

    async def scenario() -> None:
        world = World(tmp_path)
        await world.own.start()
        watching = world.own._watching
        await world.own.resume()
        assert world.own._watching is watching

    play(scenario)


def test_one_removes_itself_while_the_agent_ends(tmp_path: Path) -> None:
    """An agent that ends lets go of all it has, also when a container that removes itself ends in between."""

    async def scenario() -> None:
        world = World(tmp_path)
        left: list[str] = []

        async def abandon(ident: str) -> None:
            left.append(ident)
            world.agent.standalones.pop("b", None)

        world.agent.standalones = {
            name: SimpleNamespace(abandon=lambda name=name: abandon(name)) for name in ("a", "b", "c")
        }
        await Agent._close(world.agent)
        assert left[0] == "a"
        assert "c" in left

    play(scenario)
