"""One node of a lab that is up: what is said of one that runs and is in no swarm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_engine import LAB, answering, meshnet

from meshnet import names
from meshnet.errors import NotFoundError
from meshnet.lab import daemons, nodes, processes, tasks, topology
from meshnet.lab.processes import Daemon
from meshnet.lab.spec import Lab, LabNode
from meshnet.lab.tasks import LabTask


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both nodes of a lab run and are connected."""
    answering(monkeypatch, {})
    monkeypatch.setattr(names, "RUN", str(tmp_path))
    for node in LAB.nodes:
        Path(names.node_dir(LAB.name, node.name)).mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(daemons, "of_node", lambda lab, node: [Daemon(lab.name, node.name, "agent", lambda: None)])
    monkeypatch.setattr(processes, "alive", lambda *_: True)
    monkeypatch.setattr(topology, "is_plugged", lambda *_: True)


JOIN = "let it join with what this says: meshnet swarm join-token worker --node docker-0"


@pytest.mark.parametrize(
    ("node", "out", "said"),
    [
        ("docker-1", True, f"; docker-1 is in no swarm: it left, or was removed; {JOIN}"),
        ("docker-0", True, "; docker-0 is in no swarm; make one with: meshnet swarm init --node docker-0"),
        ("docker-1", False, ""),
    ],
)
def test_a_node_that_runs_already(
    running: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    out: bool,
    said: str,
) -> None:
    """lab start of a node that runs says so, and if it is in no swarm, what to type about that."""
    monkeypatch.setattr(daemons, "is_out", lambda *_: out)
    assert meshnet(capsys, monkeypatch, "lab", "start", node) == (1, "", f"meshnet: {node} runs already{said}\n")


@pytest.mark.parametrize(
    ("count", "avoided", "down"),
    [(2, "a second", 3), (10, "a second", 3), (25, "2 seconds", 7.5), (200, "20 seconds", 15)],
)
def test_many_nodes_get_more_time(monkeypatch: pytest.MonkeyPatch, count: int, avoided: str, down: float) -> None:
    """Nodes that share the machine's processors with many are lost later, though not later than Swarm's."""
    monkeypatch.setattr(processes, "alive", lambda *_: True)
    members = tuple(LabNode(f"n{k}", f"192.0.2.{k + 1}", "worker" if k else "manager") for k in range(count))
    lab = Lab("no-lab-of-mine", "/", "192.0.2.0/24", 1500, members)
    assert 3 * daemons.heartbeat(lab) == down
    told = nodes.after_kill(lab, "n1", nodes.Was.RUNNING)
    assert told.startswith(f"traffic avoids it within {avoided}; the manager calls it Down after {down:g} s; ")


def test_a_task_that_ends_before_it_is_killed(running: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends as it is to be killed is said to have ended."""
    spec: Any = SimpleNamespace(name="web.1.abc", id="box", cgroup=str(tmp_path / "gone"))
    monkeypatch.setattr(tasks, "find", lambda *_: LabTask("docker-0", "abc", spec))
    with pytest.raises(NotFoundError, match=r"the task web\.1\.abc has ended"):
        nodes.kill_task(LAB, "web.1")


def test_a_manager_that_ends_before_it_is_told(running: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that ends as it is to be stopped is stopped."""
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    alive = iter([False, True, False, True, False])  # any of the agent; any of the manager; the agent; the manager; it
    monkeypatch.setattr(processes, "alive", lambda *_: next(alive))
    monkeypatch.setattr(processes, "pids", lambda *_: [ended.pid])
    nodes.stop(LAB, "docker-0")
    assert next(alive, None) is None
