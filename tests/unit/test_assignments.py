"""What a node is told: a feed of deltas says the same as looking at everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm import spec
from swarm_world import World

from meshnet.control.assignments import Feed, assignments_of, bookmark_line, delta_line, diff, follow, snapshot_line
from meshnet.control.objects import Change
from meshnet.errors import MeshnetError
from meshnet.model import Assignments, Replicated, ServiceMode, ServiceSpec

STEPS = st.one_of(
    st.tuples(st.just("service"), st.integers(0, 7)),
    st.tuples(st.just("remove"), st.integers(0, 7)),
    st.tuples(st.just("scale"), st.integers(0, 7)),
    st.tuples(st.just("network"), st.integers(0, 2)),
    st.tuples(st.just("drain"), st.integers(0, 1)),
    st.tuples(st.just("active"), st.integers(0, 1)),
    st.tuples(st.just("fail"), st.integers(0, 7)),
    st.tuples(st.just("agents"), st.just(0)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("tell"), st.just(0)),
)


def in_host_mode(made: ServiceSpec) -> ServiceSpec:
    ports = tuple(replace(port, publish_mode="host") for port in made.endpoint_spec.ports)
    return replace(made, endpoint_spec=replace(made.endpoint_spec, ports=ports))


def step(world: World, kind: str, number: int) -> None:
    services = sorted(world.view.services)
    if kind == "service":
        networks = tuple(world.view.network_named) if number & 1 else ()
        used = tuple(name for name in networks if name != "ingress")
        made = spec(f"s{world.view.rev}", number % 3, used, (0,) if number & 2 else ())
        world.service(in_host_mode(made) if number & 4 else made)
    elif kind == "remove" and services:
        world.remove(services[number % len(services)])
    elif kind == "scale" and services:
        world.update(services[number % len(services)], lambda s: replace(s, mode=ServiceMode(Replicated(number % 3))))
    elif kind == "network" and f"net{number}" not in world.view.network_named:
        world.network(f"net{number}")
    elif kind in ("drain", "active"):
        world.set_node(f"docker-{number}", availability=kind)
    elif kind == "fail" and services:
        for task in world.running(services[number % len(services)]):
            world.report(task, "failed")
    elif kind == "agents":
        world.agents()
    elif kind == "settle":
        world.settle()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=40))
def test_a_feed_says_what_there_is(steps: list[tuple[str, int]]) -> None:
    """Whatever happens, snapshot and deltas, sent as lines, lead to what the node must know, and tell nothing else."""
    world = World(2)
    node_id = next(iter(world.view.nodes))
    feed = Feed(world.view, node_id)
    known = follow(None, snapshot_line(feed.told, world.view.rev))
    for kind, number in [*steps, ("settle", 0), ("tell", 0)]:
        step(world, kind, number)
        if kind == "tell":
            known = follow(known, delta_line(feed.advance(world.changes), world.view.rev))
            world.changes.clear()
            assert known is not None
            assert not diff(known, assignments_of(world.view, node_id))
            assert not feed.advance([])


def test_tasks_bring_their_networks() -> None:
    """A task of a published service, told before, brings the networks and services it needs when it arrives."""
    world = World(1)
    world.set_node("docker-0", availability="drain")
    for name in ("red", "blue"):
        world.network(name)
    web, quiet = world.service(spec("web", 1, ("red",), (8080,))), world.service(spec("quiet", 0, ("red",)))
    feed = Feed(world.view, next(iter(world.view.nodes)))
    assert set(feed.told.services) == {web}
    world.set_node("docker-0", availability="active")
    world.changes.clear()
    world.settle()
    delta = feed.advance(world.changes)
    assert {network.spec.name for network in feed.told.networks.values()} == {"ingress", "red"}
    assert set(delta.upserts["services"]) == {quiet}
    assert len(delta.upserts["tasks"]) == 1


def test_published_services_are_told_everywhere() -> None:
    """A node that runs nothing is told every service with a published port, in either mode, and no other."""
    world = World(1)
    told = {
        world.service(spec("mesh", 0, (), (8080,))),
        world.service(in_host_mode(spec("own", 0, (), (8081,)))),
    }
    world.service(spec("hidden", 0))
    assert assignments_of(world.view, next(iter(world.view.nodes))).services.keys() == told


def test_waiting_tasks_are_not_told() -> None:
    """A task that waits for its delay is told when it may run."""
    world = World(1)
    web = world.service(spec("web", 1, (), (8080,)))
    world.run()
    feed = Feed(world.view, next(iter(world.view.nodes)))
    world.report(world.running(web)[0], "failed")
    world.settle()
    feed.advance(world.changes)
    waiting = world.tasks(web)[-1]
    assert waiting.desired_state == "ready"
    assert waiting.id not in feed.told.tasks
    assert not feed.advance([Change(None, waiting)])
    world.changes.clear()
    world.run()
    feed.advance(world.changes)
    assert waiting.id in feed.told.tasks


def test_a_bookmark_changes_nothing() -> None:
    """A bookmark gives the same assignments back."""
    known = Assignments()
    assert follow(known, bookmark_line(7)) is known


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"{}", b'{"type": "odd"}', b'{"type": "snapshot"}', b'{"type": "delta", "upserts": {}}'],
)
def test_lines_that_cannot_be_read(line: bytes) -> None:
    """A broken line is an error of one line, not a traceback; so is a delta before any snapshot."""
    with pytest.raises(MeshnetError, match="cannot be read"):
        follow(Assignments(), line)
    with pytest.raises(MeshnetError, match="cannot be read"):
        follow(None, b'{"type": "delta", "upserts": {}, "removals": {}}')
