"""The life of a task on its node, with fakes for the kernel, the container and the swarm."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import TASK, Life

from meshnet.agent.reconciler import NotWiredError
from meshnet.agent.taskdir import Kept
from meshnet.errors import MeshnetError, NoSpaceError, StartError
from meshnet.model import PortConfig, Service, ServiceEndpoint

BEGUN = ["netns", "wire", "dns", "starting", "create", "start"]
JOINED = ["ready", "in force"]
GONE = ["withdraw", "remove", "no dns", "unwire", "no netns"]
MISSED = ["withdraw", "remove", "no dns", "gone for all", "unwire", "no netns"]  # one that had clients
LEFT = ["draining", "in force", "close", "stop"]


def live(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def stopped(life: Life) -> None:
    life.runner.update(replace(life.runner.task, desired_state="shutdown"))


def test_from_start_to_stop_in_order(tmp_path: Path) -> None:
    """Wired before it is created, ready when it runs; draining, in force, stopped, withdrawn, taken away."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        assert [state for state, _ in life.host.reports] == ["accepted", "preparing", "ready", "starting", "running"]
        assert life.dirs.read_all()[0].serving
        stopped(life)
        assert await life.over() == ("shutdown", "")
        assert life.said == BEGUN + JOINED + LEFT + MISSED
        assert life.dirs.read_all() == []
        assert life.runner.finished

    live(scenario)


def test_published_ports_are_awaited(tmp_path: Path) -> None:
    """Without a health check a task joins once the ports that its service publishes are open."""

    async def scenario() -> None:
        service = Service(id="s1", endpoint=ServiceEndpoint(ports=(PortConfig("", "tcp", 80, 8000),)))
        life = Life(tmp_path, service=service)
        life.listening.open.clear()
        await life.begin()
        await life.until("start")
        await asyncio.sleep(0)
        assert life.runner.status.state == "starting"
        life.listening.open.set()
        await life.running()
        assert life.asked == [{("tcp", 80)}]

    live(scenario)


def test_a_healthy_task_joins_and_an_unhealthy_one_leaves(tmp_path: Path) -> None:
    """With a check nothing is ready before it is healthy; unhealthy later, it drains, is stopped and has failed."""

    async def scenario() -> None:
        life = Life(tmp_path)
        life.container.health = "starting"
        await life.begin()
        await life.until("start")
        assert life.runner.status.state == "starting"
        life.container.becomes("healthy")
        await life.running()
        life.container.becomes("unhealthy")
        assert await life.over() == ("failed", "task: unhealthy container")
        assert life.said == BEGUN + JOINED + LEFT + MISSED

    live(scenario)


def test_a_task_that_is_never_healthy_fails(tmp_path: Path) -> None:
    """It has never been announced as ready."""

    async def scenario() -> None:
        life = Life(tmp_path)
        life.container.health = "starting"
        await life.begin()
        await life.until("start")
        life.container.becomes("unhealthy")
        assert await life.over() == ("failed", "task: unhealthy container")
        assert life.said == BEGUN + GONE

    live(scenario)


@pytest.mark.parametrize(("code", "end"), [(0, ("complete", "")), (3, ("failed", "task: non-zero exit (3)"))])
@pytest.mark.parametrize("joined", [True, False])
def test_a_task_that_ends_by_itself(tmp_path: Path, joined: bool, code: int, end: tuple[str, str]) -> None:
    """It is withdrawn at once; one that served keeps its sandbox until all know; the exit code decides how it ended."""

    async def scenario() -> None:
        life = Life(tmp_path)
        life.container.health = "healthy" if joined else "starting"
        await life.begin()
        await (life.running() if joined else life.until("start"))
        life.container.exits(code)
        assert await life.over() == end
        assert life.said == BEGUN + (JOINED + MISSED if joined else GONE)
        last = life.host.statuses[-1].container_status
        assert last is not None
        assert last.exit_code == code

    live(scenario)


STOPPED_IN: dict[str, list[str]] = {
    "wiring": ["netns", "withdraw", "no dns", "unwire", "no netns"],
    "creating": ["netns", "wire", "dns", "starting", "withdraw", "no dns", "unwire", "no netns"],
    "starting": ["netns", "wire", "dns", "starting", "create", "stop", *GONE],
    "listening": [*BEGUN, "stop", *GONE],
    "acknowledging": [*BEGUN, "ready", *LEFT, *MISSED],
}


