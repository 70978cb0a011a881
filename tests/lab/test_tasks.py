"""When a task joins its service and how it leaves: health, draining, and programs from an imported root file system."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from places import CLIENT, LAB, NODES, address, at, backends, box, hostnames, settled, vip
from probes import Probe, beside, inside, load, looking, on

from meshnet.errors import NotFoundError
from meshnet.lab.tasks import find
from meshnet.model import SECOND, Healthcheck
from meshnet.testing.labs import LabUnderTest, bring_up, take_down

pytestmark = pytest.mark.root
PORT = 8000
# Serves until it is told to stop, then no new connections, and ends with its last one.
GRACEFUL = """
import signal, socket, threading
class Stop(Exception): pass
def stop(*_): raise Stop
def serve(c, peer):
    with c:
        while c.recv(4096):
            body = f"I'm {socket.gethostname()}\\n{peer[0]}\\n".encode()
            head = "HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nConnection: keep-alive\\r\\n"
            c.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
signal.signal(signal.SIGTERM, stop)
s = socket.create_server(("", 8000))
try:
    while True:
        threading.Thread(target=serve, args=s.accept()).start()
except Stop:
    s.close()
"""
TINY = Path(__file__).with_name("tiny.c")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    """A lab that has an image of its own, `tiny`: a root file system with one static program."""
    directory = tmp_path_factory.mktemp("tiny")
    root = directory / "root"
    root.mkdir()
    subprocess.run(["clang", "-static", "-O1", "-o", root / "server", TINY], check=True, timeout=60)
    found = bring_up({**LAB, "images": {"tiny": {"rootfs": str(root), "entrypoint": ["/server"]}}}, Path("/"))
    found.network("demo")
    box(found, "box", "docker-0", "demo")
    yield found
    take_down(found)


def ways(lab: LabUnderTest, stack: ExitStack, service: str, port: int) -> dict[str, tuple[Probe, str, int]]:
    """A prober for each kind of way to a service: VIP on both paths, and a node's port."""
    target = vip(lab, service)
    return {
        "socket": (stack.enter_context(inside(lab, "box.1")), target, PORT),
        "packet": (stack.enter_context(beside(lab, "box.1")), target, PORT),
        "published": (stack.enter_context(on(lab, "client")), NODES["docker-2"], port),
    }


def behind(lab: LabUnderTest, service: str, *tasks: str) -> None:
    """Waits until exactly these tasks stand behind a service, on every node that knows it."""
    wanted = {find(lab.spec, task).name for task in tasks}
    lab.wait_until(
        lambda: all(found == wanted for node in NODES for found in backends(lab, node, service)),
        what=f"{tasks or 'nobody'} behind {service}",
    )


def runs(lab: LabUnderTest, task: str) -> bool:
    with contextlib.suppress(NotFoundError):
        return lab.task(task).run("true").returncode == 0
    return False


