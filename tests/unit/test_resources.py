"""What tasks reserve, where they go for it, and the strategies of placement."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import spec
from swarm_world import World

from meshnet.containerspec import DiscreteGenericResource, GenericResource, NamedGenericResource
from meshnet.control.constraints import platform_fits, satisfied
from meshnet.control.defaults import PLACEMENT_LABEL, reservations_of
from meshnet.control.resources import Room
from meshnet.control.view import alive, counts, wanted
from meshnet.model import (
    EndpointSpec,
    Global,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
)

CPU = 10**9
GIB = 2**30


def reserving(name: str, replicas: int, cpus: float = 0, memory: int = 0, **more: object) -> ServiceSpec:
    needed = ResourceRequirements(reservations=Resources(round(cpus * CPU), memory))
    asked = spec(name, replicas)
    return replace(asked, task_template=replace(asked.task_template, resources=needed), **more)  # type: ignore[arg-type]


def world_of(*sizes: tuple[int, int]) -> World:
    """A swarm whose nodes have so many processors and so many GiB."""
    world = World(0)
    for number, (cpus, memory) in enumerate(sizes):
        world.node(f"docker-{number}", {"zone": "ab"[number % 2]}, resources=Resources(cpus * CPU, memory * GIB))
    return world


def test_reservations() -> None:
    """No node gives more than it has; what does not fit waits and says so, and starts when room comes free."""
    world = world_of((2, 4), (4, 4))
    first = world.service(reserving("first", 6, 1))
    world.run()
    assert world.spread(first) == {"docker-0": 2, "docker-1": 4}
    second = world.service(reserving("second", 1, 1))
    world.run()
    (waiting,) = world.tasks(second)
    assert waiting.status.err == "no suitable node (insufficient resources on 2 nodes)"
    world.update(first, lambda s: replace(s, mode=spec("x", 5).mode))
    world.run()
    assert len(world.running(second)) == 1


def test_a_global_service_waits_for_room() -> None:
    """A task that belongs to a node waits for room on that node."""
    world = world_of((1, 1), (4, 1))
    full = world.service(reserving("full", 1, 1, mode=ServiceMode(global_=Global())))
    world.run()
    other = world.service(reserving("other", 1, 1, mode=ServiceMode(global_=Global())))
    world.run()
    assert world.spread(other) == {"docker-1": 1}
    waiting = next(task for task in world.tasks(other) if task.status.state == "pending")
    assert waiting.status.err == "no suitable node (insufficient resources on 1 node)"
    world.remove(full)
    world.run()
    assert world.spread(other) == {"docker-0": 1, "docker-1": 1}


def test_generic_resources() -> None:
    """Counted things are counted, named ones are had by name, and named ones also by number."""

    def discrete(kind: str, value: int) -> GenericResource:
        return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind, value))

    def one(kind: str, value: str) -> GenericResource:
        return GenericResource(NamedGenericResource(kind, value))

    room = Room(Resources(generic_resources=(discrete("ssd", 3), one("gpu", "a"), one("gpu", "b"))))
    assert room.holds(Resources(generic_resources=(discrete("ssd", 3),)))
    assert not room.holds(Resources(generic_resources=(discrete("ssd", 4),)))
    assert not room.holds(Resources(generic_resources=(discrete("fpga", 1),)))
    assert room.holds(Resources(generic_resources=(discrete("gpu", 2),)))
    room.take(Resources(generic_resources=(one("gpu", "a"), discrete("ssd", 2))))
    assert not room.holds(Resources(generic_resources=(one("gpu", "a"),)))
    assert not room.holds(Resources(generic_resources=(discrete("gpu", 2),)))
    assert room.holds(Resources(generic_resources=(one("gpu", "b"), discrete("ssd", 1))))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ((), True),
        ((Platform("amd64", "linux"),), True),
        ((Platform("arm64", "linux"), Platform("x86_64", "linux")), True),
        ((Platform("arm64", "linux"),), False),
        ((Platform("amd64", "windows"),), False),
        ((Platform("", "linux"),), True),
    ],
)
def test_platforms(wanted: tuple[Platform, ...], fits: bool) -> None:
    """A node must be one of the image's platforms; an architecture has several names."""
    assert platform_fits(wanted, Platform("x86_64", "linux")) is fits


def test_no_platform() -> None:
    """Where no node is of the image's platform, the task says so."""
    world = World(2)
    asked = spec("arm", 1)
    placement = Placement(platforms=(Platform("arm64", "linux"),))
    arm = world.service(replace(asked, task_template=replace(asked.task_template, placement=placement)))
    world.run()
    assert world.tasks(arm)[0].status.err == "no suitable node (unsupported platform on 2 nodes)"


