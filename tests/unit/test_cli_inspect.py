"""What `meshnet inspect` makes of an agent's answers: names instead of ids, one thing per line, zeros left out."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from meshnet.api.client import SilentError
from meshnet.cli import inspect
from meshnet.cli.inspect_views import Look, Table, tables
from meshnet.errors import MeshnetError
from meshnet.lab import engine, state
from meshnet.lab.spec import Lab, LabNode

SERVICE, NODE, TASK = "s" * 25, "n" * 25, "t" * 25
LOOK = Look({SERVICE: "web", NODE: "docker-0"})


def rows(view: str, answer: Any, look: Look = LOOK) -> list[tuple[str, ...]]:
    return [row for table in tables(view, answer, look) for row in table.rows]


def test_backends_are_lines() -> None:
    """lb: VIPs in the order of their numbers, published ports last, a backend per line with its short name."""

    def backend(ip: str, place: str) -> dict[str, str]:
        return {"IP": ip, "Task": f"{SERVICE}.{place}.{TASK}", "Node": NODE}

    both = [backend("10.0.0.10", "2"), backend("10.0.0.9", "1")]
    answer = [
        {"Service": "web", "Network": "ingress", "Address": "*", "Port": "80/tcp -> 80", "Backends": []},
        {"Service": "web", "Network": "demo", "Address": "10.0.0.20", "Port": "", "Backends": both},
        {"Service": "g", "Network": "demo", "Address": "10.0.0.3", "Port": "", "Backends": [backend("10.0.0.5", NODE)]},
    ]
    assert rows("lb", answer) == [
        ("g", "demo", "10.0.0.3", "", "10.0.0.5", "web@docker-0", "docker-0"),
        ("web", "demo", "10.0.0.20", "", "10.0.0.9", "web.1", "docker-0"),
        ("", "", "", "", "10.0.0.10", "web.2", "docker-0"),
        ("web", "ingress", "*", "80/tcp -> 80", "none", "", ""),
    ]
    assert rows("lb", answer, Look({}, whole=True))[0][5] == f"{SERVICE}.{NODE}.{TASK}"


def test_endpoints_have_names() -> None:
    """endpoints: names of tasks, networks and nodes; an id without a name is shortened."""
    answer = [
        {"Network": "x" * 25, "IP": "10.0.0.10", "Task": f"{SERVICE}.1.{TASK}", "State": "ready", "Owner": NODE},
        {"Network": "demo", "IP": "10.0.0.9", "Task": "", "State": "ready", "Owner": NODE},
    ]
    assert rows("endpoints", answer) == [
        ("demo", "10.0.0.9", "(the node's own)", "ready", "docker-0"),
        ("x" * 12, "10.0.0.10", "web.1", "ready", "docker-0"),
    ]


def test_names_and_their_answers() -> None:
    """dns: once for all tasks on the same networks, a line per name; counters after that, without zeros."""

    def record(name: str, value: str, kind: str = "A") -> dict[str, str]:
        return {"Name": name, "Type": kind, "Value": value}

    names = [
        record("tasks.web", "10.0.0.9"),
        record("tasks.web", "10.0.0.10"),
        record("web", "10.0.0.2"),
        record("web.demo", "10.0.0.2"),
        record(f"web.1.{TASK}", "10.0.0.9"),
        record("2.0.0.10.in-addr.arpa", "web.demo", "PTR"),
    ]
    counts = {"queries_udp": 3, "unsent": 0}
    answer = [
        {"Task": f"web.{n}.{TASK}", "Networks": ["ingress", "demo"][n - 1 :], "Names": names, "Statistics": counts}
        for n in (1, 2)
    ]
    assert list(tables("dns", answer, LOOK)) == [
        Table(
            "web.1, web.2 (on demo):",
            ("NAME", "TYPE", "ANSWER"),
            [("tasks.web", "A", "10.0.0.9, 10.0.0.10"), ("web", "A", "10.0.0.2")],
        ),
        Table(
            "since their start:",
            ("TASK", "COUNTER", "COUNT"),
            [("web.1", "queries_udp", "3"), ("web.2", "queries_udp", "3")],
        ),
    ]
    assert len(rows("dns", answer, Look({}, all=True))) == 5 + 4
    assert list(tables("dns", [], LOOK)) == [Table("no task", (), ())]


def test_counters_have_meanings() -> None:
    """statistics: what was counted and what it means; zeros only with --all."""
    answer = {
        "Datapath": {"drop.spoofed_ip": 2, "reset_sent": 0},
        "Gossip": {"probes": 0},
        "Meanings": {"drop.spoofed_ip": "the sender's address is not the endpoint's"},
    }
    assert rows("statistics", answer) == [
        ("drop.spoofed_ip", "2", "the sender's address is not the endpoint's"),
        ("nothing yet", "", ""),
    ]
    assert len(rows("statistics", answer, Look({}, all=True))) == 3


def test_members_keep_their_ids() -> None:
    """members: the id stays beside the name, short unless it is asked for whole."""
    answer = [{"Node": "docker-0", "ID": NODE}]
    assert rows("members", answer) == [("docker-0", "n" * 12)]
    assert rows("members", answer, Look({}, whole=True)) == [("docker-0", NODE)]


def test_a_node_in_no_swarm_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is in no swarm is told from one that does not answer, with what to do about it."""

    class Client:
        def __init__(self, path: str) -> None:
            self.node = path.split("/")[-2]

        def get(self, _: str) -> list[Any]:
            if self.node == "b":
                raise MeshnetError("this node has not joined its swarm yet", 503)
            if self.node == "c":
                raise SilentError("no engine answers", 503)
            return []

    nodes = tuple(LabNode(name, f"172.17.0.{at}", "worker") for at, name in enumerate("abc", 2))
    monkeypatch.setattr(state, "current", lambda _: Lab("shop", "/", "172.17.0.0/16", 1500, nodes))
    monkeypatch.setattr(engine, "EngineClient", Client)
    monkeypatch.setattr(inspect, "_names", lambda _: {})
    done = CliRunner().invoke(inspect.inspect, ["dns"])
    assert done.output.splitlines() == ["--- a", "no task", "--- b: is in no swarm", "--- c: does not answer"]
    assert str(done.exception).splitlines()[0] == (
        "b is in no swarm yet; let it join with what this says: meshnet swarm join-token worker"
    )
