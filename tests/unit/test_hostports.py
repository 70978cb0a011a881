"""Ports of a node for single containers: which are asked for, and which are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshnet.agent.hostports import FIRST, PortWish, choose, publisher, taken, with_containers
from meshnet.agent.settings import AgentSettings
from meshnet.agent.standalone import Standalone
from meshnet.api.node.publishing import bindings_of, wishes_of
from meshnet.datapath.rows import EndpointRow, Plan
from meshnet.errors import MeshnetError
from meshnet.model import Assignments, PortConfig, Service, ServiceEndpoint, ServiceSpec, Task


@pytest.mark.parametrize(
    ("bindings", "wishes"),
    [
        ({}, ()),
        ({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, (PortWish("tcp", 80, 8080, 8080),)),
        ({"80": [{"HostIp": "0.0.0.0"}]}, (PortWish("tcp", 80),)),
        ({"53/udp": [{"HostPort": "53"}, {"HostPort": "0"}]}, (PortWish("udp", 53, 53, 53), PortWish("udp", 53))),
        ({"80/tcp": [{"HostPort": "8000-8009"}]}, (PortWish("tcp", 80, 8000, 8009),)),
        ({"80/tcp": None}, ()),
    ],
)
def test_what_is_asked_for(bindings: dict[str, Any], wishes: tuple[PortWish, ...]) -> None:
    """Bindings are read as an engine reads them, and shown again."""
    assert wishes_of(bindings) == wishes
    assert wishes_of(bindings_of(wishes)) == wishes


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"x": [{}]}, 'invalid port specification: "x"'),
        ({"0/tcp": [{}]}, "invalid port specification"),
        ({"70000/tcp": [{}]}, "invalid port specification"),
        ({"80/sctp": [{}]}, "publishing sctp is not served"),
        ({"80/tcp": [{"HostPort": "99999"}]}, 'invalid port specification: "99999"'),
        ({"80/tcp": [{"HostPort": "90-80"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostPort": "-1"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostPort": 80}]}, "HostPort: a string is needed"),
        ({"80/tcp": {"HostPort": "80"}}, "HostConfig.PortBindings.80/tcp: a list of objects is needed"),
        ({"80/tcp": [80]}, "HostConfig.PortBindings.80/tcp: a list of objects is needed"),
        ({"80/tcp": [{"HostPort": "\uff19"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostIp": "127.0.0.1"}]}, "publishing on 127.0.0.1 alone is not served"),
    ],
)
def test_what_cannot_be(bindings: dict[str, Any], words: str) -> None:
    """What is no port, or an address of choice, is refused with what was asked."""
    with pytest.raises(MeshnetError, match=words):
        wishes_of(bindings)


def test_ports_of_containers_of_an_earlier_agent() -> None:
    """They lead there from an agent's first plan on, before it has taken the containers up; not to one that ended."""
    endpoint = EndpointRow(1, "10.0.0.9", "02:42:0a:00:00:09", "id", "/netns", "eth0", "mnt1")
    plan = Plan("node", "172.17.0.2", ingress_vni=1, endpoints=(endpoint,))
    published = (PortConfig("", "tcp", 80, 8080, "host"),)
    agent: Any = SimpleNamespace()
    kept: Any = SimpleNamespace(task=Task(id="id"), published=published)
    one = Standalone(agent, kept)
    assert with_containers(plan, {"id": one}) is plan
    one.taken_up = False
    assert [(row.port, row.backends) for row in with_containers(plan, {"id": one}).published] == [(8080, ("10.0.0.9",))]


def test_ports_that_are_given() -> None:
    """What is free, a port that is asked for before one of a range; another protocol is another port."""
    wishes = (PortWish("tcp", 1, 80, 82), PortWish("tcp", 2, 81, 81), PortWish("udp", 3, 80, 80), PortWish("tcp", 4))
    given = choose(wishes, {("tcp", 80), ("tcp", FIRST)}, "box")
    assert {(port.target_port, port.published_port) for port in given} == {(1, 82), (2, 81), (3, 80), (4, FIRST + 1)}
    with pytest.raises(MeshnetError, match=r"endpoint box: Bind for 0\.0\.0\.0:80 failed: port is already allocated"):
        choose((PortWish("tcp", 1, 80, 80),), {("tcp", 80)}, "box")
    with pytest.raises(MeshnetError, match="already allocated"):
        choose((PortWish("tcp", 1, 80, 80), PortWish("tcp", 2, 80, 80)), (), "box")


def service(ident: str, port: PortConfig) -> Service:
    return Service(id=ident, spec=ServiceSpec(f"name-{ident}"), endpoint=ServiceEndpoint(ports=(port,)))


def test_who_publishes_a_port_here() -> None:
    """A service in ingress mode everywhere, one in host mode where it has a task; a node's resolver keeps its port."""
    services = {
        "s1": service("s1", PortConfig("", "udp", 53, 53)),
        "s2": service("s2", PortConfig("", "tcp", 54, 54, "host")),
        "s3": service("s3", PortConfig("", "tcp", 55, 55, "host")),
    }
    assignments = Assignments(services=services, tasks={"t": Task(id="t", service_id="s2")})
    assert [publisher(assignments, port) for port in (53, 54, 55, 56)] == ["name-s1", "name-s2", "", ""]
    settings = AgentSettings("lab", "n", "172.17.0.2", "/run", resolver=56)
    agent: Any = SimpleNamespace(settings=settings, assignments=assignments, standalones={})
    own: Any = None
    assert {("udp", 53), ("tcp", 54), ("tcp", 56), ("udp", 56)} <= taken(agent, own)
    assert ("tcp", 55) not in taken(agent, own)
