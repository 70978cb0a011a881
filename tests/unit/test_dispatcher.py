"""Manager and agents over real sockets: join, stream, reports, restart, loss of a node."""

from __future__ import annotations

import asyncio
import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from swarm import SETTINGS, FakeNode, eventually, run, spec, swarm

from meshnet.control import manager as manager_module
from meshnet.control.manager import Manager
from meshnet.control.operations import remove_service
from meshnet.control.settings import Settings
from meshnet.control.trust.tls import SERVER_NAME
from meshnet.errors import MeshnetError, NoSpaceError
from meshnet.model import Global, Replicated, RestartPolicy, ServiceMode

FAST = replace(SETTINGS, heartbeat=0.2)


def test_a_manager_needs_a_lab(tmp_path: Path) -> None:
    """A manager refuses to start outside a lab."""
    with pytest.raises(MeshnetError, match="lab"):
        Manager(tmp_path, "127.0.0.1:0", Settings())


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """A manager that cannot listen says where, in one line, and leaves its store closed."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            address = it.manager.listen_address
            second = Manager(tmp_path / "second", address, SETTINGS)
            with pytest.raises(MeshnetError, match=f"cannot listen on {address}"):
                await second.start()
            third = Manager(tmp_path / "second", "127.0.0.1:0", SETTINGS)
            await third.start()
            await third.stop()

    run(scenario)


def test_a_damaged_store(tmp_path: Path) -> None:
    """A file that is no store is refused by name, and not touched."""

    async def scenario() -> None:
        (tmp_path / "swarm.db").write_bytes(b"no database" * 500)
        with pytest.raises(MeshnetError, match="cannot be used as the swarm"):
            await Manager(tmp_path, "127.0.0.1:0", SETTINGS).start()
        assert (tmp_path / "swarm.db").read_bytes() == b"no database" * 500

    run(scenario)


def test_create_scale_remove(tmp_path: Path) -> None:
    """Tasks are spread over the nodes and run; scaling adds and removes; removal leaves nothing."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            nodes = [await it.node(f"docker-{n}") for n in (1, 2)]
            demo = await it.network("demo")
            web = await it.service(spec("web", 4, ("demo",), (8000,)))
            await it.converged(web, 4)
            assert sorted(len(node.running()) for node in nodes) == [2, 2]
            assert it.get(web).vip(demo) == "10.0.1.2"
            addresses = {task.networks_attachments[1].address for task in it.tasks(web)}
            assert addresses == {f"10.0.1.{n}" for n in (3, 4, 5, 6)}
            await it.change(web, mode=ServiceMode(Replicated(1)))
            await it.converged(web, 1)
            await eventually(lambda: len(it.tasks(web)) == 1, "removed tasks are forgotten")
            assert it.tasks(web)[0].slot == 1
            await it.change(web, mode=ServiceMode(Replicated(3)))
            await it.converged(web, 3)
            await it.manager.state.write(lambda view: remove_service(view.services[web]))
            await eventually(lambda: not it.tasks(web), "the tasks of a removed service are forgotten")
            await eventually(lambda: not any(node.now.services for node in nodes), "the nodes forget the service")

    run(scenario)


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that goes away, or is removed, in the middle of its stream leaves no work behind that nobody ends."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            nodes = [await it.node(f"docker-{number}") for number in (1, 2)]
            await eventually(lambda: it.manager.statistics()["streams"] == 2, "two streams")
            await nodes[0].stop()
            await eventually(lambda: it.manager.statistics()["streams"] == 1, "one stream is left")
            gc.collect()
        gc.collect()

    run(scenario)
    assert "Task was destroyed" not in caplog.text


def test_what_a_node_is_told(tmp_path: Path) -> None:
    """A node hears of its own tasks, of all services on their networks and of published ones, and of no others."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            one = await it.node("docker-1")
            for name in ("red", "blue"):
                await it.network(name)
            ids = {
                "a": await it.service(spec("a", 1, ("red",))),
                "b": await it.service(spec("b", 0, ("red",))),
                "c": await it.service(spec("c", 0, ("blue",))),
                "d": await it.service(spec("d", 0, (), (9000,))),
            }
            await it.converged(ids["a"], 1)
            await eventually(lambda: set(one.now.services) == {ids["a"], ids["b"], ids["d"]}, "services told")
            assert {network.spec.name for network in one.now.networks.values()} == {"ingress", "red"}
            assert one.now.node is not None
            assert one.now.node.attachments[0].address == "10.0.0.2"
            two = await it.node("docker-2")
            await eventually(lambda: set(two.now.services) == {ids["d"]}, "an idle node is told of published services")
            assert {network.spec.name for network in two.now.networks.values()} == {"ingress"}

    run(scenario)


def test_own_reports_do_not_come_back(tmp_path: Path) -> None:
    """A status that a node reports is not streamed back to it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await it.node("docker-1")
            web = await it.service(spec("web"))
            await it.converged(web, 1)
            before = node.updates
            task = it.tasks(web)[0]
            node.tell(task.id, "running")
            await node.client.reported()
            marker = await it.service(spec("marker", 0, (), (8001,)))
            await eventually(lambda: marker in node.now.services, "a later change arrives")
            assert node.updates == before + 1

    run(scenario)


