"""The walk: one service on three nodes, asked from a task, from outside and from the nodes themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from places import CLIENT, NODES, address, box, hostnames, pid_of, settled, vip
from probes import Probe, beside, inside, load, looking, on

from meshnet.lab.tasks import find
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
REPLICAS = 3
LOST_PACKET = 0.9  # s: TCP sends a lost SYN again after one second
HEARD = 1.0  # s from a task's end until no node sends new connections to it; about 0.05 on an idle machine


@pytest.fixture(scope="module", autouse=True)
def services(lab: LabUnderTest) -> None:
    """whoami with three replicas on demo, published at 8000, and a box on the same network to ask from."""
    lab.network("demo")
    lab.service("whoami", replicas=REPLICAS, networks=["demo"], ports=["8000:8000"], restart_delay=0)
    box(lab, "box", "docker-0", "demo")


@pytest.fixture(scope="module")
def client(lab: LabUnderTest) -> Iterator[Probe]:
    with on(lab, "client") as probe:
        yield probe


@pytest.fixture(scope="module", params=[inside, beside], ids=["socket", "packet"])
def from_task(request: pytest.FixtureRequest, lab: LabUnderTest, services: None) -> Iterator[Probe]:
    """A prober on a task's network, with VIPs translated at the socket and packet by packet."""
    with request.param(lab, "box.1") as probe:
        yield probe


def restore(lab: LabUnderTest) -> None:
    """Three replicas, each known to each node."""
    lab.scale("whoami", REPLICAS)
    settled(lab, "whoami", REPLICAS)


def await_answers(lab: LabUnderTest, probe: Probe, ip: str, names: set[str], what: str) -> None:
    """Waits until each of `names` has answered a load that runs, from now on."""
    before = looking(probe, ip)["answers"]

    def answered() -> bool:
        answers = looking(probe, ip)["answers"]
        return all(answers.get(name, 0) > before.get(name, 0) for name in names)

    lab.wait_until(answered, what=what)


def test_nodes_are_ready_and_tasks_are_spread(lab: LabUnderTest) -> None:
    """Three nodes are Ready and each runs one of the three tasks."""
    assert {node.status.state for node in lab.engine.nodes()} == {"ready"}
    assert {task.node for task in lab.tasks("whoami")} == set(NODES)


def test_requests_to_the_vip_reach_all_in_turn(lab: LabUnderTest, from_task: Probe) -> None:
    """Consecutive connections to the VIP take the backends in turn, and each sees the client's own address."""
    answers = from_task.ask(vip(lab), count=2 * REPLICAS)
    names = [name for name, _ in answers]
    assert set(names[:REPLICAS]) == set(names[REPLICAS:]) == hostnames(lab)
    assert {seen for _, seen in answers} == {address(lab, "box.1")}


def test_an_open_connection_names_the_vip(lab: LabUnderTest, from_task: Probe) -> None:
    """A program that asks for its peer gets the address that it connected to, on either path."""
    own, peer = from_task.call("dial", name="peer", host=vip(lab), port=8000)
    from_task.call("hang_up", name="peer")
    assert (own, peer) == (address(lab, "box.1"), vip(lab))


def test_the_two_paths(lab: LabUnderTest) -> None:
    """Per packet a connection to a VIP costs one entry at the client's node; at the socket it costs none."""

    def connections() -> int:
        return int(lab.inspect("docker-0", "statistics")["Datapath"]["vip_connection"])

    for place, entries in ((inside, 0), (beside, REPLICAS)):
        before = connections()
        with place(lab, "box.1") as probe:
            probe.ask(vip(lab), count=REPLICAS)
        assert connections() - before == entries, place


def test_a_backend_reaches_itself_through_the_vip(lab: LabUnderTest) -> None:
    """A task that asks its own service is answered by every backend, also by itself, on both paths."""
    for place in (inside, beside):
        with place(lab, "whoami.1") as probe:
            answers = probe.ask(vip(lab), count=REPLICAS)
        assert {name for name, _ in answers} == hostnames(lab), answers


def test_every_node_answers_the_client(lab: LabUnderTest, client: Probe) -> None:
    """Port 8000 of every node reaches all tasks in turn, and the answer names the client's own address."""
    for node, ip in NODES.items():
        answers = client.ask(ip, count=2 * REPLICAS)
        names = [name for name, _ in answers]
        assert set(names[:REPLICAS]) == set(names[REPLICAS:]) == hostnames(lab), (node, answers)
        assert {seen for _, seen in answers} == {CLIENT}, node


def test_a_node_without_a_task_answers_too(lab: LabUnderTest, client: Probe) -> None:
    """Port 8000 of a node that runs none of the tasks reaches the tasks of the others."""
    lab.scale("whoami", 2)
    settled(lab, "whoami", 2)
    (without,) = set(NODES) - {task.node for task in lab.tasks("whoami")}
    answers = client.ask(NODES[without], count=4)
    assert {name for name, _ in answers} == hostnames(lab)
    assert {seen for _, seen in answers} == {CLIENT}
    with on(lab, without) as probe:
        assert {name for name, _ in probe.ask("127.0.0.1", count=2)} == hostnames(lab)
    restore(lab)


