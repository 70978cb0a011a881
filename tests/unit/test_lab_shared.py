"""Commands about labs at the same time: what labs have in common on a machine, and what of one lab is started once."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from cli_engine import LAB

from meshnet import names
from meshnet.kernel import netns
from meshnet.lab import cgroups, daemons, down, processes, state, topology, up
from meshnet.lab.processes import Daemon


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has every directory which labs share, and no lab."""
    for name in ("run", "bpf/meshnet", f"cgroup/{cgroups.ROOT}"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(names, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(names, "BPFFS", str(tmp_path / "bpf"))
    for module in (cgroups, down):
        monkeypatch.setattr(module, "cgroup2_root", lambda: tmp_path / "cgroup")
    monkeypatch.setattr(netns, "DIRECTORY", str(tmp_path / "netns"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def there(machine: Path) -> list[bool]:
    return [(machine / name).is_dir() for name in ("run", "bpf/meshnet", f"cgroup/{cgroups.ROOT}")]


def test_a_lab_that_goes_as_another_comes(machine: Path) -> None:
    """A lab that goes down leaves what is shared to one that has just begun to come up; the last one removes it."""
    state.claim(LAB)
    down.down("another-lab")
    assert there(machine) == [True, True, True]
    down.down(LAB.name)
    assert there(machine) == [False, False, False]


def test_a_lab_that_comes_as_the_last_one_goes(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab comes up also if the last other one takes the directory of labs away between two steps of that."""
    makedirs, gone = os.makedirs, list[str]()

    def made(path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        makedirs(path, mode, exist_ok)
        if not gone:
            gone.append(path)
            down.down("another-lab")

    monkeypatch.setattr(os, "makedirs", made)
    state.claim(LAB)
    assert gone == [names.RUN]
    assert state.load(LAB.name).name == LAB.name


def test_one_start_at_a_time(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a lab comes up, nobody else starts what of its nodes does not run yet: two managers would be too many."""
    for module, name in ((up, "check"), (topology, "create"), (daemons, "preload"), (daemons, "write_managers")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(daemons, "write_agents", lambda *_: None)
    monkeypatch.setattr(up, "tokens", lambda _: {})
    monkeypatch.setattr(up, "wait_ready", lambda *_, **__: None)
    spawned = list[str]()

    def spawn(found: list[Daemon]) -> None:
        for node in LAB.nodes:
            directory = os.open(names.node_dir(LAB.name, node.name), os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(directory)
        spawned.extend(f"{one.role} {one.node}" for one in found)

    monkeypatch.setattr(processes, "spawn", spawn)
    up.up(LAB)
    assert spawned == ["manager docker-0", "agent docker-0", "agent docker-1"]
    for node in LAB.nodes:
        with state.turn(LAB.name, node.name):
            pass
