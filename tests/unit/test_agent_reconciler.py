"""The loop that applies plans, with a data path that does as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from agent_fakes import eventually

from meshnet.agent.reconciler import NotWiredError, Pauses, Reconciler, described
from meshnet.datapath.base import Capability
from meshnet.datapath.rows import Changes, EndpointRow, Plan
from meshnet.errors import MeshnetError

HOUR = 3600.0
PAUSES = Pauses(repair=HOUR, retry=0.001, patience=HOUR, longest=0.0)


class FakeDatapath:
    """Refuses a plan for each of `errors`; `failed` are sandboxes that it cannot wire."""

    kind = "fake"

    def __init__(self) -> None:
        self.failed: Mapping[str, str] = {}
        self.errors: list[Exception] = []
        self.plans: list[Plan] = []

    def capabilities(self) -> list[Capability]:
        return []

    async def prepare(self) -> None:
        raise AssertionError("the agent does that")

    async def apply(self, plan: Plan) -> Changes:
        self.plans.append(plan)
        if self.errors:
            raise self.errors.pop(0)
        return Changes({}, {})

    async def observe(self) -> Plan:
        return self.plans[-1]

    def statistics(self) -> dict[str, int]:
        return {}

    def meanings(self) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        raise AssertionError("the agent does that")

    async def destroy(self) -> None:
        raise AssertionError("nobody does that")


class World:
    """`known` are the tasks whose networks the manager has told."""

    def __init__(self, pauses: Pauses = PAUSES) -> None:
        self.datapath = FakeDatapath()
        self.known = {"t1", "t2"}
        self.looks = 0
        self.reconciler = Reconciler(self.datapath, self._plan, self._looked, pauses)

    def _plan(self, sandboxes: Mapping[str, str], closed: Set[str]) -> Plan:
        rows = [EndpointRow(4097, "10.0.1.3", "", task, path, "eth0", "mnt") for task, path in sandboxes.items()]
        here = tuple(row for row in rows if row.task in self.known)
        return Plan("n1", "172.17.0.2", endpoints=here, closed=tuple(sorted(closed)))

    def _looked(self, _: bool) -> None:
        self.looks += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(self.reconciler.run())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    async def looked(self, times: int) -> None:
        await eventually(lambda: self.looks >= times, lambda: f"{self.looks} looks instead of {times}")


def live(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def test_a_task_is_wired_and_unwired() -> None:
    """Both return once a plan with, and without, the task's interface was applied."""

    async def scenario() -> None:
        world = World()
        async with world.running():
            await world.reconciler.wire("t1", "/run/netns/t1", 1)
            assert [row.task for row in world.datapath.plans[-1].endpoints] == ["t1"]
            await world.reconciler.unwire("t1")
            assert world.datapath.plans[-1].endpoints == ()
            await world.reconciler.unwire("t1")  # nothing to wait for

    live(scenario)


def test_a_task_is_closed_until_it_is_unwired() -> None:
    """`close` returns once a plan that refuses new connections was applied, or says at its bound that none was."""

    async def scenario() -> None:
        world = World(replace(PAUSES, closing=0.01))
        await world.reconciler.close("t1")  # it has no sandbox: nothing to close
        async with world.running():
            await world.reconciler.wire("t1", "/run/netns/t1", 1)
            await world.reconciler.close("t1")
            closed = world.datapath.plans[-1]
            await world.reconciler.unwire("t1")
            assert (closed.closed, world.datapath.plans[-1].closed) == (("t1",), ())
            await world.reconciler.wire("t1", "/run/netns/t1", 1)
        with pytest.raises(MeshnetError, match="not closed after"):
            await world.reconciler.close("t1")

    live(scenario)


def test_what_an_earlier_agent_wired_is_held() -> None:
    """A sandbox that is held is in the first plan, before anybody has asked for it to be wired."""

    async def scenario() -> None:
        world = World()
        world.reconciler.hold("t1", "/run/netns/t1")
        async with world.running():
            await world.reconciler.first()
            assert world.reconciler.plan is not None
            assert [row.netns for row in world.reconciler.plan.endpoints] == ["/run/netns/t1"]

    live(scenario)


def test_nothing_is_done_while_nothing_changes() -> None:
    """One look at the start, one per change, and one after each repair period."""

    async def scenario() -> None:
        idle, busy = World(), World(Pauses(repair=0.001, retry=HOUR, patience=HOUR))
        async with idle.running(), busy.running():
            await busy.looked(5)
            assert idle.looks == 1
            idle.reconciler.changed()
            await idle.looked(2)

    live(scenario)


