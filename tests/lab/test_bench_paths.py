"""`meshnet bench paths` on the running kernel: every path works, and nothing stays behind however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshnet.bench import programs, run, world
from meshnet.bench.proxy import installed
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.testing.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"),
]


def leftovers(pid: int) -> list[str]:
    """What a benchmark of that process left."""
    name = f"bench{pid}"
    places = (cgroup2_root() / "meshnet" / name, Path("/sys/fs/bpf/meshnet") / name)
    return netns.names(f"mn-{name}") + [str(place) for place in places if place.exists()]


def test_every_path_works() -> None:
    """All paths of all tables carry their operations, no meshnet node drops anything, and all is gone at the end."""
    said: list[str] = []
    found = run.run(run.Options(seconds=1.0), said.append)
    for table in found.tables:
        assert table.rounds > 0
        why = {text for row in table.rows for text in row.failures.values()}
        assert why <= {run.TOO_FEW}
    assert found.drops == {}
    assert said[0] == "making namespaces, networks and services"
    assert leftovers(os.getpid()) == []
    titles = {row.title for table in found.tables for row in table.rows}
    assert ("HAProxy beside the client" in titles) == bool(installed())


def test_no_closed_connection_waits() -> None:
    """A connection that is closed gives its port back at once: the last of a long run costs what the first one did."""
    program = (
        "import socket; server = socket.create_server(('127.0.0.1', 7000)); "
        "client = socket.create_connection(('127.0.0.1', 7000)); accepted, _ = server.accept(); "
        "client.close(); accepted.recv(1); accepted.close(); print(open('/proc/self/net/sockstat').read())"
    )
    with world.world() as made:
        made.make(["alone"])
        command = ["ip", "netns", "exec", made.space("alone"), sys.executable, "-c", program]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert " tw 0 " in said


def start() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "meshnet.cli", "bench", "paths", "--seconds", "50", "--table", "overlay-local"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Overlay"):  # the prober runs
            return process
    raise AssertionError("it does not measure")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it at once, and take everything away."""
    with start() as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 128 + number, errors
        assert errors.endswith("meshnet: interrupted; what was made is removed\n")
        assert leftovers(process.pid) == []


def test_killed_its_remains_are_swept() -> None:
    """What a killed benchmark left is removed by the next."""
    with start() as process:
        process.kill()
        process.communicate(timeout=10)
    assert leftovers(process.pid) != []
    assert f"bench{process.pid}" in world.sweep()
    wait_until(lambda: leftovers(process.pid) == [])


def test_programs_are_counted() -> None:
    """On a local overlay path one program runs for each packet: twice for a request and its answer, and nothing else;
    afterwards nobody's programs are measured any more."""
    before = Path("/proc/sys/kernel/bpf_stats_enabled").read_text()
    for _ in range(3):  # a processor that was taken away in the middle of a run counts as its time
        found = programs.run(("overlay-local",), 0.1, lambda text: None)
        (request,) = (each for each in found if (each.title, each.operation) == ("meshnet", "request"))
        (share,) = (share for share in request.shares if share.program != "meshnet_connect4")
        assert (share.node, share.program) == ("a", "endpoint")
        assert share.runs == pytest.approx(2, abs=0.1)
        if share.ns < 10000:
            break
    assert 10 < share.ns < 10000
    assert not any(each.title == "plain veth pair" for each in found)
    assert Path("/proc/sys/kernel/bpf_stats_enabled").read_text() == before
    assert leftovers(os.getpid()) == []