@pytest.mark.parametrize("node", NODES)
def test_the_nodes_own_use(lab: LabUnderTest, node: str) -> None:
    """On a node itself, 127.0.0.1:8000 and its own address reach all tasks; so does another node's address."""
    with on(lab, node) as probe:
        for target in ("127.0.0.1", *NODES.values()):
            answers = probe.ask(target, count=REPLICAS)
            assert {name for name, _ in answers} == hostnames(lab), (target, answers)


def test_a_port_that_is_not_published_is_refused(lab: LabUnderTest, client: Probe) -> None:
    """A node refuses what it does not publish, and a VIP what its backends do not serve, at once."""
    assert client.ask(NODES["docker-1"], 8001) == [("", "ECONNREFUSED")]
    with inside(lab, "box.1") as probe:
        assert probe.ask(vip(lab), 8001) == [("", "ECONNREFUSED")]
        assert probe.ask(address(lab, "whoami.1"), 8001) == [("", "ECONNREFUSED")]


def test_ping(lab: LabUnderTest) -> None:
    """A task's address and a VIP answer to ping, with the address that was asked."""
    asker = lab.task("box.1")
    for target in (vip(lab), *(address(lab, f"whoami.{slot}") for slot in (1, 2, 3))):
        assert f"bytes from {target}" in asker.out(["ping", "-c", "1", "-W", "10", target])


def test_a_port_that_is_used_again(lab: LabUnderTest, client: Probe) -> None:
    """Connections from one port, to one node after the other, meet none of the earlier ones' TIME_WAIT at a task."""
    for hosts in (list(NODES.values()), [NODES["docker-0"]]):
        for source_port in range(30000, 30005):
            slowest, errors = client.call("reuse", hosts=hosts, port=8000, source_port=source_port, count=40)
            assert (errors, slowest < LOST_PACKET) == ([], True), slowest
    for place, source_port in ((inside, 31000), (beside, 32000)):
        with place(lab, "box.1") as probe:
            slowest, errors = probe.call("reuse", hosts=[vip(lab)], port=8000, source_port=source_port, count=100)
            assert (errors, slowest < LOST_PACKET) == ([], True), slowest


@pytest.mark.slow
def test_scaling_while_requests_flow(lab: LabUnderTest, client: Probe) -> None:
    """Scaled to 5 and then to 2, no request fails: through the VIP on both paths, every node's port, 127.0.0.1."""
    with ExitStack() as stack:
        probes = {kind.__name__: stack.enter_context(kind(lab, "box.1")) for kind in (inside, beside)}
        own = stack.enter_context(on(lab, "docker-1"))
        ways = [(name, probe, vip(lab)) for name, probe in probes.items()]
        ways += [(node, client, ip) for node, ip in NODES.items()]
        ways += [("own", own, "127.0.0.1")]
        outcomes = {name: stack.enter_context(load(probe, ip)) for name, probe, ip in ways}
        for replicas in (5, 2):
            lab.scale("whoami", replicas)
            settled(lab, "whoami", replicas)
            names = hostnames(lab)
            for name, probe, ip in ways:
                await_answers(lab, probe, ip, names, f"requests of {name} to {replicas} tasks")
    restore(lab)
    for name, outcome in outcomes.items():
        assert outcome["errors"] == [], name
        assert outcome["slowest"] < LOST_PACKET, f"{name}: a lost packet cost a request {outcome['slowest']} s"


@pytest.mark.slow
def test_a_killed_task_is_replaced(lab: LabUnderTest, client: Probe) -> None:
    """After kill -9 of a task's process another one takes its slot; requests fail only until the nodes have heard."""
    victim = find(lab.spec, "whoami.2")
    pid = pid_of(lab, "whoami.2")
    with inside(lab, "box.1") as one, beside(lab, "box.1") as two, ExitStack() as stack:
        ways = [(one, vip(lab)), (two, vip(lab)), *((client, ip) for ip in NODES.values())]
        outcomes = [stack.enter_context(load(probe, ip)) for probe, ip in ways]
        lab.wait_until(lambda: all(victim.spec.hostname in looking(*way)["answers"] for way in ways))
        os.kill(pid, signal.SIGKILL)
        lab.wait_until(lambda: any(t.node and t.id != victim.id for t in lab.tasks("whoami") if ".2." in t.name))
        settled(lab, "whoami", REPLICAS)
        new = find(lab.spec, "whoami.2").spec.hostname
        for probe, ip in ways:
            await_answers(lab, probe, ip, {new}, "requests to the new task")
    for outcome in outcomes:
        assert outcome["failing"] < HEARD, outcome
        assert outcome["slowest"] < LOST_PACKET, outcome
