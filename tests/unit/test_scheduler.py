"""Where tasks go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import spec
from swarm_world import World

from meshnet.control.constraints import parse, satisfied
from meshnet.errors import MeshnetError
from meshnet.model import (
    EndpointSpec,
    Engine,
    Node,
    NodeDescription,
    NodeSpec,
    NodeStatus,
    Placement,
    PlacementPreference,
    PortConfig,
    RestartPolicy,
    ServiceSpec,
    SpreadOver,
)

NODE = Node(
    id="n1",
    spec=NodeSpec(labels={"disk": "ssd", "zone": "a"}),
    description=NodeDescription(hostname="docker-1", engine=Engine(labels={"os": "debian"})),
    status=NodeStatus("ready", "", "172.17.0.3"),
)


def placed(name: str, replicas: int, *constraints: str, spread: tuple[str, ...] = (), most: int = 0) -> ServiceSpec:
    preferences = tuple(PlacementPreference(SpreadOver(key)) for key in spread)
    service = spec(name, replicas)
    return replace(
        service, task_template=replace(service.task_template, placement=Placement(constraints, preferences, most))
    )


@pytest.mark.parametrize(
    ("constraint", "holds"),
    [
        ("node.id==n1", True),
        ("node.id == N1", True),
        ("node.id!=n1", False),
        ("node.hostname==docker-1", True),
        ("node.hostname!=docker-2", True),
        ("node.role==worker", True),
        ("node.role==manager", False),
        ("node.labels.disk==ssd", True),
        ("node.labels.disk==SSD", True),
        ("node.labels.disk!=ssd", False),
        ("node.labels.none==x", False),
        ("node.labels.none!=x", True),
        ("engine.labels.os==debian", True),
        ("node.platform.os==linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.ip==172.17.0.3", True),
        ("node.ip==172.17.0.0/16", True),
        ("node.ip!=172.17.0.0/16", False),
        ("node.foo==bar", False),
        ("node.foo!=bar", False),
    ],
)
def test_constraints(constraint: str, holds: bool) -> None:
    """Constraints compare without regard to case; a missing label is unequal to everything; unknown keys never hold."""
    assert satisfied([constraint], NODE) is holds


@pytest.mark.parametrize("text", ["foo", "node.hostname=a", "", "node.hostname>a"])
def test_constraints_without_operator(text: str) -> None:
    """What is no constraint is refused in Swarm's words."""
    with pytest.raises(MeshnetError, match="constraint expected one operator from ==, !="):
        parse(text)


def test_spread_over_services() -> None:
    """Tasks of one service spread first, then tasks at all: a second service fills up the emptier nodes."""
    world = World(3)
    one = world.service(spec("one", 4))
    world.run()
    assert sorted(world.spread(one).values()) == [1, 1, 2]
    two = world.service(spec("two", 2))
    world.run()
    full = max(world.spread(one), key=lambda name: world.spread(one)[name])
    assert full not in world.spread(two)


def test_filters_and_their_words() -> None:
    """A task that no node can take stays pending and says which filter left out how many nodes."""
    world = World(3)
    world.set_node("docker-0", availability="pause")
    world.set_node("docker-1", state="down")
    web = world.service(placed("web", 1, "node.hostname==docker-0"))
    world.run()
    (task,) = world.tasks(web)
    assert (task.status.state, task.status.err) == (
        "pending",
        "no suitable node (2 nodes not available for new tasks; scheduling constraints not satisfied on 1 node)",
    )
    world.set_node("docker-0", availability="active")
    world.run()
    assert world.spread(web) == {"docker-0": 1}


def test_no_nodes() -> None:
    """Without nodes tasks wait, and run when one joins."""
    world = World(0)
    web = world.service(spec("web", 2))
    world.run()
    assert {task.status.err for task in world.tasks(web)} == {"no suitable node"}
    world.node("docker-9")
    world.run()
    assert world.spread(web) == {"docker-9": 2}


def test_max_replicas() -> None:
    """No node gets more tasks of a service than allowed."""
    world = World(2)
    web = world.service(placed("web", 5, most=2))
    world.run()
    assert world.spread(web) == {"docker-0": 2, "docker-1": 2}
    (waiting,) = [task for task in world.tasks(web) if task.status.state == "pending"]
    assert waiting.status.err == "no suitable node (max replicas per node limit exceed)"


def test_preferences() -> None:
    """Tasks spread over the values of a label first, however many nodes have it, and over a second label within."""
    world = World(0)
    for name, zone, rack in (("a1", "a", "1"), ("a2", "a", "1"), ("a3", "a", "2"), ("b1", "b", "1")):
        world.node(name, {"zone": zone, "rack": rack})
    web = world.service(placed("web", 8, spread=("node.labels.zone", "node.labels.rack")))
    world.run()
    assert world.spread(web) == {"a1": 1, "a2": 1, "a3": 2, "b1": 4}


def test_host_ports() -> None:
    """A port published in host mode is given to one task per node; the next waits."""
    world = World(2)
    port = EndpointSpec("vip", (PortConfig("", "tcp", 80, 8090, "host"),))
    one = world.service(replace(spec("one", 2), endpoint_spec=port))
    world.run()
    assert world.spread(one) == {"docker-0": 1, "docker-1": 1}
    two = world.service(replace(spec("two", 1), endpoint_spec=port))
    world.run()
    assert world.tasks(two)[0].status.err == "no suitable node (host-mode port already in use on 2 nodes)"


def test_a_node_where_it_keeps_failing_comes_last() -> None:
    """After five failures within five minutes on one node a task goes elsewhere, though that node is emptier."""
    world = World(2, history=10)
    busy = world.service(placed("busy", 3, "node.hostname==docker-1"))
    web = world.service(spec("web", 1, restart=RestartPolicy(delay=0)))
    bad = next(n.id for n in world.view.nodes.values() if n.description.hostname == "docker-0")
    world.run(fails=lambda task: task.service_id == web and task.node_id == bad)
    assert len(world.running(busy)) == 3
    assert world.spread(web) == {"docker-1": 1}
    assert sum(task.node_id == bad for task in world.tasks(web)) == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(1, 5))
def test_spread_is_even(replicas: list[int], nodes: int) -> None:
    """On equal nodes the tasks of each service, and all tasks together, differ by at most one per node."""
    world = World(nodes)
    services = [world.service(spec(f"s{number}", count)) for number, count in enumerate(replicas)]
    world.run()
    totals = dict.fromkeys((n.description.hostname for n in world.view.nodes.values()), 0)
    for service, count in zip(services, replicas, strict=True):
        spread = world.spread(service)
        assert sum(spread.values()) == count
        counts = [spread.get(name, 0) for name in totals]
        assert max(counts) - min(counts) <= 1
        for name, number in spread.items():
            totals[name] += number
    assert max(totals.values()) - min(totals.values()) <= 1