def test_binpack() -> None:
    """Binpack fills one node before the next, the fullest first."""
    world = world_of((4, 8), (4, 8), (4, 8))
    seed = world.service(reserving("seed", 1, 1))
    world.run()
    used = next(iter(world.spread(seed)))
    packed = world.service(reserving("packed", 4, 1, labels={PLACEMENT_LABEL: "binpack"}))
    world.run()
    assert world.spread(packed)[used] == 3
    assert sorted(world.spread(packed).values()) == [1, 3]
    plain = world.service(replace(spec("plain", 5), labels={PLACEMENT_LABEL: "binpack"}))
    world.run()
    assert world.spread(plain) == {used: 5}, "tasks that reserve nothing go where most is reserved"


def test_random() -> None:
    """Random places tasks anywhere, and not all alike."""
    world = World(4)
    anywhere = world.service(replace(spec("any", 60), labels={PLACEMENT_LABEL: "random"}))
    world.run()
    counted = world.spread(anywhere)
    assert len(counted) == 4
    assert set(counted.values()) != {15}, "an even spread by chance has a probability below 1 in 500"


SERVICES = st.lists(
    st.tuples(
        st.integers(0, 6),  # replicas
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),  # processors
        st.integers(0, 2),  # GiB
        st.sampled_from([(), ("node.labels.zone==a",), ("node.labels.zone!=a",), ("node.hostname==docker-1",)]),
        st.integers(0, 2),  # most per node
        st.sampled_from([0, 9000]),  # host port
        st.sampled_from(["spread", "binpack", "random"]),
    ),
    max_size=6,
)
NODES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    NODES, SERVICES, st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["drain", "pause", "active"])), max_size=4)
)
def test_placement_keeps_every_rule(
    sizes: list[tuple[int, int]],
    services: list[tuple[int, float, int, tuple[str, ...], int, int, str]],
    events: list[tuple[int, str]],
) -> None:
    """Whatever is asked of whatever nodes: no node gives more than it has, every rule holds for every task that runs,
    and no task waits that a node could take."""
    world = world_of(*sizes)
    for number, (replicas, cpus, memory, constraints, most, port, strategy) in enumerate(services):
        asked = reserving(f"s{number}", replicas, cpus, memory * GIB, labels={PLACEMENT_LABEL: strategy})
        ports = (PortConfig("", "tcp", 80, port, "host"),) if port else ()
        template = replace(asked.task_template, placement=Placement(constraints, (), most))
        world.service(replace(asked, task_template=template, endpoint_spec=EndpointSpec("vip", ports)))
        world.run()
    for number, availability in events:
        if number < len(sizes):
            world.set_node(f"docker-{number}", availability=availability)
            world.run()
    _check(world)


def _check(world: World) -> None:
    rooms = {node.id: Room(node.description.resources) for node in world.view.nodes.values()}
    ports: Counter[tuple[str, int]] = Counter()
    per_node: Counter[tuple[str, str]] = Counter()
    for task in world.view.tasks.values():
        if not counts(task) or task.status.state != "running":
            continue
        node, service = world.view.nodes[task.node_id], world.view.services[task.service_id]
        assert node.spec.availability != "drain"
        assert satisfied(task.spec.placement.constraints, node)
        assert rooms[node.id].holds(reservations_of(task.spec)), "a node gives more than it has"
        rooms[node.id].take(reservations_of(task.spec))
        per_node[service.id, node.id] += 1
        for port in service.endpoint.ports:
            ports[node.id, port.published_port] += 1
        assert not task.spec.placement.max_replicas or per_node[service.id, node.id] <= task.spec.placement.max_replicas
    assert not ports or max(ports.values()) == 1
    for task in world.view.tasks.values():
        if wanted(task) and alive(task) and task.status.state != "running":
            assert task.status.err.startswith("no suitable node")
            for node in world.view.nodes.values():
                taken = {port for ident, port in ports if ident == node.id}
                service = world.view.services[task.service_id]
                most = task.spec.placement.max_replicas
                assert (
                    node.spec.availability != "active"
                    or not satisfied(task.spec.placement.constraints, node)
                    or not rooms[node.id].holds(reservations_of(task.spec))
                    or any(port.published_port in taken for port in service.endpoint.ports)
                    or (most and per_node[service.id, node.id] >= most)
                ), "a node could take a task that waits"
