"""Jobs: tasks that run to their end, once per completion or per node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from api_world import Api, served, service
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import FakeNode, eventually, spec
from swarm_world import World

from meshnet.control.view import alive, wanted
from meshnet.model import SECOND, GlobalJob, ReplicatedJob, RestartPolicy, ServiceMode, ServiceSpec, Task


def job(total: int, concurrent: int, policy: RestartPolicy | None = None) -> ServiceSpec:
    policy = policy or RestartPolicy("on-failure", SECOND)
    return spec("job", mode=ServiceMode(replicated_job=ReplicatedJob(concurrent, total)), restart=policy)


def active(world: World, ident: str) -> list[Task]:
    return [task for task in world.tasks(ident) if wanted(task) and alive(task)]


def completed(world: World, ident: str) -> list[int]:
    return sorted(task.slot for task in world.tasks(ident) if task.status.state == "complete")


def finish(world: World, ident: str) -> None:
    """Lets everything run to its end."""
    for _ in range(500):
        wake = world.settle()
        if world.agents(ends=lambda task: True):
            continue
        if wake is None:
            return
        world.now = max(world.now, wake)
    raise AssertionError(f"the job does not end: {world.tasks(ident)}")


def test_completions() -> None:
    """So many tasks run to their end, never more than so many at a time, and what has ended well stays ended."""
    world = World(2)
    ident = world.service(job(5, 2))
    most = 0
    for _ in range(60):
        world.settle()
        most = max(most, len(active(world, ident)))
        if not world.agents(ends=lambda task: True):
            break
    assert most == 2
    assert completed(world, ident) == [1, 2, 3, 4, 5]
    assert not active(world, ident)


def test_failures_are_repeated() -> None:
    """A task that fails is followed by another in its place, as often as the policy allows."""
    world = World(1)
    ident = world.service(job(2, 2, RestartPolicy("any", SECOND, 2)))
    world.run(fails=lambda task: task.slot == 1)
    finish(world, ident)
    assert completed(world, ident) == [2]
    assert sum(task.status.state == "failed" for task in world.tasks(ident)) == 3
    world = World(1)
    ident = world.service(job(2, 1))
    world.run(fails=lambda task: task.failures < 2)
    finish(world, ident)
    assert completed(world, ident) == [1, 2]


def test_a_changed_job_runs_again() -> None:
    """A changed template, if only by force, begins a new iteration; another name for the old one does not."""
    world = World(1)
    ident = world.service(job(2, 2))
    finish(world, ident)
    first = {task.id for task in world.tasks(ident)}
    world.update(ident, lambda s: replace(s, labels={"a": "b"}))
    finish(world, ident)
    assert {task.id for task in world.tasks(ident)} == first
    world.update(ident, lambda s: replace(s, task_template=replace(s.task_template, force_update=1)))
    finish(world, ident)
    assert not first & {task.id for task in world.tasks(ident)}
    assert completed(world, ident) == [1, 2]
    status = world.get(ident).job_status
    assert status is not None
    assert status.job_iteration.index == 1


def test_everywhere() -> None:
    """A global job runs once on every node that can take it, also on one that comes later."""
    world = World(2)
    ident = world.service(spec("job", mode=ServiceMode(global_job=GlobalJob())))
    finish(world, ident)
    world.node("docker-2")
    finish(world, ident)
    ran = [world.view.nodes[task.node_id].description.hostname for task in world.tasks(ident)]
    assert sorted(ran) == ["docker-0", "docker-1", "docker-2"]


def test_a_lost_node() -> None:
    """What ran on a lost or drained node runs elsewhere; what had ended well does not run again."""
    world = World(2)
    ident = world.service(job(4, 4))
    world.run()
    done = next(
        task for task in active(world, ident) if world.view.nodes[task.node_id].description.hostname == "docker-1"
    )
    world.report(done, "complete")
    world.set_node("docker-1", state="down")
    finish(world, ident)
    assert completed(world, ident) == [1, 2, 3, 4]
    assert {task.id for task in world.tasks(ident) if task.status.state == "complete" and task.slot == done.slot} == {
        done.id
    }


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 8), st.integers(1, 5), st.lists(st.integers(0, 2), max_size=6))
def test_every_job_comes_to_its_end(total: int, concurrent: int, lost: list[int]) -> None:
    """Whatever nodes are lost and come back: each completion is had exactly once."""
    world = World(3)
    ident = world.service(job(total, concurrent))
    for number in lost:
        world.settle()
        world.agents(ends=lambda task: task.slot % 2 == 0)
        state = world.view.nodes[sorted(world.view.nodes)[number]]
        world.set_node(state.description.hostname, state="down" if state.status.state == "ready" else "ready")
        assert len(active(world, ident)) <= concurrent
    for number in range(3):
        world.set_node(f"docker-{number}", state="ready")
    finish(world, ident)
    assert completed(world, ident) == list(range(1, total + 1))


@pytest.mark.parametrize("mode", [{"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}}, {"GlobalJob": {}}])
def test_a_job_over_the_api(tmp_path: Path, mode: dict[str, object]) -> None:
    """A job is shown with its mode, its iteration, and how much of it is done."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager, "docker-1", tmp_path / "docker-1", runs="complete")
        await node.start()
        try:
            await api.post("/services/create", service("job", Mode=mode))
            total = 1 if "GlobalJob" in mode else 2
            tasks = api.process.manager.view.tasks
            await eventually(lambda: sum(t.status.state == "complete" for t in tasks.values()) == total, "it is done")
            (shown,) = await api.get("/services", status="true", filters={"name": {"job": True}})
            assert shown["Spec"]["Mode"] == mode
            assert shown["JobStatus"]["JobIteration"] == {}
            assert shown["JobStatus"]["LastExecution"].endswith("Z")
            assert shown["ServiceStatus"] == {"RunningTasks": 0, "DesiredTasks": 0, "CompletedTasks": total}
            (task, *_) = await api.get("/tasks", filters={"desired-state": {"complete": True}})
            assert (task["DesiredState"], task["Status"]["State"]) == ("complete", "complete")
            assert task["JobIteration"] == {}
            slots = sorted(task.get("Slot", 0) for task in await api.get("/tasks"))
            assert slots == ([0] if total == 1 else [0, 1]), "the docker command counts them from 0"
            kind = "global-job" if "GlobalJob" in mode else "replicated-job"
            assert len(await api.get("/services", filters={"mode": [kind]})) == 1
        finally:
            await node.stop()

    served(tmp_path, scenario)
