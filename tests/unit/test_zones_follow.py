"""Names that follow the world: after any changes they are what they would be if they were made from nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshnet.agent.zones import Zones
from meshnet.datapath.plan import Located
from meshnet.model import (
    Assignments,
    Endpoint,
    EndpointSpec,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    PortConfig,
    Service,
    ServiceEndpoint,
    ServiceSpec,
    TaskSpec,
    VirtualIP,
)

NETWORKS = ("n1", "n2")
SERVICES = ("s1", "s2", "s3")
NAMES = ("web", "db", "db.shop", "n1", "web.1")  # that meet one another, and the names of networks and tasks
ATTACHED = (("n1",), ("n2",), ("n1", "n2"), ("n2", "n1"), ("n3", "n1"), ())


def services() -> st.SearchStrategy[Service]:
    def made(ident: str, name: str, aliases: list[str], on: list[str], mode: Any, vip: bool, port: bool) -> Service:
        networks = tuple(NetworkAttachmentConfig(network, tuple(aliases)) for network in on)
        ports = (PortConfig("http", "tcp", 80, 8000),) if port else ()
        spec = ServiceSpec(name, {}, TaskSpec(networks=networks), endpoint_spec=EndpointSpec(mode, ports))
        number = SERVICES.index(ident)
        vips = tuple(VirtualIP(n, f"10.0.{NETWORKS.index(n)}.{number + 2}/24") for n in on) if vip else ()
        return Service(id=ident, spec=spec, endpoint=ServiceEndpoint(spec.endpoint_spec, ports, vips))

    return st.builds(
        made,
        st.sampled_from(SERVICES),
        st.sampled_from(NAMES),
        st.lists(st.sampled_from(NAMES), max_size=2),
        st.lists(st.sampled_from(NETWORKS), unique=True),
        st.sampled_from(["vip", "dnsrr"]),
        st.booleans(),
        st.booleans(),
    )


def records() -> st.SearchStrategy[Located]:
    def made(number: int, owner: str, network: str, service: str, slot: int, state: str, alias: str) -> Located:
        task, ip = f"t{number}", f"10.0.9.{number + 2}"
        aliases = (alias,) if alias else ()
        endpoint = Endpoint(task, task, slot, service, ip, "", f"h{number % 2}", f"c{number}", aliases, state)
        return Located(owner, network, endpoint)

    return st.builds(
        made,
        st.integers(0, 5),
        st.sampled_from(["a", "b"]),
        st.sampled_from(NETWORKS),
        st.sampled_from([*SERVICES, ""]),
        st.integers(0, 2),
        st.sampled_from(["starting", "ready", "draining"]),
        st.sampled_from(["", *NAMES]),
    )


STEP = st.one_of(
    st.tuples(st.just("service"), services()),
    st.tuples(st.just("no service"), st.sampled_from(SERVICES)),
    st.tuples(st.just("record"), records()),
    st.tuples(st.just("no record"), st.integers(0, 5)),
    st.tuples(st.just("network"), st.sampled_from([*NETWORKS, "n3"]), st.sampled_from(["n1", "shop", "NET"])),
    st.tuples(st.just("no network"), st.sampled_from(NETWORKS)),
)


class World:
    def __init__(self) -> None:
        networks = {ident: Network(id=ident, spec=NetworkSpec(name=ident)) for ident in NETWORKS}
        self.assignments = Assignments(networks=networks)
        self.records: dict[str, Located] = {}

    def change(self, step: tuple[Any, ...]) -> None:
        kind, value, *more = step
        found, networks = dict(self.assignments.services), dict(self.assignments.networks)
        if kind == "service":
            found[value.id] = value
        elif kind == "no service":
            found.pop(value, None)
        elif kind == "record":
            self.records.pop(value.endpoint.task, None)
            self.records[value.endpoint.task] = value
        elif kind == "no record":
            self.records.pop(f"t{value}", None)
        elif kind == "network":
            networks[value] = Network(id=value, spec=NetworkSpec(name=more[0]))
        else:
            networks.pop(value, None)
        self.assignments = dataclasses.replace(self.assignments, services=found, networks=networks)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(STEP, st.booleans()), max_size=25), st.sets(st.sampled_from(ATTACHED)))
def test_following_is_making_anew(steps: list[tuple[tuple[Any, ...], bool]], asked: set[tuple[str, ...]]) -> None:
    """After any changes of services, records and networks, zones are those of a world that was always so."""
    world, zones = World(), Zones()
    for step, look in steps:
        world.change(step)
        if look:
            zones.follow(world.assignments, world.records.values())
            for networks in asked:
                zones.for_networks(networks)
    zones.follow(world.assignments, world.records.values())
    fresh = Zones()
    fresh.follow(world.assignments, world.records.values())
    for networks in ATTACHED:
        assert zones.for_networks(networks) == fresh.for_networks(networks), networks


def test_nothing_new_is_the_same_zone() -> None:
    """A world that has not changed has the same zone, not an equal one: who has it need not be told."""
    world, zones = World(), Zones()
    world.change(("record", Located("a", "n1", Endpoint("t0", "t0", 1, "", "10.0.9.2", "", "h", "c", (), "ready"))))
    zones.follow(world.assignments, world.records.values())
    known = zones.for_networks(["n1"])
    zones.follow(world.assignments, world.records.values())
    assert zones.for_networks(["n1"]) is known
    world.change(("no record", 0))
    zones.follow(world.assignments, world.records.values())
    assert zones.for_networks(["n1"]) != known
