"""Which tasks a service has, through failures, lost nodes, scaling and updates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import spec
from swarm_world import World

from meshnet.control.objects import Changes, seconds
from meshnet.control.operations import report_tasks
from meshnet.control.view import addresses_of, alive, wanted
from meshnet.model import SECOND, Global, Replicated, RestartPolicy, ServiceMode, ServiceSpec, TaskStatus

GLOBAL = ServiceMode(None, Global())


def scaled(replicas: int) -> ServiceMode:
    return ServiceMode(Replicated(replicas))


def new_image(service: ServiceSpec) -> ServiceSpec:
    template = service.task_template
    container = replace(template.container_spec, image="app:2")
    return replace(service, task_template=replace(template, container_spec=container))


def test_slots_and_scale() -> None:
    """Slots count from 1; scaling down takes what does not run first, then the highest; free slots are used again."""
    world = World()
    web = world.service(spec("web", 5))
    world.run()
    assert [task.slot for task in world.running(web)] == [1, 2, 3, 4, 5]
    world.update(web, lambda s: replace(s, mode=scaled(3)))
    world.run()
    assert [task.slot for task in world.tasks(web)] == [1, 2, 3]
    world.report(world.tasks(web)[0], "failed")
    world.settle()
    world.update(web, lambda s: replace(s, mode=scaled(2)))
    world.run()
    assert [task.slot for task in world.running(web)] == [2, 3]
    world.update(web, lambda s: replace(s, mode=scaled(4)))
    world.run()
    assert [task.slot for task in world.running(web)] == [1, 2, 3, 4]


def test_scaling_down_leaves_the_tasks_spread() -> None:
    """Those that go are of the nodes that have the most, so that a node which came late keeps its share."""
    world = World()
    world.set_node("docker-1", availability="drain")
    world.set_node("docker-2", availability="drain")
    web = world.service(spec("web", 3))
    world.run()
    world.set_node("docker-2", availability="active")
    world.update(web, lambda s: replace(s, mode=scaled(6)))
    world.run()
    assert sorted(Counter(task.node_id for task in world.running(web)).values()) == [3, 3]
    world.update(web, lambda s: replace(s, mode=scaled(2)))
    world.run()
    assert sorted(Counter(task.node_id for task in world.running(web)).values()) == [1, 1]


def test_a_failed_task_waits_for_the_delay() -> None:
    """The successor of a failed task is prepared at once (`ready`) and started after the policy's delay."""
    world = World()
    web = world.service(spec("web", 1, restart=RestartPolicy(delay=7 * SECOND)))
    world.run()
    failed = world.running(web)[0]
    world.report(failed, "failed")
    wake = world.settle()
    old, new = world.tasks(web)
    assert (old.desired_state, old.status.state) == ("shutdown", "failed")
    assert (new.slot, new.desired_state, new.status.state) == (1, "ready", "assigned")
    assert wake == pytest.approx(world.now + 7)
    world.now += 6.9
    world.settle()
    assert world.tasks(web)[1].desired_state == "ready"
    world.now += 0.2
    world.settle()
    assert world.tasks(web)[1].desired_state == "running"


@pytest.mark.parametrize(
    ("condition", "state", "restarts"),
    [
        ("any", "complete", True),
        ("any", "failed", True),
        ("on-failure", "complete", False),
        ("on-failure", "failed", True),
        ("on-failure", "rejected", True),
        ("none", "failed", False),
        ("none", "complete", False),
    ],
)
def test_restart_condition(condition: str, state: str, restarts: bool) -> None:
    """A task that ended is followed by another only if the condition says so; if not, its slot stays as it is."""
    world = World()
    web = world.service(spec("web", 2, restart=RestartPolicy(condition=condition)))
    world.run()
    world.report(world.tasks(web)[0], state)
    world.run()
    assert len(world.running(web)) == 1 + restarts
    assert [task.slot for task in world.running(web)] == ([1, 2] if restarts else [2])
    world.update(web, new_image)
    world.run()
    assert len(world.running(web)) == 2, "a new spec starts what had ended"


def test_max_attempts() -> None:
    """A task that always fails is restarted as often as the policy allows, also beyond the history's length."""
    for attempts in (2, 9):
        world = World(history=5)
        web = world.service(spec("web", 1, restart=RestartPolicy(max_attempts=attempts, delay=SECOND)))
        world.run(fails=lambda task: True)
        assert len(world.tasks(web)) == attempts + 1
        assert all(task.desired_state == "shutdown" for task in world.tasks(web))


def test_history() -> None:
    """A slot keeps its last five tasks, the present one included."""
    world = World(history=5)
    web = world.service(spec("web", 1))
    for _ in range(9):
        world.run()
        world.report(world.running(web)[0], "failed")
    world.run()
    kept = world.tasks(web)
    assert len(kept) == 5
    assert [wanted(task) for task in kept] == [False] * 4 + [True]


