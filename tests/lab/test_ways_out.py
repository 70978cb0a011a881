"""What a task reaches beyond its networks: the world through its node, published ports from inside; or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from places import CLIENT, NODES, address, box, hostnames, settled
from places import LAB as PLACES
from probes import Probe, beside, inside, on

from meshnet import names
from meshnet.kernel import netns
from meshnet.sandbox.programs import whoami
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = PLACES
WORLD = 7000


@pytest.fixture(scope="module", autouse=True)
def services(lab: LabUnderTest) -> Iterator[None]:
    """A box on a network with a way out, one on two networks, one on an internal network; and a server outside."""
    lab.network("demo")
    lab.network("closed", internal=True)
    box(lab, "open", "docker-1", "demo")
    box(lab, "mixed", "docker-1", "closed", "demo")
    box(lab, "shut", "docker-1", "closed")
    box(lab, "shut-too", "docker-2", "closed")
    lab.service("whoami", replicas=3, networks=["demo"], ports=["8000:8000", "8000:8000/udp"])
    settled(lab, "whoami", 3)
    program = [sys.executable, "-ISE", str(Path(whoami.__file__))]
    environment = {**os.environ, "PORT": str(WORLD)}
    start = netns.run_in(names.node_netns(lab.name, "client"), lambda: subprocess.Popen(program, env=environment))
    with start as server:
        with on(lab, "docker-0") as probe:
            lab.wait_until(lambda: probe.ask(CLIENT, WORLD)[0][0], what="the server outside")
        yield
        server.kill()


@pytest.fixture(params=[inside, beside], ids=["socket", "packet"])
def open_box(request: pytest.FixtureRequest, lab: LabUnderTest) -> Iterator[Probe]:
    with request.param(lab, "open.1") as probe:
        yield probe


def test_a_task_reaches_the_world_as_its_node(lab: LabUnderTest, open_box: Probe) -> None:
    """A task reaches a host outside the swarm through its node, which gives it its own address; TCP, UDP and ping."""
    for task in ("open.1", "mixed.1"):
        with inside(lab, task) as probe:
            assert [seen for _, seen in probe.ask(CLIENT, WORLD, 3)] == 3 * [NODES["docker-1"]], task
    assert [seen for _, seen in open_box.ask(CLIENT, WORLD, 3)] == 3 * [NODES["docker-1"]]
    for size in (5, 1400, 4000):
        ((_, seen, source, echoed),) = open_box.call("udp", host=CLIENT, port=WORLD, size=size)
        assert (seen, source, echoed) == (NODES["docker-1"], CLIENT, size)
    assert f"bytes from {CLIENT}" in lab.task("open.1").out(["ping", "-c", "1", "-W", "10", CLIENT])


@pytest.mark.parametrize("node", ["docker-0", "docker-1", "docker-2"])
def test_a_task_uses_published_ports(lab: LabUnderTest, open_box: Probe, node: str) -> None:
    """A published port of a node is reached from a task, too."""
    answers = open_box.call("ask", host=NODES[node], port=8000, count=3)
    assert {name for name, _ in answers} == hostnames(lab), answers
    answered = open_box.call("udp", host=NODES[node], port=8000, count=3)
    assert {answer[0] for answer in answered} == hostnames(lab), answered


@pytest.mark.parametrize("place", [inside, beside], ids=["socket", "packet"])
def test_an_internal_network_has_no_way_out(lab: LabUnderTest, place: Callable[[LabUnderTest, str], Probe]) -> None:
    """A task that is on an internal network only reaches its network, and nothing else at all."""
    with place(lab, "shut.1") as probe:
        for target in (CLIENT, *NODES.values()):
            assert probe.call("ask", host=target, port=WORLD, patience=0.5) == [["", "ENETUNREACH"]], target
    shut = lab.task("shut.1")
    assert "1 received" in shut.out(["ping", "-c", "1", "-W", "10", address(lab, "shut-too.1", "closed")])
    assert "default" not in shut.out(["ip", "route"])


def test_the_world_does_not_reach_tasks(lab: LabUnderTest) -> None:
    """Neither a client nor a node reaches a task by its address, only by published ports."""
    for host in ("client", "docker-1", "docker-0"):
        with on(lab, host) as probe:
            for task in ("whoami.1", "whoami.2", "whoami.3"):
                ((name, error),) = probe.call("ask", host=address(lab, task), port=8000, patience=0.3)
                assert (name, error != "ECONNREFUSED") == ("", True), (host, task, error)
