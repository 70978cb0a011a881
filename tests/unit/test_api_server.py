"""The Engine API over a unix socket, asked with the thin client: shapes, statuses, messages, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_world import Api, served, service, template
from swarm import SETTINGS, FakeNode, eventually

from meshnet.api import client
from meshnet.api.client import EngineClient
from meshnet.control.sqlite import SqliteStore
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.kernel import capabilities
from meshnet.kernel.capabilities import Probe


def test_only_the_owner_can_use_the_socket(tmp_path: Path) -> None:
    """The socket has mode 0600, and ping, version and info answer as an engine does, with and without version."""

    async def scenario(api: Api) -> None:
        assert stat.S_IMODE(os.stat(api.socket_path).st_mode) == 0o600
        answer = await api.raw(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Api-Version: 1.41" in answer
        answer = await api.raw(b"GET /services/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"\r\nContent-Type: application/json\r\n" in answer, "the docker CLI wants exactly this type"
        assert answer.endswith(b'{"message":"service x not found"}\n')
        assert (await api.get("/v1.41/version"))["ApiVersion"] == "1.41"
        info = await api.get("/info")
        assert info["Swarm"]["LocalNodeState"] == "active"
        assert info["Swarm"]["ControlAvailable"] is True
        assert await api.refused("GET", "/v1.99/info") == (
            400,
            "client version 1.99 is too new. Maximum supported API version is 1.41",
        )
        assert await api.refused("GET", "/nosuch") == (404, "page not found")

    served(tmp_path, scenario)


def test_networks(tmp_path: Path) -> None:
    """Networks get the next /24 and VNI, and are shown, found, listed and removed with the Engine's shapes."""

    async def scenario(api: Api) -> None:
        created = await api.post("/networks/create", {"Name": "web", "Driver": "overlay", "CheckDuplicate": True})
        assert set(created) == {"Id", "Warning"}
        shown = await api.get("/v1.41/networks/web", scope="swarm")
        assert shown.pop("Created").endswith("Z")
        assert shown == {
            "Name": "web",
            "Id": created["Id"],
            "Scope": "swarm",
            "Driver": "overlay",
            "EnableIPv6": False,
            "IPAM": {
                "Driver": "default",
                "Options": None,
                "Config": [{"Subnet": "10.0.1.0/24", "Gateway": "10.0.1.1"}],
            },
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": None,
            "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"},
            "Labels": None,
        }
        assert [n["Name"] for n in await api.get("/networks")] == ["ingress", "web"]
        assert [n["Name"] for n in await api.get("/networks", filters={"name": {"eb": True}})] == ["web"]
        assert (await api.get(f"/networks/{created['Id'][:6]}"))["Name"] == "web"
        assert await api.delete("/networks/web") is None
        assert await api.refused("GET", "/networks/web") == (404, "network web not found")
        body = {
            "Name": "own",
            "IPAM": {"Config": [{"Subnet": "10.9.0.0/16", "Gateway": "10.9.0.9"}]},
            "Labels": {"a": "b"},
        }
        await api.post("/networks/create", body)
        shown = await api.get("/networks/own")
        assert shown["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/16", "Gateway": "10.9.0.9"}]
        assert shown["Options"] == {"com.docker.network.driver.overlay.vxlanid_list": "4098"}
        assert shown["Labels"] == {"a": "b"}

    served(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "bad name"}, 400, "name must be valid as a DNS name component"),
        ({"Name": "-bad"}, 400, "name must be valid as a DNS name component"),
        ({"Name": "n" * 64}, 400, "name must be 63 characters or fewer"),
        ({"Name": "a" * 5000 + "!"}, 400, "name must be valid"),
        ({"Name": ""}, 409, "already exists"),
        ({"Name": "ingress"}, 409, "network with name ingress already exists"),
        ({"Name": "Ingress"}, 409, "network with name Ingress already exists as ingress; names must differ by more"),
        ({"Name": "two", "Ingress": True}, 409, "is already present"),
        ({"Name": "x", "Driver": "bridge"}, 404, 'plugin "bridge" not found'),
        ({"Name": "x", "Scope": "local"}, 400, "cannot downgrade network scope for overlay networks"),
        ({"Name": "x", "EnableIPv6": True}, 400, "IPv6"),
        ({"Name": "x", "Options": {"encrypted": ""}}, 501, "leave out --opt encrypted"),
        ({"Name": "x", "Options": {"com.docker.network.driver.mtu": "huge"}}, 400, "a number from 68 to 65535"),
        ({"Name": "x", "ConfigOnly": True}, 501, "only a configuration"),
        ({"Name": "x", "IPAM": {"Driver": "dhcp"}}, 400, "default IPAM driver"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.0/31"}]}}, 400, "no room for a gateway and a task"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.5/24"}]}}, 400, "host bits set; write 10.9.0.0/24"),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.8.0.1"}]}},
            400,
            "no matching subnet for gateway 10.8.0.1",
        ),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "IPRange": "10.8.0.0/25"}]}},
            400,
            "no matching subnet for range 10.8.0.0/25",
        ),
        (
            {"Name": "x", "IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"a": "10.8.0.1"}}]}},
            400,
            "no matching subnet for aux-address 10.8.0.1",
        ),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.0.300.0/24"}]}}, 400, "invalid CIDR address: 10.0.300.0/24"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, 400, "address: fd00::/64; an IPv4 subnet such"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.0.0.128/25"}]}}, 409, "10.0.0.0/24 of network 'ingress'"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}, 409, "the nodes' own network"),
        ({"Name": "x", "IPAM": {"Config": [{"Gateway": "10.1.0.1"}]}}, 400, "needs a subnet"),
        ({"Name": 5}, 400, "Name: a string is needed, not 5"),
        ([], 400, "an object is needed"),
    ],
)
def test_bad_networks(tmp_path: Path, body: Any, status: int, words: str) -> None:
    """A network that cannot be is refused with one line, and nothing is created."""

    async def scenario(api: Api) -> None:
        before = api.process.manager.view.rev
        answer = await api.refused("POST", "/networks/create", body)
        assert answer[0] == status
        assert words in answer[1]
        assert api.process.manager.view.rev == before

    served(tmp_path, scenario, replace(SETTINGS, avoid=("172.17.0.0/24",)))