def test_what_is_refused_is_tried_again() -> None:
    """Without any change, until it is taken; the node has no first plan, and its task no wire, before that."""

    async def scenario() -> None:
        world = World()
        world.datapath.errors = [MeshnetError("the kernel refused a change"), MeshnetError("again")]
        first = asyncio.create_task(world.reconciler.first())
        async with world.running():
            await world.reconciler.wire("t1", "/run/netns/t1", 1)
            await first
        assert len(world.datapath.plans) >= 3

    live(scenario)


def test_names_follow_also_a_plan_that_was_refused() -> None:
    """The zones are made anew after each try; the last whole plan stays what it was."""

    async def scenario() -> None:
        world = World(Pauses(repair=HOUR, retry=HOUR, patience=HOUR))
        async with world.running():
            await world.reconciler.first()
            before = world.reconciler.plan
            world.datapath.errors = [MeshnetError("refused")]
            world.reconciler.changed()
            await world.looked(2)
            assert world.reconciler.plan is before

    live(scenario)


def test_a_sandbox_that_cannot_be_wired_is_named() -> None:
    """Its task hears why at once, others are wired, and it is tried again in case that helps."""

    async def scenario() -> None:
        world = World()
        world.datapath.failed = {"/run/netns/t1": "/run/netns/t1: add address: No such device"}
        async with world.running():
            with pytest.raises(NotWiredError, match=r"^/run/netns/t1: add address: No such device$"):
                await world.reconciler.wire("t1", "/run/netns/t1", 1)
            await world.reconciler.wire("t2", "/run/netns/t2", 1)
            looks = world.looks
            await world.looked(looks + 3)

    live(scenario)


@pytest.mark.parametrize(
    ("errors", "reason"),
    [(["map services is full"] * 100000, "map services is full"), ([], "has not told this node about the task's net")],
)
def test_waiting_is_bounded(errors: list[str], reason: str) -> None:
    """A task does not wait for ever for a plan that is never applied, or never has it; the error says why."""

    async def scenario() -> None:
        world = World(Pauses(repair=HOUR, retry=0.001, patience=0.05))
        world.known.clear()
        world.datapath.errors = [MeshnetError(error) for error in errors]
        async with world.running():
            with pytest.raises(MeshnetError, match=f"^not wired after 0.05 s: .*{reason}"):
                await world.reconciler.wire("t1", "/run/netns/t1", 1)

    live(scenario)


def test_a_manager_that_was_never_heard() -> None:
    """As long as no plan was made, that is said, of what is to be taken out of the kernel too."""

    async def scenario() -> None:
        world = World(Pauses(repair=HOUR, retry=0.001, patience=0.05))
        world.reconciler.hold("t1", "/run/netns/t1")
        words = "^not taken out of the kernel after 0.05 s: the manager has not told this node anything yet"
        with pytest.raises(MeshnetError, match=words):
            await world.reconciler.unwire("t1")

    live(scenario)


def test_an_unforeseen_error_ends_the_loop() -> None:
    """It is raised, so that the agent ends with it instead of going on half alive."""

    async def scenario() -> None:
        world = World()
        world.datapath.errors = [ZeroDivisionError("a bug")]
        with pytest.raises(ZeroDivisionError):
            await world.reconciler.run()

    live(scenario)


def test_what_was_done_is_said_in_words() -> None:
    """The log tells what changed as a person would."""
    assert described(Changes({"endpoints": 1, "published": 2, "addresses": 1}, {})) == (
        "the kernel got 1 address, 1 endpoint, 2 published ports"
    )
    assert described(Changes({"sysctls": 1}, {"ingress_flows": 3, "backends": 1})) == (
        "the kernel got 1 kernel setting; lost 1 backend, 3 ingress flows"
    )


def test_many_changes_share_a_look() -> None:
    """After a look the next one waits in proportion, bounded; what changes meanwhile is seen by it all at once."""

    async def scenario() -> None:
        world = World(Pauses(repair=HOUR, retry=HOUR, patience=HOUR, rest=1e9, longest=0.05))
        async with world.running():
            await world.looked(1)
            begin = asyncio.get_running_loop().time()
            await asyncio.gather(*(world.reconciler.wire(task, f"/run/netns/{task}", 1) for task in ("t1", "t2")))
            assert asyncio.get_running_loop().time() - begin < HOUR
            assert [len(plan.endpoints) for plan in world.datapath.plans] == [0, 2]
            assert asyncio.get_running_loop().time() - begin >= 0.03

    live(scenario)