@pytest.mark.parametrize("step", STOPPED_IN)
def test_stopped_in_the_middle_of_its_start(tmp_path: Path, step: str) -> None:
    """Whatever step a stop meets: nothing stays, what runs gets its stop signal, who was announced drains."""

    async def scenario() -> None:
        life = Life(tmp_path)
        gate = {
            "wiring": life.host.wiring,
            "creating": life.host.containers.creating,
            "starting": life.container.starting,
            "listening": life.listening,
            "acknowledging": life.host.acknowledging,
        }[step]
        gate.open.clear()
        await life.begin()
        before = [said for said in STOPPED_IN[step] if said not in MISSED and said not in ("stop", *LEFT)]
        await life.until(*before)
        life.runner.update(None)
        if step == "acknowledging":
            await life.until("draining")
            gate.open.set()
        assert await life.over() == ("shutdown", "")
        assert life.said == STOPPED_IN[step]
        assert life.dirs.read_all() == []
        assert not life.host.spaces.names

    live(scenario)


@pytest.mark.parametrize(
    ("step", "error", "end"),
    [
        ("creating", MeshnetError("no image app"), ("rejected", "no image app")),
        (
            "creating",
            StartError('exec: "x": executable file not found'),
            ("failed", 'exec: "x": executable file not found'),
        ),
        ("wiring", NotWiredError("/run/netns/x: gone"), ("rejected", "/run/netns/x: gone")),
        ("starting", MeshnetError("exec format error"), ("failed", "exec format error")),
        (
            "creating",
            OSError(errno.ENOSPC, "No space left on device", "/run/x/rootfs"),
            ("rejected", "no space left in /run/x: free some, or see with df what fills it"),
        ),
    ],
)
def test_a_step_that_fails(tmp_path: Path, step: str, error: Exception, end: tuple[str, str]) -> None:
    """A task that cannot be is rejected, one that could not be started has failed, with the reason; nothing stays."""

    async def scenario() -> None:
        life = Life(tmp_path)
        gates = {
            "wiring": life.host.wiring,
            "creating": life.host.containers.creating,
            "starting": life.container.starting,
        }
        gates[step].error = error
        await life.begin()
        assert await life.over() == end
        assert life.runner.status.message == {"rejected": "preparing", "failed": "starting"}[end[0]]
        assert life.said[-3:] == ["no dns", "unwire", "no netns"]
        assert life.dirs.read_all() == []

    live(scenario)


def test_cleaning_up_goes_on_after_a_failure(tmp_path: Path) -> None:
    """A container that cannot be removed, or a data path that does not answer, keeps nobody from hearing the end."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        life.container.removing.error = OSError(16, "busy")
        life.host.unwiring.error = MeshnetError("not wired after 10 s")
        life.container.exits(1)
        assert await life.over() == ("failed", "task: non-zero exit (1)")
        assert life.said == BEGUN + JOINED + ["withdraw", "no dns", "gone for all", "no netns"]
        assert [kept.task.id for kept in life.dirs.read_all()] == ["t1"]  # for the next agent to take away

    live(scenario)


def test_members_that_do_not_confirm_hold_nobody(tmp_path: Path) -> None:
    """A drain goes on after its bound, although somebody may not have heard of it, and its end is reported without
    waiting for them again."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        life.host.confirmed = False
        stopped(life)
        assert await life.over() == ("shutdown", "")
        assert life.said == [*BEGUN, *JOINED, "draining", "not in force", "close", "stop", *MISSED]
        assert life.host.known_gone_after == "shutdown"

    live(scenario)


@pytest.mark.parametrize(("ordered", "reported"), [(True, "running"), (False, "complete")])
def test_a_stop_is_reported_when_the_members_know(tmp_path: Path, ordered: bool, reported: str) -> None:
    """The manager takes a task that it stopped, and its networks, from the node at once: clients must know before.
    One that ended by itself is reported at once, since another may have to be started."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        if ordered:
            stopped(life)
        else:
            life.container.exits(0)
        assert await life.over() == ("shutdown" if ordered else "complete", "")
        assert life.host.known_gone_after == reported

    live(scenario)


def test_a_kernel_that_does_not_close_holds_nobody(tmp_path: Path) -> None:
    """A task whose node's kernel goes on letting connections in is stopped all the same."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        life.host.closing = MeshnetError("not closed after 2 s: no memory")
        stopped(life)
        assert await life.over() == ("shutdown", "")
        assert life.said == [*BEGUN, *JOINED, "draining", "in force", "stop", *MISSED]

    live(scenario)


