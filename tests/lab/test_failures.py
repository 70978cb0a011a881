"""What breaks, and who notices: an agent, a manager, a node, each killed while requests flow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from places import LAB as PLACES
from places import NODES, at, backends, box, hostnames, pid_of, settled, vip
from probes import Probe, beside, inside, load, looking, on
from pulse import Pulse

from meshnet.lab import daemons, nodes, processes
from meshnet.lab.tasks import find
from meshnet.model import SECOND
from meshnet.testing.labs import LabUnderTest

pytestmark = [pytest.mark.root, pytest.mark.slow]
LAB = PLACES
LOST_PACKET = 0.9  # s: TCP sends a lost SYN again after one second
NOTICED = 3.0  # s in which a node that was cut off must be out of everyone's sight; about 1.5 on an idle machine
SILENCE = 1.5  # s in which a killed backend must be out of the way of datagrams; 0.2 is one lost datagram
MISSED = 40.0  # s in which the manager must have missed a node's heartbeats and started its tasks elsewhere


@pytest.fixture(scope="module", autouse=True)
def services(lab: LabUnderTest) -> None:
    lab.network("demo")
    lab.service("whoami", replicas=3, networks=["demo"], ports=["8000:8000", "8000:8000/udp"], restart_delay=0)
    box(lab, "box", "docker-1", "demo")
    settled(lab, "whoami", 3)


class Ways:
    """Every way to the service, with a prober each; the box is on docker-1."""

    def __init__(self, lab: LabUnderTest, stack: ExitStack) -> None:
        client, task, raw = (
            stack.enter_context(p) for p in (on(lab, "client"), inside(lab, "box.1"), beside(lab, "box.1"))
        )
        self.all: dict[str, tuple[Probe, str]] = {"socket": (task, vip(lab)), "packet": (raw, vip(lab))}
        self.all |= {node: (client, ip) for node, ip in NODES.items()}

    @contextmanager
    def loaded(self, lab: LabUnderTest) -> Iterator[dict[str, dict[str, Any]]]:
        """New connections on every way, and one kept open on each, while the block runs; outcomes as `load`'s."""
        outcomes: dict[str, dict[str, Any]] = {}
        with ExitStack() as stack:
            for name, (probe, ip) in self.all.items():
                for keep in (False, True):
                    outcomes[f"{name}{'-kept' * keep}"] = stack.enter_context(load(probe, ip, keep=keep))
            self.flow(lab)
            yield outcomes
            self.flow(lab)

    def flow(self, lab: LabUnderTest) -> None:
        """Waits until more requests have been answered on every way."""
        before = self._answered()
        lab.wait_until(lambda: all(n > before[way] + 5 for way, n in self._answered().items()), what="more answers")

    def _answered(self) -> dict[tuple[str, bool], int]:
        return {
            (name, keep): sum(looking(probe, ip, keep=keep)["answers"].values())
            for name, (probe, ip) in self.all.items()
            for keep in (False, True)
        }


@pytest.fixture
def ways(lab: LabUnderTest) -> Iterator[Ways]:
    with ExitStack() as stack:
        yield Ways(lab, stack)


def kill_9(lab: LabUnderTest, node: str, role: str) -> None:
    """Ends an agent or manager in the middle of whatever it does."""
    for pid in processes.pids(lab.name, node, role):
        os.kill(pid, signal.SIGKILL)
    lab.wait_until(lambda: not processes.alive(lab.name, node, role))


@contextmanager
def patient(lab: LabUnderTest) -> Iterator[None]:
    """The manager waits for agents as long as outside of labs (15 s): what follows may take more than the three seconds
    of a lab on a busy machine."""

    def beat(period: int) -> int:
        found = lab.engine.get("/swarm")
        before: int = found["Spec"]["Dispatcher"]["HeartbeatPeriod"]
        spec = {**found["Spec"], "Dispatcher": {"HeartbeatPeriod": period}}
        lab.engine.post("/swarm/update", spec, version=found["Version"]["Index"])
        return before

    before = beat(5 * SECOND)
    try:
        yield
    finally:
        beat(before)


def no_failure(outcomes: dict[str, dict[str, Any]]) -> None:
    for way, outcome in outcomes.items():
        assert outcome["errors"] == [], way
        assert outcome["slowest"] < LOST_PACKET, f"{way}: a request took {outcome['slowest']} s"


