"""`meshnet bench swarm` and `meshnet bench growth` on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest

from meshnet.bench import dockerd, growth, swarm
from meshnet.lab import benchmarks, leftovers, swarmbench
from meshnet.lab.state import up
from meshnet.testing.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"),
]
SIZE = swarm.Size(replicas=2, many=4, services=3, rounds=1)


def test_every_step_is_measured() -> None:
    """meshnet alone goes through all steps, and nothing of the lab is left."""
    with swarmbench.swarm(1) as (socket, _):
        sides = swarm.prepare({swarm.MESHNET: socket})
        swarm.measure(sides, SIZE, lambda text: None)
    found = cast("dict[str, Any]", swarm.summary(sides, SIZE, {}, 0.0))
    assert all(row[swarm.MESHNET][1] > 0 for row in found["measured"].values())
    assert not [lab for lab in up() if lab.startswith(f"bench-{os.getpid()}-")]


def test_dockerd_is_asked_the_same() -> None:
    """A real dockerd goes through all steps in its namespaces, and neither a folder nor a control group is left."""
    if lacking := dockerd.missing():
        pytest.skip(lacking)
    with dockerd.running() as socket:
        sides = swarm.prepare({swarm.DOCKERD: socket})
        swarm.measure(sides, SIZE, lambda text: None)
    assert sides[0].seconds.keys() == swarm.TITLES.keys()
    assert not list(Path(tempfile.gettempdir()).glob("meshnet-dockerd-*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/meshnet-dockerd-{os.getpid()}"))


def test_growth_is_measured() -> None:
    """Lots of services start in both swarms, those of the small one go again, and CPU time is counted."""
    with swarmbench.swarm(1) as grows, swarmbench.swarm(1) as small:
        sides = swarm.prepare({"grows": grows[0], "small": small[0]})
        lots = [growth.Lots(sides[0], grows[1]), growth.Lots(sides[1], small[1])]
        growth.measure(lots[0], lots[1], 2 * growth.LOT, lambda text: None)
        running = lots[0].side.client.get("/tasks")
        assert len(running) == 2 * growth.LOT * growth.TASKS
        assert lots[1].side.client.get("/tasks") == []
    assert all(len(each.wall) == 2 and min(each.cpu) > 0 for each in lots)


def meshnet(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshnet.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_a_killed_benchmark_left_goes_with_the_next() -> None:
    """kill -9 of a benchmark leaves its lab, which `lab ls` shows as what it is; the next benchmark of any kind removes
    it, and says so."""
    command = [sys.executable, "-m", "meshnet.cli", "bench", "growth", "--services", "40"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            next(line for line in process.stderr if "of 40 services" in line)
            names = [lab for lab in up() if lab.startswith(f"bench-{process.pid}-")]
            assert len(names) == 2
            assert all(f"{name} " in meshnet("lab", "ls").stdout for name in names)
            assert not set(names) & set(benchmarks.left())
            assert meshnet("lab", "ls").stdout.count("a benchmark's") >= 2
        finally:
            process.kill()
    wait_until(lambda: not Path(f"/proc/{process.pid}").exists())
    try:
        shown = [line for line in meshnet("lab", "ls").stdout.splitlines() if line.startswith(f"bench-{process.pid}-")]
        assert ["left by a killed benchmark" in line for line in shown] == [True, True]
        assert leftovers.processes(names[0])
        done = meshnet("bench", "programs", "--seconds", "0.1", "--table", "overlay-local")
        assert done.returncode == 0, done.stderr
        (told,) = (
            line for line in done.stderr.splitlines() if line.startswith("removed what killed benchmarks left: ")
        )
        assert set(names) <= set(told.partition(": ")[2].split(", "))
        assert [leftovers.find(name) for name in names] == [[], []]
    finally:
        with contextlib.suppress(Exception):
            benchmarks.remove_left()


def test_what_a_killed_dockerd_left_is_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Folders of processes that have ended go, with what is in them; those of others, and of others' users, stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as process:
        pass
    mine, theirs, link = (tmp_path / f"meshnet-dockerd-{process.pid}-{label}" for label in ("a_b", "x", "link"))
    running = tmp_path / f"meshnet-dockerd-{os.getpid()}-a"
    for each in (mine, theirs, running):
        each.mkdir()
        (each / "log").touch()
    os.chown(theirs, 65534, 65534)
    link.symlink_to(tmp_path)
    assert f"meshnet-dockerd-{process.pid}" in dockerd.sweep()
    assert {each.name for each in tmp_path.iterdir()} == {theirs.name, link.name, running.name}