@pytest.mark.parametrize("served", [True, False])
def test_a_task_of_the_last_agent_is_taken_over(tmp_path: Path, served: bool) -> None:
    """It is announced as what it was before anything else happens, and neither created nor started again."""

    async def scenario() -> None:
        life = Life(tmp_path, kept=served)
        await life.begin()
        await life.running()
        announced = "ready" if served else "starting"
        assert life.said == ["hold", "adopt", announced, "dns", "wire", *JOINED]
        life.container.exits(0)
        assert await life.over() == ("complete", "")

    live(scenario)


def test_a_stop_that_meets_an_adoption_drains(tmp_path: Path) -> None:
    """A task that served is not stopped without draining because its new agent was still taking it over."""

    async def scenario() -> None:
        life = Life(tmp_path, kept=True)
        life.host.wiring.open.clear()
        await life.begin()
        await life.until("adopt", "ready", "dns")
        stopped(life)
        assert await life.over() == ("shutdown", "")
        assert life.said == ["hold", "adopt", "ready", "dns", *LEFT, *MISSED]

    live(scenario)


def test_a_stop_outlives_its_agent(tmp_path: Path) -> None:
    """An agent that takes over in the middle of a stop goes on with it, without the manager's word: a task that may
    have had its stop signal is never announced as ready again."""

    async def scenario() -> None:
        first = Life(tmp_path)
        await first.begin()
        await first.running()
        assert not first.dirs.read_all()[0].leaving
        first.container.stopping.open.clear()
        stopped(first)
        await first.until("stop")
        await first.runner.abandon()
        kept = first.dirs.read_all()[0]
        assert (kept.serving, kept.leaving, kept.announced) == (True, True, "draining")
        second = Life(tmp_path, kept=True, leaving=True)
        await second.begin()
        assert await second.over() == ("shutdown", "")
        assert [one for one in second.said if one != "wire"] == ["hold", "adopt", "draining", "dns", *LEFT, *MISSED]

    live(scenario)


def test_a_full_disk_keeps_nobody_from_being_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a task leaves cannot be kept, and it leaves all the same, in order."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()

        def full(_: Kept) -> None:
            raise NoSpaceError("/run")

        monkeypatch.setattr(life.dirs, "write", full)
        monkeypatch.setattr(life.dirs, "retire", lambda _: None)
        stopped(life)
        assert await life.over() == ("shutdown", "")
        assert life.said == [*BEGUN, *JOINED, *LEFT, *MISSED]

    live(scenario)


def test_an_adopted_task_outlives_a_data_path_that_is_late(tmp_path: Path) -> None:
    """A new plan that the kernel refuses does not end what runs; a sandbox that is broken does."""

    async def scenario() -> None:
        life = Life(tmp_path / "late", kept=True)
        life.host.wiring.error = MeshnetError("map services is full")
        await life.begin()
        await life.running()
        await life.runner.abandon()
        broken = Life(tmp_path / "broken", kept=True)
        broken.host.wiring.error = NotWiredError("its namespace refuses eth0")
        await broken.begin()
        assert await broken.over() == ("failed", "its namespace refuses eth0")

    live(scenario)


@pytest.mark.parametrize("missing", ["its network namespace is gone", "its container is gone"])
def test_what_is_left_of_a_task_is_taken_away(tmp_path: Path, missing: str) -> None:
    """A task whose namespace or container did not survive has failed."""

    async def scenario() -> None:
        life = Life(tmp_path, kept=True)
        if "namespace" in missing:
            life.host.spaces.names.clear()
        else:
            life.host.containers.adoptable = False
        await life.begin()
        assert await life.over() == ("failed", missing)
        assert life.dirs.read_all() == []

    live(scenario)


def test_abandoned_tasks_go_on(tmp_path: Path) -> None:
    """When the agent ends, nothing is withdrawn, stopped or removed, and the next one finds the task."""

    async def scenario() -> None:
        life = Life(tmp_path)
        await life.begin()
        await life.running()
        await life.runner.abandon()
        assert life.said == [*BEGUN, *JOINED, "release", "no dns"]
        assert life.dirs.read_all()[0].serving
        assert TASK.id in life.dirs.read_all()[0].task.id

    live(scenario)
