"""Whatever happens to a lab, `down` leaves nothing of it; counted by the kernel's own numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from census import Census, of_the_host

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.lab import down, file, impair, leftovers, nodes, state, topology, up
from meshnet.lab.spec import Lab
from meshnet.testing.labs import LabUnderTest, bring_up
from meshnet.testing.waiting import wait_until

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]


@pytest.fixture
def host_untouched() -> Iterator[None]:
    before = of_the_host()
    yield
    assert of_the_host() == before


@pytest.fixture
def busy(host_untouched: None) -> Iterator[LabUnderTest]:
    """A lab with networks, published ports, names, commands that run in it and a node that has been killed."""
    lab = bring_up("labs/quickstart", ROOT)
    try:
        for network in ("one", "two"):
            lab.network(network)
        lab.service("whoami", replicas=3, networks=["one", "two"], ports=["8000:8000"], wait=False)
        lab.service("sleep", "alpine", "sh", "-c", "trap '' TERM; while :; do sleep 3; done", networks=["one"])
        lab.converged("whoami")
        lab.client().out("curl -s http://172.17.0.3:8000")
        lab.task("sleep.1").out("(setsid sleep 271828 >/dev/null 2>&1 </dev/null &)")
        yield lab
    finally:
        down.down(lab.name)


def test_up_and_down(busy: LabUnderTest) -> None:
    """After up, work and down no process, namespace, link, pin, program, map, group, mount, file or rule is left."""
    census = Census.take(busy.name)
    assert len(census.programs) >= 3 * 5
    assert len(census.maps) >= 3 * 10
    assert len(census.processes) >= 4 + 2 * 4
    assert len(census.namespaces) >= 5 + 4
    assert census.remains() != []
    down.down(busy.name)
    census.assert_gone()


def test_after_kill_9_of_everything(busy: LabUnderTest) -> None:
    """The same after kill -9 of every process of the lab."""
    census = Census.take(busy.name)
    for pid in census.processes:
        with contextlib.suppress(ProcessLookupError):  # short commands of tasks come and go
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not leftovers.processes(busy.name))
    down.down(busy.name)
    census.assert_gone()


def test_after_kill_of_nodes(busy: LabUnderTest) -> None:
    """The same after nodes were killed, one of them the manager's."""
    census = Census.take(busy.name)
    for node in ("docker-1", "docker-0"):
        nodes.kill(busy.spec, node)
    down.down(busy.name)
    census.assert_gone()


def quickstart(name: str) -> Lab:
    return dataclasses.replace(file.load(ROOT / "labs/quickstart"), name=name)


@pytest.mark.parametrize(
    ("kind", "port", "role"),
    [(socket.SOCK_DGRAM, 7946, "agent"), (socket.SOCK_STREAM, 7946, "agent"), (socket.SOCK_STREAM, 2377, "manager")],
)
def test_a_failed_up(host_untouched: None, monkeypatch: pytest.MonkeyPatch, kind: int, port: int, role: str) -> None:
    """When a port of a node is taken, up says which of its programs ended and why, and leaves nothing."""
    lab = quickstart(f"f{os.getpid()}-{kind}-{port}")
    taken: list[socket.socket] = []
    seen: list[Census] = []

    def take(_: Lab) -> None:
        taken.append(netns.socket_in(names.node_netns(lab.name, "docker-0"), socket.AF_INET, kind))
        taken[0].bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            taken[0].listen()
        seen.append(Census.take(lab.name))

    monkeypatch.setattr(impair, "apply", take)
    with pytest.raises(MeshnetError, match=f"the {role} of docker-0 ended: .*{port}"):
        up.up(lab)
    taken[0].close()
    seen[0].assert_gone()


def began(line: str) -> Callable[[str, str], bool]:
    return lambda _, said: line in said


MOMENTS: dict[str, Callable[[str, str], bool]] = {
    "claimed": lambda lab, _: os.path.isdir(names.lab_dir(lab)),
    "namespaces": lambda lab, _: netns.exists(names.underlay_netns(lab)),
    "wired": began("wiring"),
    "starting": began("starting"),
    "waiting": began("nodes ready"),
    "pins": lambda lab, _: os.path.isdir(f"{names.BPFFS}/meshnet/{lab}"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_interrupted_up(host_untouched: None, tmp_path: Path, moment: str, number: int) -> None:
    """Ctrl-C in the middle of up takes back what was made; after any other end, down does."""
    name = f"i{os.getpid()}-{moment}"
    text = (ROOT / "labs/quickstart/lab.yml").read_text().replace("name: quickstart", f"name: {name}")
    (tmp_path / "lab.yml").write_text(text)
    output = tmp_path / "output"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshnet.cli", "lab", "up", str(tmp_path)], stdout=stream, stderr=stream
        )
    wait_until(lambda: MOMENTS[moment](name, output.read_text()) or process.poll() is not None, 20, interval=0.0005)
    process.send_signal(number)
    code = process.wait(20)
    if number != signal.SIGINT and code:
        down.down(name)
    assert code in (0, 130, -number), output.read_text()
    if code == 0:  # it was faster
        assert "is up" in output.read_text()
        down.down(name)
    assert "Traceback" not in output.read_text()
    Census.take(name).assert_gone()


def test_a_name_that_begins_another(host_untouched: None) -> None:
    """What is left of lab `x` is not confused with lab `x-docker-9`, whose names begin with the same letters."""
    one, other = quickstart(f"n{os.getpid()}"), quickstart(f"n{os.getpid()}-docker-9")
    try:
        for lab in (one, other):
            state.claim(lab)
            topology.create(lab)
        down.down(one.name)
        assert leftovers.find(one.name) == []
        assert len([line for line in leftovers.find(other.name) if line.startswith("namespace")]) == 5
    finally:
        down.down(one.name)
        down.down(other.name)
    assert leftovers.find(other.name) == []
