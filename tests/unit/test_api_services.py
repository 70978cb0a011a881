"""Services over the API: what is taken, what is refused, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_world import Api, limiting, published, served, service, template
from swarm import SETTINGS, FakeNode, eventually

from meshnet.errors import MeshnetError
from meshnet.sandbox.images import HostImage, Images
from meshnet.sandbox.store import ImageStore, StoredImage

NFS = {"DriverConfig": {"Name": "local", "Options": {"type": "nfs"}}}


def _mount(kind: str, **options: Any) -> dict[str, Any]:
    return {"Type": kind, "Source": "" if kind == "tmpfs" else "/x", "Target": "/t", **options}


def test_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service is created, shown with the Engine's fields, scaled, listed with its counts, and removed."""
    limiting(monkeypatch, tmp_path)

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager, "docker-1", tmp_path / "docker-1")
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
            body["TaskTemplate"]["Resources"] = {"Limits": {"MemoryBytes": 5242880}}
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


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (service("pub"), 409, "name conflicts with an existing object: service pub already exists"),
        (service("PuB"), 409, "service PuB already exists as pub; names must differ by more than case"),
        (service("bad name"), 400, "name must be valid as a DNS name component"),
        (service("a.b"), 400, "name must be valid as a DNS name component"),
        (service("x" * 64), 400, "name must be 63 characters or fewer"),
        (service("x", TaskTemplate=template(Networks=[{"Target": "nosuch"}])), 404, "network nosuch not found"),
        (
            service("x", TaskTemplate=template(Networks=[{"Target": "ingress"}])),
            400,
            'Service cannot be explicitly attached to the ingress network "ingress"',
        ),
        (
            service("x", EndpointSpec={"Ports": [published(8080)]}),
            400,
            "port '8080' is already in use by service 'pub' (ID) as an ingress port",
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
            service("x", TaskTemplate=template(Placement={"Constraints": ["node.hostname=a"]})),
            500,
            "constraint expected one operator from ==, !=",
        ),
        (
            service("x", TaskTemplate=template(RestartPolicy={"Condition": "foo"})),
            400,
            'invalid RestartCondition: "foo"',
        ),
        (service("x", Mode={"Replicated": {"Replicas": -1}}), 400, "Mode.Replicated.Replicas"),
        (service("x", Mode={"Replicated": {"Replicas": "2"}}), 400, "Mode.Replicated.Replicas: a whole number"),
        (service("x", Mode={"ReplicatedJob": {"MaxConcurrent": -1}}), 400, "Mode.ReplicatedJob.MaxConcurrent"),
        (service("x", Mode={"GlobalJob": {}, "Global": {}}), 400, "must specify only one service mode"),
        (
            service("x", Mode={"GlobalJob": {}}, UpdateConfig={}),
            400,
            "update and rollback configuration is not supported for jobs",
        ),
        (
            {"Name": "x", "TaskTemplate": {"ContainerSpec": {"Image": "app:1", "Secrets": [{"SecretID": "s"}]}}},
            400,
            "malformed secret reference",
        ),
        ({"Name": "x", "TaskTemplate": {}}, 400, "image reference must be provided"),
        ({"Name": "x"}, 400, "image reference must be provided"),
    ],
)
def test_bad_services(tmp_path: Path, body: Any, status: int, words: str) -> None:
    """A service that Swarm refuses is refused in its words, and nothing is created."""

    async def scenario(api: Api) -> None:
        made = await api.post("/services/create", service("pub", EndpointSpec={"Ports": [published(8080)]}))
        before = set(api.process.manager.view.services)
        answer = await api.refused("POST", "/services/create", body)
        assert answer[0] == status
        assert words.replace("(ID)", f"({made['ID']})") in answer[1]
        assert set(api.process.manager.view.services) == before

    served(tmp_path, scenario)


def test_a_dnsrr_service(tmp_path: Path) -> None:
    """A dnsrr service has no VIP."""

    async def scenario(api: Api) -> None:
        await api.post("/networks/create", {"Name": "demo"})
        body = service("a", EndpointSpec={"Mode": "dnsrr"}, TaskTemplate=template(Networks=[{"Target": "demo"}]))
        await api.post("/services/create", body)
        shown = await api.get("/services/a")
        assert "VirtualIPs" not in shown["Endpoint"]

    served(tmp_path, scenario)


def test_constraints_that_nothing_satisfies(tmp_path: Path) -> None:
    """A task that no node can take stays pending and says why; it runs once a node can."""

    async def scenario(api: Api) -> None:
        node = FakeNode(api.process.manager, "docker-1", tmp_path / "docker-1")
        await node.start()
        try:
            placement = {"Constraints": ["node.labels.disk==ssd"]}
            await api.post("/services/create", service("web", TaskTemplate=template(Placement=placement)))
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


def test_unknown_images_are_warned_about(tmp_path: Path) -> None:
    """A service of an image that is not here now is warned about at once; every spelling of a name counts alike."""
    store = ImageStore(str(tmp_path / "images"))

    async def scenario(api: Api) -> None:
        async def warnings(image: str) -> list[str]:
            asked = service(f"s{len(api.process.manager.view.services)}")
            asked["TaskTemplate"]["ContainerSpec"]["Image"] = image
            return list((await api.post("/services/create", asked)).get("Warnings", ()))

        lacking = "is neither of the catalogue nor loaded here: until it is, its tasks will be rejected"
        for known in (
            "app",
            "docker.io/library/app:7",
            "index.docker.io/library/app",
            "library/app@sha256:" + "0" * 64,
        ):
            assert await warnings(known) == [], known
        for unknown in ("nosuch:9", "example.org/app", "app.example.org:5000/x/app:1", "docker.io/team/app"):
            assert await warnings(unknown) == [f"image {unknown} {lacking}"]
        with store.unpacking() as place:
            (place / "rootfs").mkdir()
            loaded = store.add(StoredImage("1" * 64, ("nosuch:9", "team/app:latest")), place)
        for known in (
            "nosuch:9",
            "docker.io/library/nosuch:9",
            "docker.io/team/app",
            "index.docker.io/team/app:latest",
        ):
            assert await warnings(known) == [], known
        assert await warnings("team/app:1") == [f"image team/app:1 {lacking}"]
        store.delete(loaded)
        assert await warnings("nosuch:9") == [f"image nosuch:9 {lacking}"]

    served(tmp_path, scenario, replace(SETTINGS, has_image=Images({"app": HostImage()}, str(tmp_path / "images")).has))