@pytest.mark.parametrize(
    ("esp", "why"),
    [
        (
            Probe("ESP", True),
            "meshnet does not encrypt overlay networks yet, though this kernel could (it has ESP); ",
        ),
        (
            Probe("ESP", False, "Protocol not supported", "a kernel with INET_ESP"),
            "meshnet does not encrypt overlay networks yet, and this kernel cannot: it has no ESP with AES-GCM "
            "(Protocol not supported); ",
        ),
    ],
)
def test_why_a_network_is_not_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, esp: Probe, why: str) -> None:
    """The refusal names what is missing on this kernel, the kernel's part or meshnet's, and what to do instead."""
    monkeypatch.setattr(capabilities, "esp", lambda: esp)

    async def scenario(api: Api) -> None:
        for options in ({"encrypted": ""}, {"encrypted": "true"}):
            status, words = await api.refused("POST", "/networks/create", {"Name": "x", "Options": options})
            assert (status, words.startswith(why)) == (501, True), words
            assert "leave out --opt encrypted, and encrypt between the nodes" in words
        assert [network["Name"] for network in await api.get("/networks")] == ["ingress"]

    served(tmp_path, scenario)


def test_auxiliary_addresses_and_ranges(tmp_path: Path) -> None:
    """Addresses that are kept for something else are never given out; the others come from the range."""

    async def scenario(api: Api) -> None:
        config = {
            "Subnet": "10.9.0.0/24",
            "IPRange": "10.9.0.8/29",
            "Gateway": "10.9.0.1",
            "AuxiliaryAddresses": {"router": "10.9.0.8", "printer": "10.9.0.9"},
        }
        await api.post("/networks/create", {"Name": "own", "IPAM": {"Config": [config]}})
        assert (await api.get("/networks/own"))["IPAM"]["Config"] == [config]
        for number in range(6):
            body = service(f"s{number}", TaskTemplate=template(Networks=[{"Target": "own"}]), Mode={"Global": {}})
            await api.post("/services/create", body)
            vip = (await api.get(f"/services/s{number}"))["Endpoint"]["VirtualIPs"][0]["Addr"]
            assert vip == f"10.9.0.{10 + number}/24"
        refusal = await api.refused("POST", "/services/create", {**body, "Name": "more"})
        assert refusal == (500, "no address is left on network own (10.9.0.8/29)")

    served(tmp_path, scenario)