def test_a_global_service_follows_the_nodes() -> None:
    """One task per node that can take it: new nodes get one, drained ones lose theirs, paused ones keep theirs."""
    world = World(2)
    agent = world.service(spec("agent", mode=GLOBAL))
    world.run()
    assert world.spread(agent) == {"docker-0": 1, "docker-1": 1}
    assert {task.slot for task in world.running(agent)} == {0}
    world.node("docker-2")
    world.set_node("docker-0", availability="drain")
    world.set_node("docker-1", availability="pause")
    world.run()
    assert world.spread(agent) == {"docker-1": 1, "docker-2": 1}
    world.set_node("docker-0", availability="active")
    world.run()
    assert world.spread(agent) == {"docker-0": 1, "docker-1": 1, "docker-2": 1}
    world.report(world.running(agent)[-1], "failed")
    world.run()
    assert world.spread(agent) == {"docker-0": 1, "docker-1": 1, "docker-2": 1}


def test_a_lost_node_and_its_return() -> None:
    """A lost node's tasks are replaced at once elsewhere; when it is back they stop, and nothing moves back."""
    world = World(3)
    web, agent = world.service(spec("web", 6)), world.service(spec("agent", mode=GLOBAL))
    world.run()
    world.set_node("docker-2", state="down")
    before = world.now
    world.run()
    assert world.now - before < 1, "nobody waited for a restart delay"
    assert world.spread(web) == {"docker-0": 3, "docker-1": 3}
    old = [t for t in world.view.tasks.values() if alive(t) and not wanted(t)]
    assert len(old) == 3, "what runs on a lost node is not forgotten"
    world.set_node("docker-2", state="ready")
    world.run()
    assert world.spread(web) == {"docker-0": 3, "docker-1": 3}
    assert world.spread(agent) == {"docker-0": 1, "docker-1": 1, "docker-2": 1}
    assert not [t for t in world.view.tasks.values() if alive(t) and not wanted(t)]


def test_a_successor_waits_for_its_predecessor() -> None:
    """On a drained node the old task stops before the new one starts elsewhere (stop-first)."""
    world = World(2)
    web = world.service(spec("web", 1))
    world.run()
    world.set_node("docker-0", availability="drain")
    world.settle()
    old, new = world.tasks(web)
    assert (old.desired_state, new.desired_state) == ("shutdown", "ready")
    world.report(old, "shutdown")
    world.settle()
    assert world.tasks(web)[1].desired_state == "running"


def test_a_removed_node() -> None:
    """Tasks of a node that was removed are orphaned and replaced; a global service forgets the node."""
    world = World(2)
    web, agent = world.service(spec("web", 2)), world.service(spec("agent", mode=GLOBAL))
    world.run()
    node = next(n for n in world.view.nodes.values() if n.description.hostname == "docker-1")
    world.commit(Changes(drop=(node,)))
    world.run()
    assert world.spread(web) == {"docker-0": 2}
    assert world.spread(agent) == {"docker-0": 1}
    assert [task.status.state for task in world.tasks(web) if task.node_id == node.id] == ["orphaned"]
    assert all(task.node_id != node.id for task in world.tasks(agent))


def test_a_service_that_goes_takes_its_tasks() -> None:
    """Removing a service ends its tasks; each is forgotten when it has ended, those on lost nodes when they return."""
    world = World(2)
    web = world.service(spec("web", 4))
    world.run()
    world.set_node("docker-1", state="down")
    world.remove(web)
    world.run()
    assert {task.desired_state for task in world.tasks(web)} == {"remove"}
    assert len(world.tasks(web)) == 2
    world.set_node("docker-1", state="ready")
    world.run()
    assert world.tasks(web) == []


def test_unscheduled_tasks_are_forgotten_at_once() -> None:
    """What no agent has heard of needs no agent to end it."""
    world = World(0)
    web = world.service(spec("web", 3))
    world.run()
    assert len(world.tasks(web)) == 3
    world.remove(web)
    world.run()
    assert world.tasks(web) == []


def test_an_update_rolls() -> None:
    """A new spec replaces running tasks one at a time: never are two of them away."""
    world = World(3)
    web = world.service(spec("web", 4))
    world.run()
    world.update(web, new_image)
    least = 4
    for _ in range(100):
        world.settle()
        least = min(least, len(world.running(web)))
        if not world.agents():
            break
    assert least == 3
    assert {task.spec.container_spec.image for task in world.running(web)} == {"app:2"}
    assert len(world.running(web)) == 4


def test_an_update_that_fails_stops() -> None:
    """If the first new task fails, the others stay with the old spec."""
    world = World(3)
    web = world.service(spec("web", 4))
    world.run()
    world.update(web, new_image)
    world.run(fails=lambda task: task.spec.container_spec.image == "app:2", seconds=60)
    assert [task.spec.container_spec.image for task in world.running(web)] == ["app:1"] * 3


def test_a_new_spec_does_not_wait_for_the_old_ones_delay() -> None:
    """A task that failed is replaced under a new spec at once, whether its successor waits already or not."""
    for waits in (True, False):
        _failed_and_updated(waits)