def reaches_all(lab: LabUnderTest, probe: Probe, ip: str, everyone: set[str]) -> None:
    """New connections are answered by each of these; the load takes turns, too, so a few in a row may miss one."""
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(name for name, _ in probe.ask(ip))
        assert seen <= everyone
        return seen == everyone

    lab.wait_until(all_seen, what="an answer of each backend")


def identities(lab: LabUnderTest) -> dict[str, str]:
    """The tasks that run, with their nodes."""
    return {task.id: task.node for task in lab.tasks()}


@pytest.mark.parametrize("node", ["docker-1", "docker-2"])
def test_an_agent_killed_and_restarted(lab: LabUnderTest, ways: Ways, node: str) -> None:
    """kill -9 of an agent and its restart cost no request, no open connection and no task; names come back."""
    before = identities(lab)
    with patient(lab), ways.loaded(lab) as outcomes:
        kill_9(lab, node, daemons.AGENT)
        ways.flow(lab)
        nodes.start(lab.spec, node)
        settled(lab, "whoami", 3)
    no_failure(outcomes)
    assert identities(lab) == before
    assert vip(lab) in lab.task("box.1").out("dig +short +time=2 @127.0.0.11 whoami")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_stays_away(lab: LabUnderTest, ways: Ways, number: signal.Signals) -> None:
    """When an agent is given up for dead, its node's tasks and ports go on: clients there, kept connections, its port.

    Without a manager, which would start the node's tasks elsewhere.
    """
    virtual, everyone = vip(lab), hostnames(lab)
    away = {task.name: task.spec.hostname for task in lab.tasks("whoami") if task.node == "docker-1"}
    there = {task.name for task in lab.tasks("whoami")} - away.keys()
    with inside(lab, "box.1") as own, beside(lab, "box.1") as raw, ways.loaded(lab) as outcomes:
        kill_9(lab, "docker-0", daemons.MANAGER)
        (pid,) = processes.pids(lab.name, "docker-1", daemons.AGENT)
        os.kill(pid, number)
        lab.wait_until(
            lambda: all(tasks == there for tasks in backends(lab, "docker-2", "whoami")), what="plans without the dead"
        )
        for probe, ip in ((own, virtual), (raw, virtual), (ways.all["docker-1"][0], NODES["docker-1"])):
            reaches_all(lab, probe, ip, everyone)
        ways.flow(lab)
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        with ThreadPoolExecutor(1) as other:
            manager = other.submit(nodes.start, lab.spec, "docker-0")
            lab.wait_until(lambda: processes.alive(lab.name, "docker-0", daemons.MANAGER), what="the manager to run")
            if number == signal.SIGKILL:  # without waiting for more: the manager waits three heartbeats for the agent
                nodes.start(lab.spec, "docker-1")
            manager.result()
        settled(lab, "whoami", 3)
    no_failure(outcomes)
    assert hostnames(lab) == everyone


def test_what_changed_while_an_agent_was_away(lab: LabUnderTest, ways: Ways) -> None:
    """An agent that comes back learns of the tasks that came and went meanwhile."""
    kill_9(lab, "docker-1", daemons.AGENT)
    lab.scale("whoami", 2, wait=False)
    # Not until it counts as running: that waits for the agent that is away, and the manager not as long for its node.
    lab.service("later", networks=["demo"], constraints=at("docker-2"), wait=False)
    lab.wait_until(lambda: any(backends(lab, "docker-2", "later")), what="a plan with what is new")
    nodes.start(lab.spec, "docker-1")
    settled(lab, "whoami", 2)
    settled(lab, "later", 1, "docker-1")
    for name in ("socket", "packet"):
        probe, _ = ways.all[name]
        assert {name for name, _ in probe.ask(vip(lab, "later"))} == hostnames(lab, "later")
        assert {name for name, _ in probe.ask(vip(lab), count=4)} == hostnames(lab)
    lab.remove("later")
    lab.scale("whoami", 3)
    settled(lab, "whoami", 3)


def test_a_manager_killed_and_restarted(lab: LabUnderTest, ways: Ways) -> None:
    """Without its manager traffic goes on; a manager that comes back knows everything and replaces nothing."""
    before = identities(lab)
    services = {service.id: service.endpoint.virtual_ips for service in lab.engine.services()}
    with ways.loaded(lab) as outcomes:
        kill_9(lab, "docker-0", daemons.MANAGER)
        ways.flow(lab)
        nodes.start(lab.spec, "docker-0")
        assert {service.id: service.endpoint.virtual_ips for service in lab.engine.services()} == services
        lab.scale("whoami", 4)
        settled(lab, "whoami", 4)
        lab.scale("whoami", 3)
        settled(lab, "whoami", 3)
    no_failure({way: outcome for way, outcome in outcomes.items() if not way.endswith("-kept")})
    assert len(before.items() & identities(lab).items()) >= len(before) - 1  # which one scaling ends is its choice


