"""What a real engine (20.10, API 1.41) answered about containers, asked of a node again: same fields, types and words.

`engine/node-examples.json` is of the same recording as the manager's (tests/unit/test_conformance.py): a service's
container and one that a person started are looked at, a program is run inside, and both are removed.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Docker

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"docker-0": {"role": "manager"}}}
RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "engine" / "node-examples.json").read_text()
)
# Names that stand for something else on each machine or at each time: their keys are not compared.
MAPS = frozenset({"Labels", "Runtimes", "Containers", "Data", "Options", "Swarm"})
# What a machine or a container has of its own: null here and there a value, and the other way round.
OWN = frozenset({"DriverStatus", "Warnings", "IPAMConfig", "RegistryConfig", "Error", "RemoteManagers"})
# What the recorded engine knows of its own machinery, and this one has none of.
MACHINERY = frozenset(
    {
        *("NGoroutines", "NEventsListener", "NFd", "HttpProxy", "HttpsProxy", "NoProxy", "GenericResources"),
        *("ContainerdCommit", "RuncCommit", "InitCommit", "KernelMemory", "KernelMemoryTCP", "ProductLicense"),
    }
)


class Raw(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self.path))


class Session:
    """Replays requests; ids of the recording become those that things have here."""

    def __init__(self, node: Docker) -> None:
        self.node = node
        self.ids: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        for old, new in self.ids.items():
            path = path.replace(old, new)
        connection = Raw(self.node.socket)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/v1.41{path}", data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def replay(self, key: str, which: int = 0) -> Any:
        """Asks again what was recorded, and compares."""
        recorded = RECORDED[key][which]
        status, answer = self.ask(key.split()[0], recorded["path"], recorded["request"])
        assert status == recorded["status"], f"{key}: {answer}"
        found = list(unlike(recorded["response"], answer))
        assert not found, f"{key} {recorded['path']}:\n" + "\n".join(found)
        if isinstance(answer, dict) and "Id" in answer:
            self.ids.setdefault(recorded["response"]["Id"], answer["Id"])
        return answer


def unlike(expected: Any, actual: Any, path: str = "") -> Iterator[str]:
    """Where `actual` has other fields or other types than `expected`."""
    name = path.rpartition(".")[2].partition("[")[0]
    if isinstance(expected, dict) and isinstance(actual, dict):
        names = (expected.keys() & actual.keys()) if name in MAPS else (expected.keys() | actual.keys()) - MACHINERY
        for inner in sorted(names):
            if inner not in actual:
                yield f"{path}.{inner} is missing; the engine has {expected[inner]!r}"
            elif inner not in expected:
                yield f"{path}.{inner} is not there in the engine: {actual[inner]!r}"
            else:
                yield from unlike(expected[inner], actual[inner], f"{path}.{inner}")
    elif isinstance(expected, list) and isinstance(actual, list):
        if expected and actual:
            yield from unlike(expected[0], actual[0], f"{path}[0]")
    elif name == "message":
        if expected != actual:
            yield f"{path} is {actual!r}; the engine says {expected!r}"
    elif type(expected) is not type(actual) and name not in OWN:
        yield f"{path} is {actual!r}; the engine has {expected!r}"


@pytest.fixture(scope="module")
def session(lab: LabUnderTest) -> Session:
    node = Docker(lab, "docker-0")
    node.out("network", "create", "-d", "overlay", "--attachable", "att")
    create = ("service", "create", "-q", "--no-resolve-image", "--name", "box", "--network", "att")
    node.out(*create, "nginx:latest", "sleep", "1000")
    made = Session(node)
    container = node.container("box.1")
    whole = node.out("inspect", "--format", "{{.Id}}", container)
    made.ids = {"eae3653518f2fc9be64f0e4969993fc271f10fe465ad6188e63871ed5486a2e2": whole, "eae3653518f2": container}
    return made


REFUSALS = [(key, n) for key, rows in RECORDED.items() for n, row in enumerate(rows) if row["status"] >= 400]


@pytest.mark.parametrize(("key", "which"), REFUSALS)
def test_refusals(session: Session, key: str, which: int) -> None:
    """What does not exist, or cannot be now, is refused with the engine's status and words."""
    session.replay(key, which)


def test_the_node(session: Session) -> None:
    """`docker info` has the fields of an engine."""
    session.replay("GET /info")


def test_a_tasks_container(session: Session) -> None:
    """It is listed and shown, its processes too, and a program is run inside."""
    session.replay("GET /containers/json")
    session.replay("GET /containers/{id}/json")
    session.replay("GET /containers/{id}/top")
    session.replay("GET /networks/att")
    made = session.replay("POST /containers/{id}/exec")
    assert session.node.run("exec", "-d", session.ids["eae3653518f2"], "true").returncode == 0
    status, shown = session.ask("GET", f"/exec/{made['Id']}/json")
    recorded = RECORDED["GET /exec/{id}/json"][0]
    assert status == recorded["status"]
    # It was not started here, so it has neither a process nor an exit code.
    found = [line for line in unlike(recorded["response"], shown) if not line.startswith((".ExitCode", ".Pid"))]
    assert not found, "\n".join(found)


def test_a_container_of_ones_own(session: Session) -> None:
    """It is made, started, shown and removed as recorded."""
    session.replay("POST /containers/create")
    session.replay("POST /containers/{id}/start")
    session.replay("GET /containers/standalone/json")
    session.replay("DELETE /containers/standalone")
    assert session.ask("GET", "/containers/standalone/json")[0] == 404
