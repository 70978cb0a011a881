"""`meshnet bench vip-vs-dnsrr` on the running kernel: clients live through what they should, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshnet.bench import modes_run, result, wrk
from meshnet.bench.modes import DNSRR, VIP, WORKERS
from meshnet.bench.modes_result import Event, Lived, Modes
from meshnet.bench.result import Result
from meshnet.lab import leftovers, modesbench

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"),
]
TRIES = 3
BOUND = 1.5  # s after a kill, from which no new connection through a VIP may fail: agents need some ms, and a CPU


def lab_of(pid: int) -> str:
    """The lab of that process's benchmark."""
    return f"bench-{pid}-modes"


@pytest.fixture(scope="module")
def found() -> Result:
    """A short run of most of it."""
    return short_run("rates", "latency", "drain", "kill")


def short_run(*tables: str) -> Result:
    with modesbench.ground(WORKERS) as ground:
        return modes_run.run(ground, modes_run.Options(2.0, tables), lambda text: None)


def modes_of(found: Result) -> Modes:
    assert found.modes is not None
    return found.modes


def event(found: Result, key: str) -> Event:
    return next(each for each in modes_of(found).events if each.key == key)


def lived(found: Event, mode: str, policy: str = "") -> list[Lived]:
    rows = [each for each in found.lived if each.mode == mode and policy in ("", each.policy)]
    assert rows
    return rows


def long_lost(*clients: Lived) -> list[Lived]:
    """Those that met errors for too long. A machine that stood still does that, too, but not each time."""
    return [
        each
        for each in clients
        if (each.timeline.last_error or 0.0) >= BOUND or each.timeline.failed >= 0.1 * each.timeline.requests
    ]


def test_every_client_is_answered(found: Result) -> None:
    """All rates and waits are measured and nothing fails; who asks for every connection asks as often as that."""
    (table,) = found.tables
    why = {text for row in table.rows for text in row.failures.values()}
    assert why <= {modes_run.TOO_FEW}
    assert [each.key for each in modes_of(found).events] == ["drain", "kill"]
    waits = modes_of(found).waits
    assert len(waits) == 6
    assert [each.failed for each in waits] == [0] * 6
    assert {each.asked > 500 for each in waits if "every connection" in each.title} == {True}
    assert {each.asked < 50 for each in waits if "every connection" not in each.title} == {True}
    assert bool(modes_of(found).wrk) == wrk.installed()


def test_a_vip_reaches_all_backends_evenly(found: Result) -> None:
    """Connections through a VIP go to all three backends in turn: more evenly than chance would have it."""
    shares = [
        each.sharing for each in modes_of(found).shares if each.title.startswith("VIP") and "once" in each.connections
    ]
    assert len(shares) == 2
    for one in shares:
        assert one.backends == 3
        assert one.least > 0.31
        assert one.chi2 < 0.25  # 1 by chance; what is on its way when a slice ends is not counted


def test_a_drained_backend_loses_no_request(found: Result) -> None:
    """While a backend is drained nobody who asks a VIP sees an error, nor who asks dnsrr's name each time; who keeps
    its address goes on to ask it."""
    drain = event(found, "drain")
    assert [each for each in lived(drain, VIP) if each.timeline.failed] == []
    assert [each for each in lived(drain, DNSRR, "each") if each.timeline.failed] == []
    kept = next(each for each in lived(drain, DNSRR, "600") if each.connections == "new")
    assert kept.timeline.failed > 0.1 * kept.timeline.requests


@pytest.mark.timeout(120)
def test_a_killed_backend_is_left_at_once_through_a_vip(found: Result) -> None:
    """Who keeps addresses of dnsrr asks the dead one until the end; through a VIP there are no errors after a bounded
    time, and the backend that comes in its place is met."""
    kill = event(found, "kill")
    for _ in range(TRIES - 1):
        if not long_lost(*lived(kill, VIP)):
            break
        kill = event(short_run("kill"), "kill")
    assert long_lost(*lived(kill, VIP)) == []
    for each in lived(kill, VIP):
        assert (each.timeline.first_new is not None) == (each.connections == "new"), each
    for policy in ("600", "once"):
        kept = next(each for each in lived(kill, DNSRR, policy) if each.connections == "new")
        assert kept.timeline.failed > 0.15 * kept.timeline.requests
        assert kept.timeline.last_error is not None
        assert kept.timeline.last_error > kill.seconds - 1
        assert kept.timeline.first_new is None


@pytest.mark.timeout(150)
def test_a_lost_node_and_what_the_command_writes(tmp_path: Path) -> None:
    """Clients that ask for names, and those of a VIP, are sent to a lost node for a bounded time; the command prints
    it, and writes JSON that can be compared with, and a page; then its lab is gone."""
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    command = [sys.executable, "-m", "meshnet.cli", "bench", "vip-vs-dnsrr", "--table", "node"]
    command += ["--json", str(file), "--html", str(page)]
    for _ in range(TRIES):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "A node is lost with its backends" in out
        assert "FIRST ON NEW" in page.read_text()
        assert leftovers.find(lab_of(process.pid)) == []
        node = event(result.load(file), "node")
        late = [
            each
            for each in [*lived(node, VIP), *lived(node, DNSRR, "each")]
            if (each.timeline.last_error or 0.0) >= BOUND
        ]
        if not late:
            break
    assert late == []


@pytest.mark.parametrize("word", ["starting a swarm", "latency: 10 %", "A backend is added"])
def test_interrupted_it_leaves_nothing(word: str) -> None:
    """Ctrl-C ends it at once, while the lab comes up, while it measures and in an event, and takes everything away."""
    command = [sys.executable, "-m", "meshnet.cli", "bench", "vip-vs-dnsrr", "--seconds", "10"]
    table = "add" if "added" in word else "latency"
    with subprocess.Popen(
        [*command, "--table", table], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith(word) for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGINT, errors
        assert errors.endswith("meshnet: interrupted; what was made is removed\n")
    assert leftovers.find(lab_of(process.pid)) == []
