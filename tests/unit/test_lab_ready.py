"""When a node of a lab counts as ready."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshnet.errors import MeshnetError
from meshnet.lab import daemons, engine, processes, up
from meshnet.lab.spec import Lab, LabNode

NODES = ("docker-0", "docker-1", "docker-2")


def world(monkeypatch: pytest.MonkeyPatch, ready: set[str], known: set[str]) -> Lab:
    """A lab whose agents all run; `ready` is what the manager calls so, `known` whom docker-1 has as members."""
    members = [
        SimpleNamespace(
            description=SimpleNamespace(hostname=name),
            status=SimpleNamespace(state="ready" if name in ready else "down"),
        )
        for name in NODES
    ]
    told = [{"Node": name, "State": "alive" if name in known else "dead"} for name in NODES]
    monkeypatch.setattr(engine, "of_lab", lambda lab: SimpleNamespace(nodes=lambda: members))
    monkeypatch.setattr(engine, "agent", lambda lab, node, path: told)
    monkeypatch.setattr(engine, "listens", lambda lab, node: True)
    monkeypatch.setattr(daemons, "is_out", lambda lab, node: node not in known and node not in ready)
    monkeypatch.setattr(processes, "alive", lambda lab, node, role: True)
    roles = dict(zip(NODES, ("manager", "worker", "worker"), strict=True))
    nodes = tuple(LabNode(name, f"172.17.0.{2 + n}", roles[name]) for n, name in enumerate(NODES))
    return Lab(name="x", directory="/nowhere", subnet="172.17.0.0/16", mtu=1500, nodes=nodes)


def test_a_node_that_is_out_of_the_swarm_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is ready without knowing one that left the swarm, or was removed from it, and whose agent runs on."""
    lab = world(monkeypatch, {"docker-0", "docker-1"}, {"docker-0", "docker-1"})
    up.wait_ready(lab, ["docker-1"], lambda _: None, 0)


def test_a_node_knows_all_that_are_in_the_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is not ready while it lacks a running member, one that starts with it included."""
    lab = world(monkeypatch, set(NODES), {"docker-0", "docker-1"})
    with pytest.raises(MeshnetError, match="docker-1 is not ready"):
        up.wait_ready(lab, ["docker-1"], lambda _: None, 0)
    lab = world(monkeypatch, {"docker-0", "docker-1"}, {"docker-0", "docker-1"})
    monkeypatch.setattr(daemons, "is_out", lambda lab, node: False)
    with pytest.raises(MeshnetError, match="is not ready"):
        up.wait_ready(lab, ["docker-1", "docker-2"], lambda _: None, 0)


def test_a_node_in_no_swarm_is_ready_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that left its swarm is started again without waiting for a membership that nothing brings back."""
    lab = world(monkeypatch, {"docker-0", "docker-1"}, {"docker-0", "docker-1"})
    up.wait_ready(lab, ["docker-2"], lambda _: None, 0)
    monkeypatch.setattr(engine, "listens", lambda lab, node: False)
    with pytest.raises(MeshnetError, match="docker-2 is not ready"):
        up.wait_ready(lab, ["docker-2"], lambda _: None, 0)