def test_health_decides(lab: LabUnderTest) -> None:
    """A task takes part once its check succeeds, and no more when it fails; it is replaced, and no request is lost."""
    check = Healthcheck(("CMD-SHELL", "test -e /tmp/fit"), SECOND // 10, SECOND * 5, 2, SECOND * 60)
    lab.service(
        "sick", networks=["demo"], ports=["9000:8000"], replicas=2, healthcheck=check, restart_delay=0, wait=False
    )
    for slot in ("sick.1", "sick.2"):
        lab.wait_until(partial(runs, lab, slot), what=f"{slot} to be started")
    with ExitStack() as stack:
        found = ways(lab, stack, "sick", 9000)
        behind(lab, "sick")
        for probe, ip, port in found.values():
            assert probe.ask(ip, port) == [("", "ECONNREFUSED")]
        lab.task("sick.1").out("touch /tmp/fit")
        behind(lab, "sick", "sick.1")
        first = {find(lab.spec, "sick.1").spec.hostname}
        for probe, ip, port in found.values():
            assert {name for name, _ in probe.ask(ip, port, 4)} == first
        lab.task("sick.2").out("touch /tmp/fit")
        behind(lab, "sick", "sick.1", "sick.2")
        for probe, ip, port in found.values():
            assert {name for name, _ in probe.ask(ip, port, 4)} == hostnames(lab, "sick")
        gone = find(lab.spec, "sick.1").name
        with ExitStack() as loads:
            outcomes = [loads.enter_context(load(probe, ip, port)) for probe, ip, port in found.values()]
            lab.task("sick.1").out("rm /tmp/fit")
            behind(lab, "sick", "sick.2")
            lab.wait_until(lambda: gone not in {task.name for task in lab.tasks("sick")}, what="the sick task's end")
        for outcome in outcomes:
            assert outcome["errors"] == []
    lab.remove("sick")


def test_an_open_connection_is_finished(lab: LabUnderTest) -> None:
    """A task that is to stop gets no new connections, finishes those it has, and ends with the last of them."""
    program = ("/usr/bin/python3", "-ISc", GRACEFUL)
    lab.service(
        "calm",
        "host",
        *program,
        networks=["demo"],
        ports=["9001:8000"],
        constraints=at("docker-1"),
        stop_grace_period=60 * SECOND,
    )
    settled(lab, "calm", 1)
    with ExitStack() as stack:
        found = ways(lab, stack, "calm", 9001)
        for name, (probe, ip, port) in found.items():
            probe.call("dial", name=name, host=ip, port=port)
            assert probe.call("use", name=name)[0] in hostnames(lab, "calm")
        lab.scale("calm", 0, wait=False)
        behind(lab, "calm")
        task = find(lab.spec, "calm.1")
        lab.wait_until(lambda: not listens(lab, "calm.1"), what="the end of listening")
        for name, (probe, ip, port) in found.items():
            assert probe.call("use", name=name)[0] == task.spec.hostname, name
            assert probe.ask(ip, port) == [("", "ECONNREFUSED")], name
            assert probe.call("use", name=name)[0] == task.spec.hostname, name
        assert lab.tasks("calm")
        for name, (probe, _, _) in found.items():
            probe.call("hang_up", name=name)
        lab.wait_until(lambda: not lab.tasks("calm"), what="the end of the task, before its grace period is over")
    lab.remove("calm")


def test_a_client_that_knows_a_task_by_its_address(lab: LabUnderTest) -> None:
    """One that goes on asking the tasks themselves while these are stopped is refused at once, and never cut off."""
    lab.service("named", replicas=6, networks=["demo"], endpoint_mode="dnsrr")
    addresses = [address(lab, task.name) for task in lab.tasks("named")]
    asker, named = lab.task("box.1"), ["dig", "+short", "named"]
    lab.wait_until(lambda: set(asker.out(named).split()) == set(addresses), what="the tasks known where they are asked")
    with ExitStack() as stack:
        probes = [stack.enter_context(inside(lab, "box.1")), stack.enter_context(beside(lab, "box.1"))]
        outcomes = [stack.enter_context(load(probe, ip, PORT)) for probe in probes for ip in addresses]
        for probe in probes:
            for ip in addresses:
                lab.wait_until(partial(has_answered, probe, ip, PORT, 9), what=f"answers of {ip}")
        lab.remove("named")
    errors = Counter(error.partition(" ")[0] for outcome in outcomes for error in outcome["errors"])
    assert set(errors) == {"ECONNREFUSED"}
    assert max(outcome["slowest"] for outcome in outcomes) < 0.9


def listens(lab: LabUnderTest, task: str) -> bool:
    return "LISTEN" in lab.task(task).out("ss -Htln sport = :8000")


def answered(probe: Probe, ip: str, port: int) -> int:
    return sum(looking(probe, ip, port)["answers"].values())


def has_answered(probe: Probe, ip: str, port: int, enough: int) -> bool:
    return answered(probe, ip, port) >= enough


@pytest.mark.slow
def test_replacing_all_tasks_under_load(lab: LabUnderTest) -> None:
    """A service whose tasks are taken away and added again, one by one, never refuses and loses no request."""
    lab.service("rolling", replicas=2, networks=["demo"], ports=["9002:8000"])
    settled(lab, "rolling", 2)
    with ExitStack() as stack:
        found = ways(lab, stack, "rolling", 9002)
        outcomes = {name: stack.enter_context(load(probe, ip, port)) for name, (probe, ip, port) in found.items()}
        for replicas in (4, 1, 3, 1, 2):
            lab.scale("rolling", replicas)
            settled(lab, "rolling", replicas)
            for probe, ip, port in found.values():
                enough = answered(probe, ip, port) + 9
                lab.wait_until(partial(has_answered, probe, ip, port, enough), what=f"answers of {replicas} tasks")
    for name, outcome in outcomes.items():
        assert outcome["errors"] == [], name
        assert outcome["slowest"] < 0.9, name
    lab.remove("rolling")


@pytest.mark.slow
def test_a_forced_update_under_load(lab: LabUnderTest) -> None:
    """`service update --force` replaces all four tasks of a service, one by one, and no request is lost: by the VIP at
    the socket and per packet, and by the ports of two nodes."""
    lab.service("rolled", replicas=4, networks=["demo"], ports=["9004:8000"])
    settled(lab, "rolled", 4)
    before = hostnames(lab, "rolled")
    command = [sys.executable, "-m", "meshnet.cli", "service", "update", "--lab", lab.name, "--force", "rolled"]
    with ExitStack() as stack:
        found = ways(lab, stack, "rolled", 9004)
        found["another node"] = (stack.enter_context(on(lab, "client")), NODES["docker-0"], 9004)
        outcomes = {name: stack.enter_context(load(probe, ip, port)) for name, (probe, ip, port) in found.items()}
        for probe, ip, port in found.values():
            lab.wait_until(partial(has_answered, probe, ip, port, 9), what="answers before the update")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
        assert done.returncode == 0, done.stderr
        settled(lab, "rolled", 4)
        for probe, ip, port in found.values():
            enough = answered(probe, ip, port) + 9
            lab.wait_until(partial(has_answered, probe, ip, port, enough), what="answers of the new tasks")
    after = hostnames(lab, "rolled")
    assert not before & after
    for name, outcome in outcomes.items():
        assert outcome["errors"] == [], name
        assert outcome["slowest"] < 0.9, name
        assert set(outcome["answers"]) == before | after, name
    lab.remove("rolled")


def test_an_imported_root_file_system(lab: LabUnderTest) -> None:
    """A task runs from a root file system that has nothing but one static program; VIP, port and names work."""
    lab.service("tiny", "tiny", replicas=2, networks=["demo"], ports=["9003:8000"])
    settled(lab, "tiny", 2)
    with ExitStack() as stack:
        for name, (probe, ip, port) in ways(lab, stack, "tiny", 9003).items():
            answers = probe.ask(ip, port, 2)
            assert {host for host, _ in answers} == hostnames(lab, "tiny"), name
            assert {seen for _, seen in answers} == {CLIENT if name == "published" else address(lab, "box.1")}
    assert lab.task("tiny.1").run(["/bin/sh"]).returncode != 0
    lab.remove("tiny")