def test_a_failed_task_is_replaced(tmp_path: Path) -> None:
    """A task that fails is followed by another in its slot, after the policy's delay."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await it.node("docker-1")
            web = await it.service(spec("web", 2, restart=RestartPolicy(delay=0)))
            slow = await it.service(spec("slow", 1))
            await it.converged(web, 2)
            await it.converged(slow, 1)
            victim = it.tasks(web)[0]
            node.tell(victim.id, "failed")
            await node.client.reported()
            await it.converged(web, 2)
            assert victim.id not in {task.id for task in it.tasks(web, "running")}
            assert [task.slot for task in it.tasks(web, "failed")] == [victim.slot]
            node.tell(it.tasks(slow)[0].id, "failed")
            await eventually(lambda: it.tasks(slow, "assigned", "ready"), "the successor waits for its delay")

    run(scenario)


def test_a_node_that_only_joined_is_not_ready(tmp_path: Path) -> None:
    """A node gets tasks from its first heartbeat on; an agent joins before it can serve any."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = FakeNode(it.manager, "docker-1", tmp_path / "docker-1")
            ident = await node.client.join()
            web = await it.service(spec("web"))
            await eventually(lambda: [t.status.state for t in it.tasks(web)] == ["pending"], "its task waits")
            assert it.manager.view.nodes[ident].status.state == "unknown"
            await node.start()
            it.nodes.append(node)
            await it.converged(web, 1)
            assert it.manager.view.nodes[ident].status.state == "ready"

    run(scenario)


def test_a_lost_node(tmp_path: Path) -> None:
    """Tasks of a node without heartbeat start elsewhere; when it is back its old ones stop and nothing moves back."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            first, second = [await it.node(f"docker-{n}") for n in (1, 2)]
            web = await it.service(spec("web", 4))
            agents = await it.service(spec("agents", mode=ServiceMode(None, Global())))
            await it.converged(web, 4)
            await it.converged(agents, 2)
            old = set(second.running())
            await second.stop()
            await eventually(lambda: len(first.running()) == 5, "the tasks run on the other node")
            assert it.manager.view.nodes[second.client.node_id].status.state == "down"
            it.nodes.remove(second)
            again = await it.node("docker-2")
            again.states.update(second.states)
            assert again.client.node_id == second.client.node_id
            await eventually(lambda: not old & again.running(), "the old tasks are stopped")
            await it.converged(agents, 2)
            await it.converged(web, 4)
            assert {task.node_id for task in it.tasks(web, "running", "running")} == {first.client.node_id}

    run(scenario)


def test_a_restarted_manager(tmp_path: Path) -> None:
    """A manager that was away goes on where it was: same tasks, no node lost, and agents find it by themselves."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            nodes = [await it.node(f"docker-{n}", cache=tmp_path / f"cache-{n}") for n in (1, 2)]
            web = await it.service(spec("web", 3))
            await it.converged(web, 3)
            before = {task.id for task in it.tasks(web)}
            await it.manager.stop()
            await eventually(lambda: nodes[0].client.cached() == nodes[0].now, "the assignments are on disk")
            it.manager = Manager(tmp_path / "manager", it.manager.listen_address, FAST)
            await it.manager.start()
            await eventually(lambda: all(node.client.connected for node in nodes), "the agents are back")
            assert {task.id for task in it.tasks(web)} == before
            await it.change(web, mode=ServiceMode(Replicated(4)))
            await it.converged(web, 4)
            assert all(node.status.state == "ready" for node in it.manager.view.nodes.values())

    run(scenario)


