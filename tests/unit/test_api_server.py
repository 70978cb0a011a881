"""The Engine API over a unix socket, asked with the thin client: shapes, statuses, messages, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from swarm import SETTINGS, FakeNode, eventually, run

from meshnet.api.client import EngineClient
from meshnet.api.process import ManagerProcess
from meshnet.control.settings import Settings
from meshnet.errors import ConflictError, MeshnetError, NotFoundError


class Api:
    """A manager process in the loop, and the blocking client in a thread."""

    def __init__(self, process: ManagerProcess, socket_path: Path) -> None:
        self.process = process
        self.client = EngineClient(socket_path)
        self.socket_path = socket_path

    async def get(self, path: str, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.get(path, **query))

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.post(path, body, **query))

    async def delete(self, path: str, **query: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.delete(path, **query))

    async def raw(self, text: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer

    async def refused(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, str]:
        with pytest.raises(MeshnetError) as refusal:
            await (self.post(path, body, **query) if method == "POST" else getattr(self, method.lower())(path, **query))
        return refusal.value.status, str(refusal.value)


def served(tmp_path: Path, scenario: Callable[[Api], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def inner() -> None:
        path = tmp_path / "manager.sock"
        process = ManagerProcess(tmp_path / "store", "127.0.0.1:0", path, settings)
        await process.start()
        try:
            await scenario(Api(process, path))
        finally:
            await process.stop()
        assert not path.exists()

    run(inner)


def service(name: str, **more: Any) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "app:1"}}, **more}


def published(port: int, mode: str = "ingress", protocol: str = "tcp") -> dict[str, Any]:
    return {"Protocol": protocol, "TargetPort": 80, "PublishedPort": port, "PublishMode": mode}


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
        ({"Name": "two", "Ingress": True}, 409, "is already present"),
        ({"Name": "x", "Driver": "bridge"}, 404, 'plugin "bridge" not found'),
        ({"Name": "x", "Scope": "local"}, 400, "cannot downgrade network scope for overlay networks"),
        ({"Name": "x", "EnableIPv6": True}, 400, "IPv6"),
        ({"Name": "x", "Options": {"encrypted": ""}}, 400, "encrypted"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.0.300.0/24"}]}}, 400, "invalid CIDR address: 10.0.300.0/24"),
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


def test_services(tmp_path: Path) -> None:
    """A service is created, shown with the Engine's fields, scaled, listed with its counts, and removed."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager.listen_address, "docker-1")
        await node.start()
        try:
            network = (await api.post("/networks/create", {"Name": "demo"}))["Id"]
            body = service(
                "web",
                Labels={"tier": "front"},
                Mode={"Replicated": {"Replicas": 2}},
                EndpointSpec={"Ports": [published(8080)]},
            )
            body["TaskTemplate"]["Networks"] = [{"Target": "demo", "Aliases": ["www"]}]
            body["TaskTemplate"]["Resources"] = {"Limits": {"MemoryBytes": 1}}
            created = await api.post("/v1.41/services/create", body)
            assert list(created) == ["ID"]
            shown = await api.get("/services/web", insertDefaults="true")
            assert shown["ID"] == created["ID"]
            assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
            assert shown["Spec"]["TaskTemplate"]["Networks"] == [{"Target": network, "Aliases": ["www"]}]
            assert shown["Endpoint"]["Ports"] == [published(8080)]
            ingress = (await api.get("/networks/ingress"))["Id"]
            assert shown["Endpoint"]["VirtualIPs"] == [
                {"NetworkID": ingress, "Addr": "10.0.0.3/24"},
                {"NetworkID": network, "Addr": "10.0.1.2/24"},
            ]
            await eventually(lambda: len(node.running()) == 2, "two tasks run")
            await node.client.reported()
            listed = await api.get("/services", status="true")
            assert listed[0]["ServiceStatus"] == {"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0}
            tasks = await api.get("/tasks", filters={"service": {"web": True}, "desired-state": {"running": True}})
            assert [task["Slot"] for task in tasks] == [1, 2]
            assert tasks[0]["Status"]["State"] == "running"
            assert [a["Network"]["Spec"]["Name"] for a in tasks[0]["NetworksAttachments"]] == ["ingress", "demo"]
            assert (await api.get(f"/tasks/{tasks[0]['ID']}"))["ID"] == tasks[0]["ID"]
            spec = {**shown["Spec"], "Mode": {"Replicated": {"Replicas": 1}}}
            version = shown["Version"]["Index"]
            assert await api.post("/services/web/update", spec, version=version) == {"Warnings": None}
            assert await api.refused("POST", "/services/web/update", spec, version=version) == (
                500,
                "update out of sequence",
            )
            await eventually(lambda: len(node.running()) == 1, "one task runs")
            assert await api.refused("DELETE", "/networks/demo") == (
                400,
                f"network {network} is in use by service {created['ID']}",
            )
            verbose = await api.get("/networks/demo", verbose="true")
            assert verbose["Services"]["web"]["VIP"] == "10.0.1.2"
            assert await api.delete("/services/web") is None
            await eventually(lambda: not node.running(), "no task runs")
            assert await api.get("/services") == []
            await api.delete("/networks/demo")
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_global_and_random_ports(tmp_path: Path) -> None:
    """Unnamed services get a name, ports that are not given start at 30000, and freed ones are not reused at once."""

    async def scenario(api: Api) -> None:
        made = await api.post("/services/create", service("", Mode={"Global": {}}))
        shown = await api.get(f"/services/{made['ID']}")
        assert shown["Spec"]["Mode"] == {"Global": {}}
        assert shown["Spec"]["Name"]
        assert shown["Endpoint"] == {"Spec": {}}
        for name, expected in (("a", 30000), ("b", 30001)):
            await api.post("/services/create", service(name, EndpointSpec={"Ports": [{"TargetPort": 80}]}))
            assert (await api.get(f"/services/{name}"))["Endpoint"]["Ports"] == [published(expected)]
        await api.delete("/services/a")
        await api.post("/services/create", service("c", EndpointSpec={"Ports": [{"TargetPort": 80}]}))
        assert (await api.get("/services/c"))["Endpoint"]["Ports"] == [published(30002)]

    served(tmp_path, scenario)


def _template(**more: Any) -> dict[str, Any]:
    return {"ContainerSpec": {"Image": "app:1"}, **more}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (service("pub"), 409, "name conflicts with an existing object: service pub already exists"),
        (service("bad name"), 400, "name must be valid as a DNS name component"),
        (service("a.b"), 400, "name must be valid as a DNS name component"),
        (service("x" * 64), 400, "name must be 63 characters or fewer"),
        (service("x", TaskTemplate=_template(Networks=[{"Target": "nosuch"}])), 404, "network nosuch not found"),
        (
            service("x", TaskTemplate=_template(Networks=[{"Target": "ingress"}])),
            400,
            'Service cannot be explicitly attached to the ingress network "ingress"',
        ),
        (
            service("x", EndpointSpec={"Ports": [published(8080)]}),
            400,
            "port '8080' is already in use by service 'pub' (ID) as an ingress port",
        ),
        (
            service("x", EndpointSpec={"Ports": [published(8090)]}),
            400,
            "port '8090' is already in use by service 'host' (ID) as a host-published port",
        ),
        (
            service("x", EndpointSpec={"Ports": [published(8082), published(8082)]}),
            400,
            "EndpointSpec: duplicate published ports provided",
        ),
        (service("x", EndpointSpec={"Ports": [published(7946)]}), 400, "port '7946/tcp' is reserved"),
        (service("x", EndpointSpec={"Ports": [published(2377)]}), 400, "port '2377/tcp' is reserved"),
        (service("x", EndpointSpec={"Ports": [published(4789, protocol="udp")]}), 400, "port '4789/udp' is reserved"),
        (service("x", EndpointSpec={"Ports": [published(70000)]}), 400, "published port 70000"),
        (service("x", EndpointSpec={"Ports": [{"TargetPort": 0}]}), 400, "target port 0"),
        (
            service("x", EndpointSpec={"Mode": "dnsrr", "Ports": [published(8083)]}),
            400,
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ),
        (service("x", EndpointSpec={"Mode": "foo"}), 400, 'invalid resolution mode: "foo"'),
        (
            service("x", TaskTemplate=_template(Placement={"Constraints": ["node.hostname=a"]})),
            500,
            "constraint expected one operator from ==, !=",
        ),
        (
            service("x", TaskTemplate=_template(RestartPolicy={"Condition": "foo"})),
            400,
            'invalid RestartCondition: "foo"',
        ),
        (service("x", Mode={"Replicated": {"Replicas": -1}}), 400, "Mode.Replicated.Replicas"),
        (service("x", Mode={"Replicated": {"Replicas": "2"}}), 400, "Mode.Replicated.Replicas: a whole number"),
        (service("x", Mode={"ReplicatedJob": {}}), 501, "Mode.ReplicatedJob: jobs are not supported yet"),
        (
            {"Name": "x", "TaskTemplate": {"ContainerSpec": {"Image": "app:1", "Secrets": [{"SecretID": "s"}]}}},
            501,
            "TaskTemplate.ContainerSpec.Secrets",
        ),
        ({"Name": "x", "TaskTemplate": {}}, 400, "image reference must be provided"),
        ({"Name": "x"}, 400, "image reference must be provided"),
    ],
)
def test_bad_services(tmp_path: Path, body: Any, status: int, words: str) -> None:
    """A service that Swarm refuses is refused in its words, and nothing is created."""

    async def scenario(api: Api) -> None:
        ids = {}
        for name, port in (("pub", published(8080)), ("host", published(8090, "host"))):
            ids[name] = (await api.post("/services/create", service(name, EndpointSpec={"Ports": [port]})))["ID"]
        before = set(api.process.manager.view.services)
        answer = await api.refused("POST", "/services/create", body)
        assert answer[0] == status
        assert any(words.replace("ID", ident) in answer[1] for ident in ids.values())
        assert set(api.process.manager.view.services) == before

    served(tmp_path, scenario)