def _failed_and_updated(waits: bool) -> None:
    world = World(1)
    web = world.service(spec("web", 1, restart=RestartPolicy(delay=3600 * SECOND)))
    world.run()
    world.report(world.running(web)[0], "failed")
    if waits:
        world.settle()
    world.update(web, new_image)
    before = world.now
    world.run()
    assert [task.spec.container_spec.image for task in world.running(web)] == ["app:2"]
    assert seconds(world.running(web)[0].running_since) - before < 1


def test_reports_are_believed_only_so_far() -> None:
    """A node speaks of its own tasks only, a state never goes back, and an end is final."""
    world = World(2)
    web = world.service(spec("web", 1))
    world.run()
    (task,) = world.tasks(web)
    other = next(node.id for node in world.view.nodes.values() if node.id != task.node_id)
    for node_id, state in ((other, "failed"), (task.node_id, "starting")):
        assert not report_tasks(world.view, node_id, {task.id: TaskStatus("", state)})
    assert not report_tasks(world.view, task.node_id, {"unknown": TaskStatus("", "running")})
    world.report(task, "failed")
    (ended,) = [item for item in world.tasks(web) if item.id == task.id]
    assert not report_tasks(world.view, ended.node_id, {ended.id: TaskStatus("", "orphaned")})


def test_publishing_a_port_brings_tasks_onto_ingress() -> None:
    """Tasks are replaced when a service's first published port needs them on the ingress network, not for a second."""
    world = World(2)
    web = world.service(spec("web", 2))
    world.run()
    port = spec("x", 1, (), (8080,)).endpoint_spec
    world.update(web, lambda s: replace(s, endpoint_spec=port))
    world.run()
    ids = {task.id for task in world.running(web)}
    assert all(len(task.networks_attachments) == 1 for task in world.running(web))
    world.update(web, lambda s: replace(s, endpoint_spec=spec("x", 1, (), (8080, 8081)).endpoint_spec))
    world.run()
    assert {task.id for task in world.running(web)} == ids


EVENTS = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 6)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("down"), st.integers(0, 2)),
    st.tuples(st.just("up"), st.integers(0, 2)),
    st.tuples(st.just("drain"), st.integers(0, 2)),
    st.tuples(st.just("active"), st.integers(0, 2)),
    st.tuples(st.just("image"), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("agents"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 20)),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(EVENTS, max_size=25), st.booleans())
def test_whatever_happens_the_swarm_converges(events: list[tuple[str, int]], everywhere: bool) -> None:
    """After any history as many tasks run as can, one per slot or node, each with addresses of its own."""
    world = World(3)
    network = world.network("demo")
    mode = GLOBAL if everywhere else scaled(3)
    web = world.service(spec("web", 3, ("demo",), (8080,), mode=mode))
    for event, number in events:
        _happen(world, web, event, number, everywhere)
        _check_invariants(world, network)
    world.run()
    _check_invariants(world, network)
    usable = [n for n in world.view.nodes.values() if n.status.state == "ready" and n.spec.availability == "active"]
    replicated = world.get(web).spec.mode.replicated
    expected = len(usable) if replicated is None else replicated.replicas if usable else 0
    assert len(world.running(web)) == expected
    image = world.get(web).spec.task_template.container_spec.image
    status = world.get(web).update_status
    stopped = status is not None and status.state == "paused"
    assert stopped or all(task.spec.container_spec.image == image for task in world.running(web))
    counts = world.spread(web).values()
    assert everywhere is False or set(counts) <= {1}


def _happen(world: World, web: str, event: str, number: int, everywhere: bool) -> None:
    if event == "scale" and not everywhere:
        world.update(web, lambda s: replace(s, mode=scaled(number)))
    elif event == "fail":
        running = world.running(web)
        if running:
            world.report(running[number % len(running)], "failed")
    elif event in ("down", "up"):
        world.set_node(f"docker-{number}", state="down" if event == "down" else "ready")
    elif event in ("drain", "active"):
        world.set_node(f"docker-{number}", availability=event)
    elif event == "image":
        template = world.get(web).spec.task_template
        container = replace(template.container_spec, image=f"app:{number}")
        world.update(web, lambda s: replace(s, task_template=replace(template, container_spec=container)))
    elif event == "settle":
        world.settle()
    elif event == "agents":
        world.agents()
    elif event == "wait":
        world.now += number


def _check_invariants(world: World, network: str) -> None:
    places = [t.slot or t.node_id for t in world.view.tasks.values() if wanted(t)]
    assert len(places) == len(set(places)), "a place has one wanted task"
    held = [item for thing in world.view.all() for item in addresses_of(thing)]
    assert len(held) == len(set(held)), "an address has one holder"
    assert all(seconds(task.created_at) > 0 for task in world.view.tasks.values())
    for task in world.view.tasks.values():
        if task.status.state == "running":
            assert len(task.networks_attachments) == 2
