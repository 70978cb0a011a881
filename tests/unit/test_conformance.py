"""What a real engine (20.10, API 1.41) answered, asked of the manager again: same fields, statuses and messages.

`engine/api-examples.json` is a recording of a session with the docker command: a stack is deployed, looked at, scaled
and removed. Its requests are replayed and each answer is compared with the recorded one (see `likeness`).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_world import Api, limiting, served
from likeness import differences
from swarm import SETTINGS, FakeNode, eventually

from meshnet.control.objects import Changes
from meshnet.model import Engine, ManagerStatus, NodeDescription, Platform, Plugin, Resources, TLSInfo

RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "engine/api-examples.json").read_text())
# What a node's own engine adds to its manager's answer.
OF_THE_NODE = frozenset({"Containers", "Peers", "LocalLBIndex", "MAC", "EndpointID"})


class Raw(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


class Session:
    """Replays requests; ids of the recording become those that objects have here."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.ids: dict[str, str] = {}

    def translated(self, text: str) -> str:
        for old, new in self.ids.items():
            text = text.replace(old, new)
        return text

    def ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        connection = Raw(self.api.socket_path)
        try:
            data = None if body is None else self.translated(json.dumps(body))
            connection.request(method, "/v1.41" + self.translated(path), data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        return response.status, json.loads(text) if text else None

    async def replay(self, key: str, which: int = 0, ignore: frozenset[str] = OF_THE_NODE, **query: Any) -> Any:
        """Asks again what was recorded, and compares. `query` replaces the version that an update names."""
        recorded = RECORDED[key][which]
        path = recorded["path"]
        if "version" in query:
            path = path.rpartition("version=")[0] + f"version={query['version']}"
        status, answer = await asyncio.to_thread(self.ask, key.split()[0], path, recorded["request"])
        assert status == recorded["status"], f"{key}: {answer}"
        found = list(differences(recorded["response"], answer, ignore))
        assert not found, f"{key} {path}:\n" + "\n".join(found)
        for name in ("ID", "Id"):
            if isinstance(answer, dict) and name in answer:
                self.ids[recorded["response"][name]] = answer[name]
        return answer


def _refusals() -> Iterator[tuple[str, int]]:
    for key, examples in RECORDED.items():
        for number, example in enumerate(examples):
            if example["status"] >= 400:
                yield key, number


@pytest.mark.parametrize(("key", "which"), list(_refusals()))
def test_refusals(tmp_path: Path, key: str, which: int) -> None:
    """What does not exist is refused with the engine's status and words."""

    async def scenario(api: Api) -> None:
        await Session(api).replay(key, which)

    served(tmp_path, scenario)


def test_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of two services with network, secret and config is made, shown, changed and removed as recorded."""
    limiting(monkeypatch, tmp_path)
    settings = replace(SETTINGS, advertise="172.31.0.1:2377")
    served(tmp_path, lambda api: _session(api, tmp_path), settings)


async def _session(api: Api, tmp_path: Path) -> None:
    node = FakeNode(api.process.manager, "vm-1", tmp_path / "vm-1")
    await node.start()
    try:
        await _become_manager(api, node)
        session = Session(api)
        await _created(session, node)
        await _looked_at(session)
        await _echoed(session, api, node)
        await _changed(session, api)
        await _removed(session, api)
    finally:
        await node.stop()


async def _become_manager(api: Api, node: FakeNode) -> None:
    """Gives the node what the engine's own node says of itself."""
    state = api.process.manager.state
    recorded = RECORDED["GET /nodes/vm"][0]["response"]["Description"]
    plugins = tuple(Plugin(item["Type"], item["Name"]) for item in recorded["Engine"]["Plugins"])
    resources = Resources(recorded["Resources"]["NanoCPUs"], recorded["Resources"]["MemoryBytes"])
    engine = Engine("20.10.24+dfsg1", {}, plugins)
    description = NodeDescription("vm", Platform("x86_64", "linux"), resources, engine, TLSInfo("a", "b", "c"))
    before = api.process.manager.view.nodes[node.client.node_id]
    await state.write(
        lambda view: Changes(
            (
                replace(
                    view.nodes[before.id],
                    spec=replace(before.spec, role="manager"),
                    description=description,
                    manager_status=ManagerStatus(True, "reachable", "172.31.0.1:2377"),
                ),
            )
        )
    )


async def _created(session: Session, node: FakeNode) -> None:
    assert RECORDED["GET /services"][0]["response"] == []
    await session.replay("GET /services")
    await session.replay("GET /networks")
    await session.replay("POST /networks/create")
    await session.replay("POST /secrets/create")
    await session.replay("POST /configs/create")
    for key in ("GET /secrets", "GET /configs"):
        await session.replay(key)
        await session.replay(key, 1)
    await session.replay("POST /services/create", 0)
    await eventually(lambda: len(node.running()) == 1, "the database runs")
    await session.replay("POST /services/create", 1)
    await eventually(lambda: len(node.running()) == 4, "the others run")
    await node.client.reported()


async def _looked_at(session: Session) -> None:
    await session.replay("GET /services/{id}")
    await session.replay("GET /services/blog_wordpress")
    await session.replay("GET /networks/blog_backend")
    await session.replay("GET /swarm")
    for key, number in (("GET /nodes/vm", 0), ("GET /nodes/{id}", 0)):
        if number == 0 and key == "GET /nodes/{id}":
            (session.ids["o02nsggnitvvqv60vhg17l2de"],) = session.api.process.manager.view.nodes
        await session.replay(key, number)
    # The tasks of the recording were still starting, and were listed in no order that could be repeated.
    recorded = RECORDED["GET /tasks"][0]
    _, tasks = await asyncio.to_thread(session.ask, "GET", recorded["path"], None)
    expected = {(task["ServiceID"], task["Slot"]): task for task in recorded["response"]}
    assert len(tasks) == len(expected)
    for task in tasks:
        old = next(old for old, new in session.ids.items() if new == task["ServiceID"])
        found = list(differences(expected[old, task["Slot"]], task, frozenset({"State", "Message", "ContainerStatus"})))
        assert not found, "\n".join(found)


async def _echoed(session: Session, api: Api, node: FakeNode) -> None:
    """A service by itself: the request that made it is not in the recording, but the one that changed it is."""
    changed = RECORDED["POST /services/{id}/update"][0]
    body = json.loads(json.dumps(changed["request"]))
    body["TaskTemplate"]["ContainerSpec"]["Image"] = "nginx:latest"
    before = len(node.running())
    session.ids["9azmdqk13v4qs1tx79gugddv2"] = (await api.post("/services/create", body))["ID"]
    await eventually(lambda: len(node.running()) == before + 1, "echo runs")
    await node.client.reported()
    await session.replay("GET /services/echo")
    (task,) = await api.get("/tasks", filters={"service": ["echo"]})
    session.ids["yl1vsvn9hgng7blkep328d1q0"] = task["ID"]
    await session.replay("GET /tasks/{id}", ignore=frozenset({"State", "Message", "ContainerStatus"}))
    version = (await api.get("/services/echo"))["Version"]["Index"]
    await session.replay("POST /services/{id}/update", 0, version=version)
    await session.replay("DELETE /services/echo")


async def _changed(session: Session, api: Api) -> None:
    shown = await api.get("/services/blog_wordpress")
    await session.replay("POST /services/{id}/update", 1, version=shown["Version"]["Index"])
    assert (await api.get("/services/blog_wordpress"))["Spec"]["Mode"] == {"Replicated": {"Replicas": 5}}
    node = (await api.get("/nodes/vm"))["Version"]["Index"]
    await session.replay("POST /nodes/{id}/update", version=node)
    await session.replay("GET /nodes")


async def _removed(session: Session, api: Api) -> None:
    await session.replay("DELETE /services/{id}")
    await api.delete("/services/blog_wordpress")
    await session.replay("DELETE /secrets/{id}")
    await session.replay("DELETE /configs/{id}")
    await eventually(lambda: not api.process.manager.view.tasks, "nothing runs any more")
    await session.replay("DELETE /networks/{id}")