def test_datagrams_while_a_backend_is_killed(lab: LabUnderTest, ways: Ways) -> None:
    """When a task is killed, datagrams are soon answered by the others again, on every way and by every kind of socket:
    one for each datagram, one for all, and a connected one, which nobody tells."""
    kinds = {"fresh": ("udp", False), "kept": ("udp", True), "connected": ("connected", True)}
    before = hostnames(lab)
    loads = {
        f"{way}, {name}": (probe, ip, kind, keep)
        for way, (probe, ip) in ways.all.items()
        for name, (kind, keep) in kinds.items()
    }

    def answered() -> dict[str, int]:
        """Answers so far, by load."""
        return {
            name: sum(looking(probe, ip, keep=keep, kind=kind)["answers"].values())
            for name, (probe, ip, kind, keep) in loads.items()
        }

    with ExitStack() as stack:
        outcomes = {
            name: stack.enter_context(load(probe, ip, keep=keep, kind=kind))
            for name, (probe, ip, kind, keep) in loads.items()
        }
        for victim in ("whoami.1", "whoami.2", "whoami.3"):  # so the backend of every socket is killed once
            lab.wait_until(lambda: min(answered().values()) > 20, what="answers on all ways")
            host = find(lab.spec, victim).spec.hostname
            os.kill(pid_of(lab, victim), signal.SIGKILL)
            lab.wait_until(partial(lambda old: old not in hostnames(lab), host), what=f"the end of {victim}")
            settled(lab, "whoami", 3)
            total = answered()
            lab.wait_until(partial(_grown, answered, total), what=f"answers on all ways without {victim}")
    assert not before & hostnames(lab)
    for name, outcome in outcomes.items():
        errors = outcome["errors"]
        print(f"{name}: {sum(outcome['answers'].values())} answers, {len(errors)} lost, {outcome['longest']:.2f} s")
        assert outcome["longest"] < SILENCE, f"{name}: {errors}"
        assert len(outcome["answers"]) >= 2, f"{name}: {outcome['answers']}"


def _grown(answered: Callable[[], dict[str, int]], before: dict[str, int]) -> bool:
    return all(count > before[name] + 20 for name, count in answered().items())


def test_a_killed_node(lab: LabUnderTest, ways: Ways) -> None:
    """New connections avoid a killed node within seconds; its tasks start elsewhere and stay when it returns."""
    lost = {task.spec.hostname for task in lab.tasks("whoami") if task.node == "docker-2"}
    assert lost
    living = ["docker-0", "docker-1"]
    del ways.all["docker-2"]

    def avoided() -> bool:
        rounds = [probe.call("ask", host=ip, port=8000, count=3, patience=0.2) for probe, ip in ways.all.values()]
        return all(name for answers in rounds for name, _ in answers)

    with on(lab, "client") as patient, Pulse() as pulse, ThreadPoolExecutor(1) as other:
        nodes.kill(lab.spec, "docker-2")
        begin = time.monotonic()
        turns = other.submit(patient.call, "ask", host=NODES["docker-0"], port=8000, count=3, patience=9.0)
        lab.wait_until(avoided, what="connections that avoid the killed node")
        noticed = pulse.moved(begin, time.monotonic())
        # What was on its way there goes elsewhere when TCP asks again, a second later.
        assert "" not in {name for name, _ in turns.result()}
    print(f"a killed node was avoided after {noticed:.2f} s")
    with ways.loaded(lab) as outcomes:
        lab.wait_until(
            lambda: len([t for t in lab.tasks("whoami") if t.node in living]) == 3, MISSED, what="tasks elsewhere"
        )
        lab.wait_until(lambda: all(len(tasks) == 3 for node in living for tasks in backends(lab, node, "whoami")))
        elsewhere = {task.id: task.node for task in lab.tasks("whoami") if task.node in living}
        nodes.start(lab.spec, "docker-2")
        lab.wait_until(lambda: identities(lab).items() >= elsewhere.items() and len(lab.tasks("whoami")) == 3)
        settled(lab, "whoami", 3)
    no_failure(outcomes)
    assert noticed < NOTICED
    assert {task.id: task.node for task in lab.tasks("whoami")} == elsewhere
    with on(lab, "client") as client:
        assert {name for name, _ in client.ask(NODES["docker-2"], count=3)} == hostnames(lab)