def test_rolling_back_over_the_api(tmp_path: Path) -> None:
    """`rollback=previous` or a number takes an earlier spec; what is no such thing, or is not there, is refused."""

    async def scenario(api: Api) -> None:
        made = await api.post("/services/create", service("web", Mode={"Replicated": {"Replicas": 0}}))

        async def change(image: str, **query: Any) -> Any:
            for _ in range(20):
                shown = await api.get("/services/web")
                body = shown["Spec"]
                body["TaskTemplate"]["ContainerSpec"]["Image"] = image
                try:
                    return await api.post("/services/web/update", body, version=shown["Version"]["Index"], **query)
                except MeshnetError as error:  # the updater wrote in between that it has begun or is done
                    if "out of sequence" not in str(error):
                        raise
            raise AssertionError("the service never keeps still")

        async def image() -> Any:
            return (await api.get("/services/web"))["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]

        version = (await api.get("/services/web"))["Version"]["Index"]
        for option, words in (
            ("previous", f"service {made['ID']} does not have a previous spec"),
            ("next", "unrecognized rollback option next: previous, or a number from 1 to 5, is needed"),
            ("6", "unrecognized rollback option 6"),
        ):
            refusal = await api.refused("POST", "/services/web/update", {}, version=version, rollback=option)
            assert (refusal[0], words in refusal[1]) == (400, True), refusal
        for number in (2, 3, 4):
            assert await change(f"app:{number}") == {"Warnings": None}
        assert (await api.get("/services/web"))["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "app:3"
        await change("ignored:1", rollback="previous")
        assert await image() == "app:3"
        assert (await api.get("/services/web"))["UpdateStatus"]["Message"] in (
            "manually requested rollback",
            "rollback completed",
        )
        await change("ignored:1", rollback="3")
        assert await image() == "app:1"

    served(tmp_path, scenario)


def test_what_is_without_effect_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that asks for what this machine cannot do is made with a warning that names the reason."""
    limiting(monkeypatch, tmp_path, "pids")

    async def scenario(api: Api) -> None:
        body = service("web")
        body["TaskTemplate"]["Resources"] = {"Limits": {"MemoryBytes": 5242880, "Pids": 9}}
        body["TaskTemplate"]["LogDriver"] = {"Name": "syslog"}
        body["TaskTemplate"]["ContainerSpec"]["Healthcheck"] = {"StartInterval": 5000000}
        memory, health, log = sorted((await api.post("/services/create", body))["Warnings"], key=len, reverse=True)
        assert memory.startswith("no memory limit is applied: cgroup2 has no memory controller here")
        assert log.startswith("the log driver syslog is not there")
        assert health.startswith("Healthcheck.StartInterval")

    served(tmp_path, scenario)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"CapabilityAdd": ["SYS_ADMIN"]}, "capability CAP_SYS_ADMIN is not given"),
        ({"CapabilityDrop": ["FLY"]}, 'unknown capability: "CAP_FLY"'),
        ({"Sysctls": {"vm.swappiness": "1"}}, 'sysctl "vm.swappiness" is not in a separate kernel namespace'),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "ulimit soft limit must be less than or equal"),
        ({"OomScoreAdj": 1001}, "range for oom score adj is [-1000, 1000]"),
        ({"StopSignal": "SIGNOSUCH"}, "no such signal"),
        ({"DNSConfig": {"Nameservers": ["dns"]}}, "invalid DNS server: 'dns' is not an IP address"),
        ({"Hosts": ["db"]}, "ContainerSpec.Hosts: 'db' is not an address and a name"),
        ({"Privileges": {"Seccomp": {"Mode": "unconfined"}}}, "the seccomp mode unconfined is not served"),
        ({"Privileges": {"CredentialSpec": {"Config": "x"}}}, "credential specs are not served"),
        ({"Privileges": {"SELinuxContext": {"User": "x"}}}, "SELinux labels are not served"),
        ({"Privileges": {"AppArmor": {"Mode": "custom"}}}, "the AppArmor mode custom is not served"),
        ({"Mounts": [_mount("bind", BindOptions={"Propagation": "shared"})]}, "the propagation shared is not served"),
        ({"Mounts": [_mount("volume", VolumeOptions={"Subpath": "x"})]}, "a subpath of a volume is not served"),
        ({"Mounts": [_mount("volume", VolumeOptions=NFS)]}, "options of the volume driver are not served"),
        ({"Mounts": [_mount("tmpfs", TmpfsOptions={"Options": [["noexec"]]})]}, "options of a tmpfs are not served"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, part: dict[str, Any], words: str) -> None:
    """What a container would be without, or must not have, is refused with its name, and no service is made."""

    async def scenario(api: Api) -> None:
        body = service("web")
        body["TaskTemplate"]["ContainerSpec"].update(part)
        status, said = await api.refused("POST", "/services/create", body)
        assert status in (400, 501)
        assert words in said
        assert await api.get("/services") == []

    served(tmp_path, scenario)