def test_dnsrr_and_host_ports(tmp_path: Path) -> None:
    """A dnsrr service has no VIP; it may publish in host mode, as may several services the same port."""

    async def scenario(api: Api) -> None:
        await api.post("/networks/create", {"Name": "demo"})
        for name in ("a", "b"):
            endpoint = {"Mode": "dnsrr", "Ports": [published(8083, "host")]}
            body = service(name, EndpointSpec=endpoint, TaskTemplate=_template(Networks=[{"Target": "demo"}]))
            await api.post("/services/create", body)
        shown = await api.get("/services/a")
        assert "VirtualIPs" not in shown["Endpoint"]

    served(tmp_path, scenario)


def test_nodes(tmp_path: Path) -> None:
    """Nodes are shown and found by hostname; availability and labels change; drain moves the tasks away."""

    async def scenario(api: Api) -> None:
        address = api.process.manager.listen_address
        nodes = [FakeNode(address, f"docker-{n}") for n in (1, 2)]
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


def test_constraints_that_nothing_satisfies(tmp_path: Path) -> None:
    """A task that no node can take stays pending and says why; it runs once a node can."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager.listen_address, "docker-1")
        await node.start()
        try:
            placement = {"Constraints": ["node.labels.disk==ssd"]}
            await api.post("/services/create", service("web", TaskTemplate=_template(Placement=placement)))
            tasks = api.process.manager.view.tasks
            await eventually(lambda: any(t.status.state == "pending" for t in tasks.values()), "the task is pending")
            (task,) = await api.get("/tasks")
            assert task["Status"]["Err"] == "no suitable node (scheduling constraints not satisfied on 1 node)"
            shown = await api.get("/nodes/docker-1")
            spec = {**shown["Spec"], "Labels": {"disk": "ssd"}}
            await api.post("/nodes/docker-1/update", spec, version=shown["Version"]["Index"])
            await eventually(node.running, "the task runs")
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_an_exhausted_network(tmp_path: Path) -> None:
    """Tasks that get no address say so, and go on when addresses come free."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager.listen_address, "docker-1")
        await node.start()
        try:
            await api.post("/networks/create", {"Name": "tiny", "IPAM": {"Config": [{"Subnet": "10.34.0.0/29"}]}})
            networks = [{"Target": "tiny"}]
            body = service("a", Mode={"Replicated": {"Replicas": 5}}, TaskTemplate=_template(Networks=networks))
            await api.post("/services/create", body)
            await eventually(lambda: len(node.running()) == 4, "all addresses but gateway and VIP are used")
            (waiting,) = [t for t in await api.get("/tasks") if t["Status"]["State"] == "new"]
            assert waiting["Status"]["Err"] == "no address is left on network tiny (10.34.0.0/29)"
            refusal = await api.refused(
                "POST", "/services/create", service("b", TaskTemplate=_template(Networks=networks))
            )
            assert refusal == (500, "no address is left on network tiny (10.34.0.0/29)")
            ended = next(iter(node.running()))
            node.tell(ended, "failed")
            await eventually(lambda: len(node.running()) == 4, "the freed address is used")
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_unknown_images_are_warned_about(tmp_path: Path) -> None:
    """A manager that knows the images says so at once when a service asks for another."""

    async def scenario(api: Api) -> None:
        assert "Warnings" not in await api.post("/services/create", service("a"))
        other = {"Name": "b", "TaskTemplate": {"ContainerSpec": {"Image": "nosuch:9"}}}
        assert (await api.post("/services/create", other))["Warnings"] == [
            "image nosuch:9 is not known here: its tasks will be rejected"
        ]

    served(tmp_path, scenario, replace(SETTINGS, images=("app",)))


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
            "invalid service version 'x': a number is needed",
        )
        assert await api.get("/services") == []

    served(tmp_path, scenario)