def test_pruning_networks(tmp_path: Path) -> None:
    """A prune removes what nothing uses and the filters name, and never ingress."""

    async def scenario(api: Api) -> None:
        for name, labels in (("a", {}), ("b", {"keep": "yes"}), ("c", {}), ("used", {})):
            await api.post("/networks/create", {"Name": name, "Labels": labels})
        await api.post("/services/create", service("web", TaskTemplate=template(Networks=[{"Target": "used"}])))
        assert await api.refused("POST", "/networks/prune", filters={"until": ["soon"]}) == (
            400,
            "invalid filter 'until=soon': a time or a duration such as 24h is needed",
        )
        assert await api.post("/networks/prune", filters={"until": ["24h"]}) == {"NetworksDeleted": None}
        pruned = await api.post("/networks/prune", filters={"label!": ["keep=yes"]})
        assert pruned == {"NetworksDeleted": ["a", "c"]}
        assert await api.post("/networks/prune") == {"NetworksDeleted": ["b"]}
        assert [n["Name"] for n in await api.get("/networks")] == ["ingress", "used"]

    served(tmp_path, scenario)


def test_a_node_spec_is_whole(tmp_path: Path) -> None:
    """Nothing is taken for granted in a node's update: a role or an availability that is missing is refused."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager, "docker-1", tmp_path / "docker-1")
        await node.start()
        try:
            for body, words in (
                ({"Availability": "active"}, 'invalid Role: ""'),
                ({"Role": "worker"}, 'invalid Availability: ""'),
                ([], "an object is needed"),
            ):
                refusal = await api.refused("POST", "/nodes/docker-1/update", body, version=1)
                assert (refusal[0], words in refusal[1]) == (400, True), refusal
            assert await api.refused("GET", "/tasks", filters={"service": ["nosuch"]}) == (
                404,
                "service nosuch not found",
            )
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_nodes(tmp_path: Path) -> None:
    """Nodes are shown and found by hostname; availability and labels change; drain moves the tasks away."""

    async def scenario(api: Api) -> None:
        manager = api.process.manager
        nodes = [FakeNode(manager, f"docker-{n}", tmp_path / f"docker-{n}") for n in (1, 2)]
        for node in nodes:
            await node.start()
        try:
            await api.post("/services/create", service("web", Mode={"Replicated": {"Replicas": 2}}))
            await eventually(lambda: all(len(node.running()) == 1 for node in nodes), "one task on each")
            shown = await api.get("/nodes/docker-2")
            assert shown["Spec"] == {"Labels": {}, "Role": "worker", "Availability": "active"}
            assert shown["Description"]["Platform"] == {"Architecture": "x86_64", "OS": "linux"}
            assert shown["Status"] == {"State": "ready", "Addr": "127.0.0.2"}
            path, version = f"/nodes/{shown['ID']}/update", shown["Version"]["Index"]
            spec = {**shown["Spec"], "Labels": {"disk": "ssd"}, "Availability": "drain"}
            assert await api.post(path, spec, version=version) is None
            await eventually(lambda: len(nodes[0].running()) == 2, "the drained node's task runs elsewhere")
            assert (await api.get("/nodes/docker-2"))["Spec"]["Labels"] == {"disk": "ssd"}
            assert await api.refused("POST", path, {**spec, "Availability": "foo"}, version=1) == (
                400,
                'invalid Availability: "foo"',
            )
            status, text = await api.refused("POST", path, {**spec, "Role": "manager"}, version=await _version(api))
            assert (status, "promoted" in text) == (501, True)
            assert await api.refused("DELETE", "/nodes/docker-2") == (
                400,
                f"node {shown['ID']} is not down and can't be removed",
            )
            assert await api.refused("GET", "/nodes/nosuch") == (404, "node nosuch not found")
            assert [n["Description"]["Hostname"] for n in await api.get("/nodes")] == ["docker-1", "docker-2"]
            named = await api.get("/nodes", filters={"name": ["docker-1"]})
            assert [node["Description"]["Hostname"] for node in named] == ["docker-1"]
        finally:
            for node in nodes:
                await node.stop()

    served(tmp_path, scenario)


async def _version(api: Api) -> int:
    return int((await api.get("/nodes/docker-2"))["Version"]["Index"])


def test_an_exhausted_network(tmp_path: Path) -> None:
    """Tasks that get no address say so, and go on when addresses come free."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager, "docker-1", tmp_path / "docker-1")
        await node.start()
        try:
            await api.post("/networks/create", {"Name": "tiny", "IPAM": {"Config": [{"Subnet": "10.34.0.0/29"}]}})
            networks = [{"Target": "tiny"}]
            body = service("a", Mode={"Replicated": {"Replicas": 5}}, TaskTemplate=template(Networks=networks))
            await api.post("/services/create", body)
            await eventually(lambda: len(node.running()) == 4, "all addresses but gateway and VIP are used")
            (waiting,) = [t for t in await api.get("/tasks") if t["Status"]["State"] == "new"]
            assert waiting["Status"]["Err"] == "no address is left on network tiny (10.34.0.0/29)"
            assert (await api.get("/services/a"))["Waiting"] == [f"1 task: {waiting['Status']['Err']}"]
            refusal = await api.refused(
                "POST", "/services/create", service("b", TaskTemplate=template(Networks=networks))
            )
            assert refusal == (500, "no address is left on network tiny (10.34.0.0/29)")
            ended = next(iter(node.running()))
            node.tell(ended, "failed")
            await eventually(lambda: len(node.running()) == 4, "the freed address is used")
            spec = {**(await api.get("/services/a"))["Spec"], "Mode": {"Replicated": {"Replicas": 4}}}
            await api.post("/services/a/update", spec, version=(await api.get("/services/a"))["Version"]["Index"])
            await eventually(lambda: not api.process.manager.view.waiting, "nothing waits")
            assert "Waiting" not in await api.get("/services/a")
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_bad_requests(tmp_path: Path) -> None:
    """Bodies that are no JSON, too large, or broken off are answered or dropped, and the manager goes on."""

    async def scenario(api: Api) -> None:
        head = b"POST /services/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        answer = await api.raw(head + b"Content-Length: 5\r\n\r\n{nope")
        assert b"400 Bad Request" in answer
        assert b"not JSON" in answer
        large = b"[" + b"1," * (3 * 2**20) + b"1]"
        answer = await api.raw(head + f"Content-Length: {len(large)}\r\n\r\n".encode() + large)
        assert b"413" in answer
        reader, writer = await asyncio.open_unix_connection(str(api.socket_path))
        writer.write(head + b"Content-Length: 500\r\n\r\n{")
        await writer.drain()
        writer.close()
        assert await reader.read() == b""
        assert await api.refused("GET", "/services", filters="{") == (
            400,
            "invalid filters: '{' is not an object of filters",
        )
        assert await api.refused("GET", "/services", filters={"odd": ["x"]}) == (400, "invalid filter 'odd'")
        assert await api.refused("POST", "/services/nosuch/update", service("x"), version="x") == (
            400,
            "invalid service version 'x': strconv.ParseUint: parsing \"x\": invalid syntax",
        )
        assert await api.get("/services") == []

    served(tmp_path, scenario)


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A write that does not fit is refused with the place that is full and changes nothing; then all goes on."""

    async def scenario(api: Api) -> None:
        store = api.process.manager.state._store
        assert isinstance(store, SqliteStore)

        async def pages(pragma: str) -> int:
            return int((await store._run(lambda: store._db.execute(f"PRAGMA {pragma}").fetchone()))[0])

        await api.post("/networks/create", {"Name": "before"})
        most = await pages("max_page_count")
        await pages(f"max_page_count={await pages('page_count')}")
        wide = {"Name": "wide", "Labels": {"much": "x" * 20_000}}
        said = f"no space left in {tmp_path / 'store'}: free some, or see with df what fills it"
        for _ in range(2):
            assert await api.refused("POST", "/networks/create", wide) == (507, said)
        assert {network["Name"] for network in await api.get("/networks")} == {"before", "ingress"}
        await pages(f"max_page_count={most}")
        await api.post("/networks/create", wide)
        assert {network["Name"] for network in await api.get("/networks")} == {"before", "ingress", "wide"}

    served(tmp_path, scenario)
    assert "Traceback" not in caplog.text


def test_client_errors(tmp_path: Path) -> None:
    """The client's exceptions say what kind of refusal it was, and that nobody answers if so."""

    async def scenario(api: Api) -> None:
        with pytest.raises(NotFoundError, match="service nosuch not found"):
            await api.get("/services/nosuch")
        await api.post("/services/create", service("a"))
        with pytest.raises(ConflictError):
            await api.post("/services/create", service("a"))

    served(tmp_path, scenario)
    with pytest.raises(MeshnetError, match="no engine answers"):
        EngineClient(tmp_path / "none.sock").get("/info")


@contextmanager
def answering_later(path: Path, greets: bool) -> Iterator[None]:
    """A server that answers its first request after the second connection was made, and that one if it `greets`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            first, _ = listener.accept()
            second, _ = listener.accept()
            with first, second:
                if greets:
                    second.recv(1000)
                    second.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n")
                    first.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
                while second.recv(1000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers nothing is given up soon, with its own status; one that only takes its time is waited for."""
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    monkeypatch.setattr(client, "GREETING", 0.05)
    with answering_later(tmp_path / "hangs.sock", False):
        with pytest.raises(MeshnetError, match=r"hangs\.sock does not answer: it is stopped or hangs") as raised:
            EngineClient(tmp_path / "hangs.sock").get("/nodes")
        assert raised.value.status == client.HUNG
    monkeypatch.setattr(client, "GREETING", 5.0)
    with answering_later(tmp_path / "slow.sock", True):
        assert EngineClient(tmp_path / "slow.sock").get("/nodes") == []


def test_shapes_of_a_real_engine(tmp_path: Path) -> None:
    """The keys of a service and a task are those a real engine showed for the same request."""
    asked = {
        "Name": "echo",
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "nginx:latest", "Args": ["sleep", "1000"], "Init": False},
            "Placement": {},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Mode": "vip"},
    }

    async def scenario(api: Api) -> None:
        await api.post("/services/create", asked)
        shown = await api.get("/services/echo")
        shown.pop("Waiting", None)  # there is no node, and the controllers may have found that already
        assert list(shown) == ["ID", "Version", "CreatedAt", "UpdatedAt", "Spec", "Endpoint"]
        assert shown["Endpoint"] == {"Spec": {}}
        assert list(shown["Spec"]) == ["Name", "Labels", "TaskTemplate", "Mode", "EndpointSpec"]
        assert shown["Spec"]["EndpointSpec"] == {"Mode": "vip"}
        template = shown["Spec"]["TaskTemplate"]
        assert template["ContainerSpec"] == {
            "Image": "nginx:latest",
            "Args": ["sleep", "1000"],
            "Init": False,
            "Isolation": "default",
        }
        assert "Resources" not in template
        assert (template["Placement"], template["ForceUpdate"], template["Runtime"]) == ({}, 0, "container")
        tasks = api.process.manager.view.tasks
        await eventually(lambda: len(tasks) == 1, "the task exists")
        (task,) = await api.get("/tasks")
        assert json.dumps(task["Labels"]) == "{}"
        assert task["Status"]["PortStatus"] == {}
        assert "NetworksAttachments" not in task

    served(tmp_path, scenario)