def test_bad_requests(tmp_path: Path) -> None:
    """Malformed requests are refused with the field or the reason, and the manager goes on."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, aiohttp.ClientSession(f"https://{it.manager.listen_address}") as http:
            node = await it.node("docker-1")
            tls: Any = {"ssl": node.credentials.context(), "server_hostname": SERVER_NAME}

            async def ask(method: str, path: str, body: bytes) -> tuple[int, str]:
                async with http.request(method, path, data=body, **tls) as response:
                    return response.status, str((await response.json())["message"])

            attach = f"/v1/nodes/{node.client.node_id}/attachments"
            for method, path, body, code, words in (
                ("POST", "/v1/nodes/join", b"{", 400, "not JSON"),
                ("POST", "/v1/nodes/join", b"{}", 400, "hostname"),
                ("POST", "/v1/nodes/join", b'{"Addr": 5}', 400, "Addr: a string is needed"),
                ("POST", attach, b'{"Networks": "demo"}', 400, "Networks"),
            ):
                answer = await ask(method, path, body)
                assert answer[0] == code
                assert words in answer[1]

    run(scenario)


def test_the_stream_as_text(tmp_path: Path) -> None:
    """The stream is one JSON object per line: a snapshot with the Engine's names, then deltas."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, aiohttp.ClientSession(f"https://{it.manager.listen_address}") as http:
            node = await it.node("docker-1")
            path = f"/v1/nodes/{node.client.node_id}/assignments"
            tls: Any = {"ssl": node.credentials.context(), "server_hostname": SERVER_NAME}
            async with http.get(path, params={"watch": "1"}, **tls) as response:
                first = json.loads(await response.content.readline())
                assert first["type"] == "snapshot"
                assert first["assignments"]["Node"]["Description"]["Hostname"] == "docker-1"
                assert json.loads(await response.content.readline())["type"] == "trust"
                web = await it.service(spec("web", 0, (), (8000,)))
                second = json.loads(await response.content.readline())
                assert second["type"] == "delta"
                assert second["rev"] > first["rev"]
                assert second["upserts"]["services"][web]["Spec"]["Name"] == "web"
            async with http.get(path, **tls) as response:
                whole = json.loads(await response.read())
                assert list(whole["assignments"]["Services"]) == [web]

    run(scenario)


def test_a_report_survives_the_managers_absence(tmp_path: Path) -> None:
    """What a node reports while the manager is away is taken when it is back."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await it.node("docker-1")
            node.works = False
            web = await it.service(spec("web"))
            await eventually(lambda: len(node.now.tasks) == 1, "the task is assigned")
            await it.manager.stop()
            task_id = next(iter(node.now.tasks))
            node.tell(task_id, "starting")
            node.tell(task_id, "running")
            it.manager = Manager(tmp_path / "manager", it.manager.listen_address, SETTINGS)
            await it.manager.start()
            await it.converged(web, 1)
            await asyncio.wait_for(node.client.reported(), 5)

    run(scenario)


def test_a_node_that_leaves_is_down_at_once(tmp_path: Path) -> None:
    """A node that says that it stops is not waited for: what it ran starts elsewhere, and its reports go on."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            first, second = [await it.node(f"docker-{n}") for n in (1, 2)]
            web = await it.service(spec("web", 4))
            await it.converged(web, 4)
            await second.client.leave(5.0)
            assert it.manager.view.nodes[second.client.node_id].status.state == "down"
            await eventually(lambda: len(first.running()) == 4, "the tasks run on the other node")
            await second.client.reported()
            assert it.manager.view.nodes[second.client.node_id].status.state == "down"

    run(scenario)


def test_controllers_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing can be written the log has one line and no traceback; a lost node is still found out afterwards."""
    monkeypatch.setattr(manager_module, "RETRY", 0.01)
    settings = replace(SETTINGS, heartbeat=0.1)

    async def scenario() -> None:
        async with swarm(tmp_path, settings) as it:
            node = await it.node("docker-1")
            write = it.manager.state.write
            tries = 0

            async def full(_: Any) -> Any:
                nonlocal tries
                tries += 1
                raise NoSpaceError("/run/x")

            monkeypatch.setattr(it.manager.state, "write", full)
            await node.stop()
            await eventually(lambda: tries > 3, "the manager wants to write")
            monkeypatch.setattr(it.manager.state, "write", write)
            nodes = it.manager.view.nodes
            await eventually(lambda: nodes[node.client.node_id].status.state == "down", "the node is down")

    run(scenario)
    full = [record for record in caplog.records if "no space left in /run/x" in record.message]
    assert len(full) == 1
    assert full[0].exc_info is None