def test_client_errors(tmp_path: Path) -> None:
    """The client's exceptions say what kind of refusal it was, and that nobody answers if so."""

    async def scenario(api: Api) -> None:
        with pytest.raises(NotFoundError, match="service nosuch not found"):
            await api.get("/services/nosuch")
        await api.post("/services/create", service("a"))
        with pytest.raises(ConflictError):
            await api.post("/services/create", service("a"))

    served(tmp_path, scenario)
    with pytest.raises(MeshnetError, match="no manager answers"):
        EngineClient(tmp_path / "none.sock").get("/info")


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
        assert list(shown) == ["ID", "Version", "CreatedAt", "UpdatedAt", "Spec", "Endpoint"]
        assert shown["Endpoint"] == {"Spec": {}}
        assert list(shown["Spec"]) == ["Name", "Labels", "TaskTemplate", "Mode", "EndpointSpec"]
        assert shown["Spec"]["EndpointSpec"] == {"Mode": "vip"}
        template = shown["Spec"]["TaskTemplate"]
        assert template["ContainerSpec"] == {
            "Image": "nginx:latest",
            "Args": ["sleep", "1000"],
            "DNSConfig": {},
            "Isolation": "default",
        }
        assert template["Resources"] == {"Limits": {}, "Reservations": {}}
        assert (template["Placement"], template["ForceUpdate"], template["Runtime"]) == ({}, 0, "container")
        tasks = api.process.manager.view.tasks
        await eventually(lambda: len(tasks) == 1, "the task exists")
        (task,) = await api.get("/tasks")
        assert json.dumps(task["Labels"]) == "{}"
        assert task["Status"]["PortStatus"] == {}
        assert "NetworksAttachments" not in task

    served(tmp_path, scenario)
