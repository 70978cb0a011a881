"""The engine of a node: who may use its socket, what it passes on to its manager, what a worker refuses."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from api_world import Api, service
from node_world import engine
from swarm import eventually

from meshnet.api.node import context, unserved


def test_a_manager_passes_swarm_requests_on(tmp_path: Path) -> None:
    """The socket has mode 0600; requests about the swarm reach the manager with query and body, refusals come back."""

    async def scenario(api: Api) -> None:
        assert stat.S_IMODE(os.stat(api.socket_path).st_mode) == 0o600
        created = await api.post("/v1.41/services/create", service("web"))
        assert [one["ID"] for one in await api.get("/services", filters={"name": ["web"]})] == [created["ID"]]
        assert await api.get("/services", filters={"name": ["other"]}) == []
        assert await api.refused("GET", "/services/nosuch") == (404, "service nosuch not found")
        shown = await api.get(f"/services/{created['ID']}")
        version = shown["Version"]["Index"]
        assert (await api.refused("POST", "/services/web/update", service("web"), version=version + 7))[0] == 500
        assert await api.delete("/v1.41/services/web") is None
        info = await api.get("/v1.41/info")
        assert (info["Name"], info["Swarm"]["ControlAvailable"]) == ("docker-0", True)

    engine(tmp_path, scenario)


def test_a_worker_refuses_in_swarms_words(tmp_path: Path) -> None:
    """A worker answers 503 for all that only a manager may do, and shows its membership."""

    async def scenario(api: Api) -> None:
        for path in ("/services", "/nodes", "/tasks/x", "/swarm", "/secrets", "/configs/x"):
            assert await api.refused("GET", path) == (503, context.WORKER)
        assert await api.refused("POST", "/services/create", service("web")) == (503, context.WORKER)
        swarm = (await api.get("/info"))["Swarm"]
        assert (swarm["LocalNodeState"], swarm["ControlAvailable"], swarm["NodeID"]) == ("active", False, "n1")
        assert swarm["RemoteManagers"] == [{"NodeID": "", "Addr": "127.0.0.1:2377"}]

    engine(tmp_path, scenario, role="worker")


def test_a_node_in_no_swarm(tmp_path: Path) -> None:
    """A node that has not joined says how to."""

    async def scenario(api: Api) -> None:
        status, words = await api.refused("GET", "/nodes")
        assert (status, "docker swarm init" in words) == (503, True)
        assert (await api.get("/info"))["Swarm"]["LocalNodeState"] == "inactive"

    engine(tmp_path, scenario, role="worker", joined=False)


def test_commands_that_are_not_served(tmp_path: Path) -> None:
    """docker export, diff, commit and the like are refused with 501 and one line, which has something to do instead."""

    async def scenario(api: Api) -> None:
        for method, path, what, instead in unserved.COMMANDS:
            place = path.replace("{id}", "x").replace("{name:.+}", "y").replace("{rest:.+}", "z")
            status, words = await api.refused(method, place)
            assert (status, words) == (501, f"{what} not served: {instead}")
            assert len(instead) > 10
            assert "\n" not in words

    engine(tmp_path, scenario)


def test_versions(tmp_path: Path) -> None:
    """Ping tells the API version without a body for HEAD; too new and too old clients are refused as an engine does."""

    async def scenario(api: Api) -> None:
        answer = await api.raw(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"\r\nApi-Version: 1.41\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
        assert (await api.get("/v1.30/version"))["ApiVersion"] == "1.41"
        assert await api.refused("GET", "/v1.99/services") == (
            400,
            "client version 1.99 is too new. Maximum supported API version is 1.41",
        )
        assert (await api.refused("GET", "/v1.11/info"))[0] == 400
        assert await api.refused("GET", "/nosuch") == (404, "page not found")

    engine(tmp_path, scenario)


def test_hostile_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body too large, one that never comes, and a client that goes away in the middle hold nothing up."""
    monkeypatch.setattr(context, "BODY_TIMEOUT", 0.05)

    async def scenario(api: Api) -> None:
        head = b"POST /services/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        large = b"[" + b"1," * (3 * 2**20) + b"1]"
        answer = await api.raw(head + f"Content-Length: {len(large)}\r\n\r\n".encode() + large)
        assert b" 413 " in answer.partition(b"\r\n")[0]
        answer = await api.raw(head + b"Content-Length: 50\r\n\r\n{")
        assert b" 408 " in answer.partition(b"\r\n")[0]
        _, writer = await asyncio.open_unix_connection(str(api.socket_path))
        writer.write(head + b"Content-Length: 50\r\n\r\n{")
        await writer.drain()
        writer.close()
        assert await api.get("/services") == []

    engine(tmp_path, scenario)


def test_a_manager_that_is_gone(tmp_path: Path) -> None:
    """When the manager process does not answer, swarm requests say so, and the node goes on answering for itself."""

    async def scenario(api: Api) -> None:
        await api.process.stop()
        status, words = await api.refused("GET", "/services")
        assert (status, "does not answer" in words) == (503, True)
        swarm = (await api.get("/info"))["Swarm"]
        assert swarm["LocalNodeState"] == "error"
        assert "does not answer" in swarm["Error"]
        await api.process.start()
        await eventually(lambda: api.process.manager.view.cluster is not None, "it is back")
        assert await api.get("/services") == []

    engine(tmp_path, scenario)


def test_what_a_killed_agent_had_received(tmp_path: Path) -> None:
    """The half of an upload is not kept until the node is taken down."""
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "half").write_bytes(b"x")

    async def scenario(_: Api) -> None:
        assert not (tmp_path / "uploads").exists()

    engine(tmp_path, scenario, role="worker")
