"""How services come under a new spec: pace, order, failures, rollbacks, and what the service says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import spec
from swarm_world import World

from meshnet.control.defaults import DEADLINE_LABEL, interpolated
from meshnet.control.objects import seconds
from meshnet.control.view import alive, wanted
from meshnet.errors import MeshnetError
from meshnet.model import (
    SECOND,
    Global,
    Placement,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    Task,
    UpdateConfig,
)

FAST = UpdateConfig(parallelism=1, monitor=SECOND)


def imaged(image: str) -> Callable[[ServiceSpec], ServiceSpec]:
    def change(service: ServiceSpec) -> ServiceSpec:
        template = service.task_template
        return replace(
            service, task_template=replace(template, container_spec=replace(template.container_spec, image=image))
        )

    return change


def image(task: Task) -> str:
    return task.spec.container_spec.image


def made(replicas: int, config: UpdateConfig | None = None, size: int = 3, **more: object) -> tuple[World, str]:
    """A swarm with a service that runs, to be updated as `config` says."""
    world = World(size)
    asked = replace(spec("web", replicas, restart=RestartPolicy(delay=SECOND)), update_config=config, **more)  # type: ignore[arg-type]
    web = world.service(asked)
    world.run()
    return world, web


def state(world: World, web: str) -> str:
    status = world.get(web).update_status
    return status.state if status else ""


def message(world: World, web: str) -> str:
    status = world.get(web).update_status
    return status.message if status else ""


def bad(task: Task) -> bool:
    return image(task) == "app:bad"


def test_parallelism_and_delay() -> None:
    """Two at a time, and the next two not before the delay has passed since those ran."""
    world, web = made(6, UpdateConfig(parallelism=2, delay=65 * SECOND))
    world.update(web, imaged("app:2"))
    begun = world.now
    world.run()
    new = sorted(seconds(task.running_since) - begun for task in world.running(web))
    assert [image(task) for task in world.running(web)] == ["app:2"] * 6
    assert new[1] < 1
    assert 65 <= new[2] <= new[3] < 67
    assert 130 <= new[4] <= new[5] < 133
    status = world.get(web).update_status
    assert status is not None
    assert (status.state, status.message) == ("completed", "update completed")
    assert seconds(status.completed_at) - begun >= new[5] + 5


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize("parallelism", [1, 2, 0])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_an_update_keeps_the_spread(size: int, parallelism: int, order: str) -> None:
    """A task that is replaced in order counts for its node no more: what was spread evenly is so after every update."""
    world, web = made(size, replace(FAST, parallelism=parallelism, order=order), size)
    for number in range(2, 5):
        world.update(web, imaged(f"app:{number}"))
        world.run()
        assert (sorted(world.spread(web).values()), state(world, web)) == ([1] * size, "completed"), number


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize("parallelism", [1, 2, 0])
def test_an_update_spreads_anew(parallelism: int, order: str) -> None:
    """What a drain left uneven is even after an update, as it would be if the service were made now."""
    world = World(3)
    world.set_node("docker-2", availability="drain")
    web = world.service(replace(spec("web", 6), update_config=replace(FAST, parallelism=parallelism, order=order)))
    world.run()
    world.set_node("docker-2", availability="active")
    world.run()
    assert world.spread(web) == {"docker-0": 3, "docker-1": 3}
    world.update(web, imaged("app:2"))
    world.run()
    assert world.spread(web) == {"docker-0": 2, "docker-1": 2, "docker-2": 2}


def test_start_first_keeps_the_limit_per_node() -> None:
    """The most tasks that a node may have are not exceeded for a moment either: the new task waits, and says why."""
    world, web = made(2, replace(FAST, order="start-first"), size=2)
    world.update(web, lambda service: limited(imaged("app:2")(service)))
    world.settle()
    waiting = next(task for task in world.tasks(web) if image(task) == "app:2")
    assert waiting.status.err == "no suitable node (max replicas per node limit exceed)"


def limited(service: ServiceSpec) -> ServiceSpec:
    template = service.task_template
    return replace(service, task_template=replace(template, placement=Placement(max_replicas=1)))


def test_all_at_once() -> None:
    """Parallelism 0 replaces all tasks at the same time."""
    world, web = made(6, UpdateConfig(parallelism=0))
    world.update(web, imaged("app:2"))
    world.settle()
    assert sum(wanted(task) and image(task) == "app:2" for task in world.tasks(web)) == 6
    assert message(world, web) == "update in progress"


@pytest.mark.parametrize("everywhere", [False, True])
def test_start_first(everywhere: bool) -> None:
    """With start-first the old task goes on until the new one of its place runs: never is there one less."""
    mode = ServiceMode(global_=Global()) if everywhere else ServiceMode(Replicated(3))
    world, web = made(3, replace(FAST, order="start-first"), mode=mode)
    world.update(web, imaged("app:2"))
    least, most = 3, 3
    for _ in range(100):
        world.settle()
        running = [t for t in world.tasks(web) if alive(t) and t.status.state == "running"]
        least, most = min(least, sum(wanted(t) for t in running)), max(most, len(running))
        if not world.agents():
            break
    world.run()
    assert (least, most) == (3, 4)
    assert [image(task) for task in world.running(web)] == ["app:2"] * 3
    assert state(world, web) == "completed"


def test_a_failure_pauses() -> None:
    """The first new task fails: the update is paused and says for which task; the same spec again goes on with it."""
    world, web = made(4, FAST)
    world.update(web, imaged("app:bad"))
    world.run(fails=bad, seconds=5)
    assert state(world, web) == "paused"
    failed = next(t for t in world.tasks(web) if image(t) == "app:bad")
    assert message(world, web) == f"update paused due to failure or early termination of task {failed.id}"
    assert [image(task) for task in world.running(web)] == ["app:1"] * 3
    world.run(fails=bad, seconds=60)
    assert [image(task) for task in world.running(web)] == ["app:1"] * 3, "what is paused stays"
    world.update(web, lambda s: s)
    assert state(world, web) == ""
    world.run()
    assert state(world, web) == "completed"
    assert [image(task) for task in world.running(web)] == ["app:bad"] * 4
    assert world.get(web).previous_spec != world.get(web).spec, "the same spec again is none to go back to"


def test_a_failure_rolls_back() -> None:
    """With failure action rollback the old spec comes back by itself, also where nothing was updated yet."""
    world, web = made(4, replace(FAST, failure_action="rollback"))
    old = world.get(web).spec
    world.update(web, imaged("app:bad"))
    for _ in range(200):
        world.settle()
        if state(world, web) == "rollback_started":
            break
        assert world.agents(bad)
    assert message(world, web).startswith("update rolled back due to failure or early termination of task ")
    world.run(fails=bad)
    assert world.get(web).spec == old
    assert [image(task) for task in world.running(web)] == ["app:1"] * 4
    assert (state(world, web), message(world, web)) == ("rollback_completed", "rollback completed")
    assert world.get(web).previous_spec is None


def test_a_rollback_that_fails_pauses() -> None:
    """A rollback is never rolled back: it pauses."""
    config = replace(FAST, failure_action="rollback")
    world, web = made(3, config, rollback_config=FAST)
    begun = world.now
    world.update(web, imaged("app:bad"))
    world.run(fails=lambda task: seconds(task.created_at) >= begun, seconds=60)
    assert state(world, web) == "rollback_paused"
    assert message(world, web).startswith("rollback paused due to failure or early termination of task ")


def test_nothing_to_roll_back_to() -> None:
    """Without a previous spec, a rollback is refused; and one that is due pauses the update."""
    world, web = made(2, replace(FAST, failure_action="rollback"))
    with pytest.raises(MeshnetError, match=f"service {web} does not have a previous spec"):
        world.rollback(web)
    world.update(web, imaged("app:bad"))
    service = world.get(web)
    world.view.apply("service", web, replace(service, previous_specs=()))
    world.run(fails=bad, seconds=30)
    assert state(world, web) == "paused"


def test_rolling_back_by_hand() -> None:
    """A rollback takes the previous spec whole, replicas too; another one goes forward again."""
    world, web = made(2, FAST)
    world.update(web, imaged("app:2"))
    world.run()
    world.update(web, lambda s: replace(s, mode=ServiceMode(Replicated(5))))
    world.run()
    assert state(world, web) == "", "scaling is no update"
    world.rollback(web)
    assert (state(world, web), message(world, web)) == ("rollback_started", "manually requested rollback")
    world.run()
    assert state(world, web) == "rollback_completed"
    assert [image(task) for task in world.running(web)] == ["app:2"] * 2
    world.rollback(web)
    world.run()
    assert len(world.running(web)) == 5


def test_defaults_that_are_sent_back_change_nothing() -> None:
    """A spec that comes back with its defaults filled in replaces no task: docker-py sends it so when it scales."""
    world, web = made(2, FAST)
    before = {task.id for task in world.running(web)}
    world.update(web, lambda s: replace(interpolated(s), mode=ServiceMode(Replicated(3))))
    world.run()
    assert before < {task.id for task in world.running(web)}
    assert state(world, web) == ""


def test_five_specs_are_kept() -> None:
    """Any of the last five specs can be returned to; what is older is forgotten."""
    world, web = made(1, FAST)
    for number in range(2, 9):
        world.update(web, imaged(f"app:{number}"))
        world.run()
    kept = [item.task_template.container_spec.image for item in world.get(web).previous_specs]
    assert kept == ["app:7", "app:6", "app:5", "app:4", "app:3"]
    with pytest.raises(MeshnetError, match="has only 5 previous specs"):
        world.rollback(web, 6)
    world.rollback(web, 5)
    world.run()
    assert [image(task) for task in world.running(web)] == ["app:3"]
    kept = [item.task_template.container_spec.image for item in world.get(web).previous_specs]
    assert kept == ["app:8", "app:7", "app:6", "app:5", "app:4"]


def test_a_rollback_that_cannot_be_is_paused() -> None:
    """A rollback whose port has been taken meanwhile does not happen, and the service says why."""
    port = spec("x", ports=(8080,)).endpoint_spec
    world, web = made(2, replace(FAST, failure_action="rollback"), endpoint_spec=port)
    world.update(web, lambda s: replace(imaged("app:bad")(s), endpoint_spec=spec("x").endpoint_spec))
    other = world.service(spec("other", ports=(8080,)))
    world.run(fails=bad, seconds=30)
    assert state(world, web) == "paused"
    assert message(world, web).endswith(
        f"port '8080' is already in use by service 'other' ({other}) as an ingress port"
    )


@pytest.mark.parametrize(("ratio", "expected"), [(0.24, "paused"), (0.25, "completed")])
def test_the_failure_ratio(ratio: float, expected: str) -> None:
    """Failures up to the ratio of all places are let pass."""
    world, web = made(4, replace(FAST, max_failure_ratio=ratio))
    world.update(web, imaged("app:bad"))
    world.run(fails=lambda task: bad(task) and task.slot == 2 and task.failures == 0)
    assert state(world, web) == expected


def test_continue() -> None:
    """Failure action continue replaces everything whatever happens."""
    world, web = made(4, replace(FAST, failure_action="continue"))
    world.update(web, imaged("app:bad"))
    world.run(fails=lambda task: bad(task) and task.failures < 2)
    assert state(world, web) == "completed"
    assert [image(task) for task in world.running(web)] == ["app:bad"] * 4


@pytest.mark.parametrize(("after", "expected"), [(4.0, "paused"), (6.0, "completed")])
def test_the_monitoring_time(after: float, expected: str) -> None:
    """A new task that fails within the monitoring time counts, one that fails later does not."""
    world, web = made(1)
    world.update(web, imaged("app:2"))
    world.settle()
    while world.agents():
        world.settle()
    world.now += after
    world.settle()
    world.report(world.running(web)[0], "failed")
    world.settle()
    assert state(world, web) == expected


@pytest.mark.parametrize("label", ["", "30s", "none"])
def test_the_deadline(label: str) -> None:
    """A new task that does not come to run within the deadline fails the update; the service says which and why."""
    labels = {DEADLINE_LABEL: label} if label else {}
    world, web = made(2, FAST, labels=labels)

    def nowhere(service: ServiceSpec) -> ServiceSpec:
        placed = replace(imaged("app:2")(service).task_template, placement=Placement(("node.hostname==x",)))
        return replace(service, task_template=placed)

    world.update(web, nowhere)
    world.run(seconds=500)
    assert state(world, web) == ("updating" if label != "30s" else "paused")
    world.run(seconds=1000)
    assert state(world, web) == ("updating" if label == "none" else "paused")
    if label == "30s":
        (stuck,) = [t for t in world.tasks(web) if wanted(t) and t.status.state == "pending" and t.slot == 1]
        assert message(world, web) == (
            f"update paused because task {stuck.id} did not run within 30 s: "
            "no suitable node (scheduling constraints not satisfied on 3 nodes)"
        )


def test_restart_delays_back_off() -> None:
    """Each failure in a row doubles the delay, up to five minutes; a task that ran a minute begins anew."""
    world = World(1)
    web = world.service(spec("web", 1, restart=RestartPolicy(delay=5 * SECOND)))
    delays = []
    for _ in range(9):
        world.settle()
        world.agents()
        world.report(world.running(web)[0], "failed")
        wake = world.settle()
        assert wake is not None
        delays.append(round(wake - world.now))
        world.now = wake
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    world.settle()
    world.agents()
    world.now += 60
    world.report(world.running(web)[0], "failed")
    wake = world.settle()
    assert wake == pytest.approx(world.now + 5, abs=0.1)


CONFIGS = st.builds(
    UpdateConfig,
    parallelism=st.integers(0, 4),
    delay=st.sampled_from([0, SECOND, 30 * SECOND]),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    monitor=st.sampled_from([0, SECOND, 20 * SECOND]),
    max_failure_ratio=st.sampled_from([0.0, 0.3, 1.0]),
    order=st.sampled_from(["stop-first", "start-first"]),
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS, st.integers(1, 7), st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 2**32))
def test_any_update_comes_to_an_end(config: UpdateConfig, replicas: int, failing: float, seed: int) -> None:
    """Whatever the policy and the failures: the pace is kept, start-first loses no task to a failure that stops it, and
    the end is one of four: all new, paused, all old again, or a paused rollback."""
    world, web = made(replicas, config, rollback_config=UpdateConfig(parallelism=2, monitor=SECOND))
    rng = Random(seed)
    before = world.get(web).spec
    world.update(web, imaged("app:2"))
    fate: dict[str, bool] = {}

    def fails(task: Task) -> bool:
        return image(task) == "app:2" and fate.setdefault(task.id, rng.random() < failing)

    for _ in range(3000):
        wake = world.settle()
        tasks = world.tasks(web)
        _check_pace(tasks, config, replicas, state(world, web))
        if state(world, web) not in ("updating", "rollback_started"):
            break
        if not world.agents(fails):
            assert wake is not None, "an update that goes on waits for something"
            world.now = max(world.now, wake)
    world.run(fails=lambda task: False)
    images = {image(task) for task in world.running(web)}
    end = state(world, web)
    assert len(world.running(web)) >= replicas
    assert (end, images) in (("completed", {"app:2"}), ("rollback_completed", {"app:1"})) or end == "paused"
    assert end != "rollback_completed" or world.get(web).spec == before
    assert failing > 0 or end == "completed"
    assert end != "paused" or config.failure_action == "pause"


def _check_pace(tasks: list[Task], config: UpdateConfig, replicas: int, at: str) -> None:
    running = [task for task in tasks if wanted(task) and task.status.state == "running"]
    forgiving = config.failure_action == "continue" or config.max_failure_ratio > 0
    if at == "updating" and config.order == "start-first" and not forgiving:
        assert len({task.slot for task in running}) == replicas
    if at == "updating" and config.parallelism:
        starting = {t.slot for t in tasks if wanted(t) and alive(t) and not t.running_since and not t.failures}
        assert len(starting) <= config.parallelism
