"""`meshnet bench scale` on the running kernel: few services go all the ways that many go, and nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshnet.bench import result, run, scale, world
from meshnet.bench.scale_result import CHANGES
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


def test_every_way_works() -> None:
    """Services are asked on all ways, no node drops anything, programming and memory are measured, all is gone."""
    said: list[str] = []
    found = scale.run_scale(scale.Options(services=(2, 5), seconds=1.0, times=1), said.append)
    assert [table.key for table in found.tables] == ["kernel", "direct", "socket", "packet", "published"]
    for table in found.tables:
        assert table.rounds > 0
        assert table.operations.keys() == {"request", "connect"}
        why = {text for row in table.rows for text in row.failures.values()}
        assert why <= {run.TOO_FEW}
    assert found.drops == {}
    assert found.scale is not None
    assert [(each.services, each.change) for each in found.scale.programming] == [
        (services, change) for services in (2, 5) for change in CHANGES
    ]
    assert all(0 < each.cpu < 5 for each in found.scale.programming)
    few, more = found.scale.memory
    assert few.maps["services"] < more.maps["services"]
    assert few.pss > 0
    assert "programming 5 services: 1 of 1" in said
    assert leftovers(os.getpid()) == []


def test_what_it_writes(tmp_path: Path) -> None:
    """The command prints its tables, and writes JSON that it can be compared with, and a page."""
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    command = [sys.executable, "-m", "meshnet.cli", "bench", "scale", "--quick", "--seconds", "1"]
    command += ["--services", "2", "--services", "3", "--json", str(file), "--html", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "VIP at the socket" in done.stdout
    assert result.load(file).scale is not None
    assert "3 services, all in turn" in page.read_text()


def start(word: str) -> subprocess.Popen[str]:
    """A benchmark that has come to where it says this."""
    command = [sys.executable, "-m", "meshnet.cli", "bench", "scale", "--services", "2", "--services", "5"]
    process = subprocess.Popen([*command, "--seconds", "15"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(word):
            return process
    raise AssertionError(f"it does not say {word}")


@pytest.mark.parametrize("word", ["programming 5", "VIP at the socket"])
def test_interrupted_it_leaves_nothing(word: str) -> None:
    """Ctrl-C ends it at once, while it programs and while it measures, and takes everything away."""
    with start(word) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130, errors
        assert leftovers(process.pid) == []


def test_killed_its_remains_are_swept() -> None:
    """What a killed benchmark left, its processes too, is removed by the next."""
    with start("VIP at the socket") as process:
        process.kill()
        process.communicate(timeout=10)
    assert leftovers(process.pid) != []
    assert f"bench{process.pid}" in world.sweep()
    wait_until(lambda: leftovers(process.pid) == [])
