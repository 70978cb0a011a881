"""The refusals of a real engine, one by one: what was typed there, and the status and words that came back.

Each line is what the docker command sends for a command that a real engine (20.10) refused or accepted. What that
engine wrongly accepts is refused here, and has its place in the last table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_world import Api, published, served, service, template
from swarm import SETTINGS, FakeNode, eventually

from meshnet.control.objects import Changes
from meshnet.model import ManagerStatus

DNS = "name must be valid as a DNS name component"
LONG = "name must be 63 characters or fewer"
OPERATOR = "constraint expected one operator from ==, !="
DNSRR = "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
TAKEN = "port '8080' is already in use by service 'pub' ({pub}) as an ingress port"
RAFT = "is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"


def made(name: str, **more: Any) -> dict[str, Any]:
    return service(name, Mode={"Replicated": {"Replicas": 0}}, **more)


def on(*networks: str) -> dict[str, Any]:
    return template(Networks=[{"Target": name} for name in networks])


def placed(constraint: str) -> dict[str, Any]:
    return template(Placement={"Constraints": [constraint]})


def ports(*given: dict[str, Any], mode: str = "vip") -> dict[str, Any]:
    return {"Mode": mode, "Ports": list(given)}


def subnet(name: str, text: str, **more: str) -> dict[str, Any]:
    return {"Name": name, "Driver": "overlay", "IPAM": {"Config": [{"Subnet": text, **more}]}}


SERVICES: list[tuple[dict[str, Any], int, str]] = [
    (made("s1"), 409, "name conflicts with an existing object: service s1 already exists"),
    (made("bad name"), 400, DNS),
    (made("-x"), 400, DNS),
    (made("a.b"), 400, DNS),
    (made("ünï"), 400, DNS),
    (made("x" * 64), 400, LONG),
    (made("e1", TaskTemplate=on("nosuchnet")), 404, "network nosuchnet not found"),
    (made("e3", EndpointSpec=ports(published(8080))), 400, TAKEN),
    (
        made("e4", EndpointSpec=ports(published(8082), {**published(8082), "TargetPort": 81})),
        400,
        "EndpointSpec: duplicate published ports provided",
    ),
    (made("e8", EndpointSpec=ports(published(8083), mode="dnsrr")), 400, DNSRR),
    (made("e10", EndpointSpec={"Mode": "foo"}), 400, 'invalid resolution mode: "foo"'),
    (made("e11", TaskTemplate=placed("foo")), 500, OPERATOR),
    (made("e12", TaskTemplate=placed("node.hostname=node1")), 500, OPERATOR),
    (
        made("e21", TaskTemplate=on("ingress")),
        400,
        'Service cannot be explicitly attached to the ingress network "ingress"',
    ),
    (
        made("e31", TaskTemplate=template(RestartPolicy={"Condition": "foo"})),
        400,
        'invalid RestartCondition: "foo"',
    ),
]

NETWORKS: list[tuple[dict[str, Any], int, str]] = [
    ({"Name": "web", "Driver": "overlay"}, 409, "network with name web already exists"),
    (subnet("ov5", "300.0.0.0/8"), 400, "Invalid subnet 300.0.0.0/8 : invalid CIDR address: 300.0.0.0/8"),
    (subnet("bad", "10.0.300.0/24"), 400, "Invalid subnet 10.0.300.0/24 : invalid CIDR address: 10.0.300.0/24"),
    (subnet("ov7", "10.31.0.0/24", Gateway="10.99.0.1"), 400, "no matching subnet for gateway 10.99.0.1"),
    (subnet("ov8", "10.32.0.0/24", IPRange="10.33.0.0/25"), 400, "no matching subnet for range 10.33.0.0/25"),
    ({"Name": "bad name", "Driver": "overlay"}, 400, DNS),
    ({"Name": "-bad", "Driver": "overlay"}, 400, DNS),
    ({"Name": "", "Driver": "overlay"}, 409, "network with name  already exists"),
    ({"Name": "n" * 68, "Driver": "overlay"}, 400, LONG),
    ({"Name": "ing2", "Ingress": True}, 409, "ingress network ({ingress}) is already present"),
    (
        {"Name": "sc1", "Driver": "overlay", "Scope": "local"},
        400,
        "cannot downgrade network scope for overlay networks",
    ),
]

# What is changed of an object: of a service its spec, of a node its spec.
UPDATES: list[tuple[str, dict[str, Any], int, str]] = [
    ("services/s1", {"EndpointSpec": ports(published(8080))}, 400, TAKEN),
    ("services/s1", {"TaskTemplate": on("nosuch")}, 404, "network nosuch not found"),
    ("services/pub", {"EndpointSpec": ports(published(8080), mode="dnsrr")}, 400, DNSRR),
    ("services/s1", {"Name": "other"}, 501, "renaming services is not supported"),
    ("services/s1", {"Mode": {"Global": {}}}, 501, "service mode change is not allowed"),
    ("nodes/docker-2", {"Availability": "foo"}, 400, 'invalid Availability: "foo"'),
    ("nodes/docker-1", {"Role": "worker"}, 400, "attempting to demote the last manager of the swarm"),
]

OTHERS: list[tuple[str, str, int, str]] = [
    ("GET", "/services/nosuch", 404, "service nosuch not found"),
    ("DELETE", "/services/nosuch", 404, "service nosuch not found"),
    ("POST", "/services/nosuch/update?version=1", 404, "service nosuch not found"),
    ("GET", "/nodes/nosuch", 404, "node nosuch not found"),
    ("DELETE", "/nodes/nosuch", 404, "node nosuch not found"),
    ("DELETE", "/nodes/docker-2", 400, "node {docker-2} is not down and can't be removed"),
    ("DELETE", "/nodes/docker-1", 400, "node {docker-1} " + RAFT),
    ("DELETE", "/nodes/docker-1?force=1", 400, "node {docker-1} " + RAFT),
    ("GET", "/networks/nosuch", 404, "network nosuch not found"),
    ("DELETE", "/networks/nosuch", 404, "network nosuch not found"),
    ("DELETE", "/networks/web", 400, "network {web} is in use by service {s1}"),
    ("DELETE", "/networks/ingress", 400, "network {ingress} is in use by service {pub}"),
    ("GET", "/tasks/nosuch", 404, "task nosuch not found"),
    ("GET", "/secrets/nosuch", 404, "secret nosuch not found"),
    ("DELETE", "/configs/nosuch", 404, "config nosuch not found"),
]

ACCEPTED: list[dict[str, Any]] = [
    made("a_b"),
    made("UPPER"),
    made("x" * 63),
    made(""),
    made("e7", EndpointSpec=ports({"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 0, "PublishMode": "ingress"})),
    made("e13", TaskTemplate=placed("node.foo==bar")),
    made("e20", TaskTemplate=on("web", "web")),
    made("e27", EndpointSpec=ports(published(5000), published(5001), published(5002))),
    made("e28", EndpointSpec=ports(published(5000, protocol="udp"), published(5001, protocol="udp"))),
]

# A real engine takes these, and what follows does not work or is said nowhere.
BETTER: list[tuple[str, dict[str, Any], int, str]] = [
    ("networks", subnet("ov1", "10.20.0.0/24"), 409, "overlaps with 10.20.0.0/24 of network 'own'"),
    ("networks", subnet("ov2", "10.20.0.128/25"), 409, "overlaps with"),
    ("networks", subnet("ov3", "10.0.0.0/8"), 409, "overlaps with"),
    ("networks", subnet("ov6", "10.30.0.5/24"), 400, "it has host bits set; write 10.30.0.0/24"),
    ("networks", subnet("ov10", "10.35.0.0/31"), 400, "no room for a gateway and a task"),
    ("networks", subnet("ov11", "10.36.0.0/32"), 400, "no room for a gateway and a task"),
    (
        "networks",
        {"Name": "vx1", "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4096"}},
        409,
        "VXLAN id 4096 is already in use by network 'ingress'",
    ),
    (
        "networks",
        {"Name": "vx3", "Options": {"com.docker.network.driver.overlay.vxlanid_list": "abc"}},
        400,
        "one number from 1 to",
    ),
    (
        "services",
        made("e19", TaskTemplate=template(Networks=[{"Target": "web", "Aliases": ["a b"]}])),
        400,
        "alias 'a b'",
    ),
    ("services", made("e26", EndpointSpec=ports(published(7946))), 400, "port '7946/tcp' is reserved"),
]


async def _world(api: Api, nodes: list[FakeNode]) -> dict[str, str]:
    """A manager docker-1, a worker docker-2, two networks and two services; the ids of all by name."""
    for node in nodes:
        await node.start()
    ids = {node.name: node.client.node_id for node in nodes}
    leader = api.process.manager.view.nodes[ids["docker-1"]]
    promoted = replace(leader, spec=replace(leader.spec, role="manager"), manager_status=ManagerStatus(True))
    await api.process.manager.state.write(lambda view: Changes((promoted,)))
    ids["web"] = (await api.post("/networks/create", {"Name": "web", "Driver": "overlay"}))["Id"]
    ids["own"] = (await api.post("/networks/create", subnet("own", "10.20.0.0/24")))["Id"]
    ids["ingress"] = (await api.get("/networks/ingress"))["Id"]
    ids["pub"] = (await api.post("/services/create", made("pub", EndpointSpec=ports(published(8080)))))["ID"]
    ids["s1"] = (await api.post("/services/create", made("s1", TaskTemplate=on("web"))))["ID"]
    return ids


def test_every_refusal(tmp_path: Path) -> None:
    """Each is refused with its status and its words, and after all of them nothing has changed."""

    async def scenario(api: Api) -> None:
        manager = api.process.manager
        nodes = [FakeNode(manager, f"docker-{n}", tmp_path / f"docker-{n}") for n in (1, 2)]
        try:
            ids = await _world(api, nodes)
            await eventually(lambda: not manager.view.waiting, "nothing waits")
            before = manager.view.rev
            wrong = [item async for item in _wrong(api, ids)]
            assert not wrong, "\n".join(wrong)
            assert manager.view.rev == before
        finally:
            for node in nodes:
                await node.stop()

    served(tmp_path, scenario, replace(SETTINGS, heartbeat=60.0))


async def _wrong(api: Api, ids: dict[str, str]) -> Any:
    """The refusals that are not as they must be."""
    asked: list[tuple[str, str, Any, int, str]] = [
        *(("POST", f"/{kind}/create", body, status, words) for kind, body, status, words in _creations()),
        *(
            (method, path, None if method != "POST" else made("nosuch"), status, words)
            for method, path, status, words in OTHERS
        ),
    ]
    for path, change, status, words in UPDATES:
        shown = await api.get(f"/{path}")
        version = shown["Version"]["Index"]
        asked.append(("POST", f"/{path}/update?version={version}", {**shown["Spec"], **change}, status, words))
    for method, path, body, status, words in asked:
        bare, _, query = path.partition("?")
        given = dict(item.split("=") for item in query.split("&") if item)
        try:
            answer = await api.refused(method, bare, body, **given)
        except pytest.fail.Exception:
            yield f"{method} {path} {body} was not refused"
            continue
        for name, ident in ids.items():
            words = words.replace("{" + name + "}", ident)
        if answer[0] != status or words not in answer[1]:
            yield f"{method} {path} {body}: {answer}; the engine says {status} {words}"


def _creations() -> list[tuple[str, dict[str, Any], int, str]]:
    return [
        *(("services", body, status, words) for body, status, words in SERVICES),
        *(("networks", body, status, words) for body, status, words in NETWORKS),
        *BETTER,
    ]


def test_what_is_accepted(tmp_path: Path) -> None:
    """What a real engine takes and what works is taken."""

    async def scenario(api: Api) -> None:
        await api.post("/networks/create", {"Name": "web", "Driver": "overlay"})
        for body in ACCEPTED:
            created = await api.post("/services/create", body)
            assert len(created["ID"]) == 25
        (shown,) = await api.get("/services", filters={"name": ["e20"]})
        assert len(shown["Spec"]["TaskTemplate"]["Networks"]) == 1

    served(tmp_path, scenario)
