"""The agent's smaller parts: zones, containers from tasks, what is kept on disk, what is shown."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from agent_fakes import TASK, FakeHost

from meshnet.agent import inspect
from meshnet.agent.agent import Agent
from meshnet.agent.containers import container_spec, health_config
from meshnet.agent.runner import Runner
from meshnet.agent.taskdir import Kept, TaskDirs
from meshnet.agent.zones import Zones
from meshnet.datapath.plan import Located
from meshnet.datapath.rows import EndpointRow, NetworkRow, Plan, PublishedRow, RemoteRow, ServiceRow
from meshnet.dns.zone import Zone, listing
from meshnet.errors import MeshnetError, NoSpaceError
from meshnet.files import replace_text
from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.types import Member
from meshnet.model import (
    SECOND,
    Assignments,
    ContainerSpec,
    Endpoint,
    EndpointSpec,
    Healthcheck,
    Mount,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    PortConfig,
    Service,
    ServiceEndpoint,
    ServiceSpec,
    TaskSpec,
    VirtualIP,
)
from meshnet.sandbox.health import command

WEB = Service(
    id="s1",
    spec=ServiceSpec(
        name="web",
        task_template=TaskSpec(networks=(NetworkAttachmentConfig("net", ("www",)),)),
        endpoint_spec=EndpointSpec("vip"),
    ),
    endpoint=ServiceEndpoint(
        virtual_ips=(VirtualIP("net", "10.0.1.2/24"),), ports=(PortConfig("http", "tcp", 80, 8000),)
    ),
)
OTHER = replace(WEB, id="s2", spec=replace(WEB.spec, name="other", task_template=TaskSpec()))
TOLD = Assignments(
    tasks={"t1": TASK},
    services={"s1": WEB, "s2": OTHER},
    networks={
        "net": Network(id="net", spec=NetworkSpec(name="demo")),
        "in": Network(id="in", spec=NetworkSpec(name="ingress", ingress=True)),
    },
)
ONE = Endpoint("t1", "t1", 1, "s1", "10.0.1.3", "02:42:0a:00:01:03", "h1", "c1", (), "ready")
TWO = Endpoint("t2", "t2", 2, "s1", "10.0.1.4", "02:42:0a:00:01:04", "h2", "c2", (), "draining")
NODE = Endpoint(endpoint="node:n1", ip="10.0.1.9", hostname="docker-0", state="ready")
RECORDS = [Located("n1", "net", ONE), Located("n2", "net", TWO), Located("n1", "net", NODE)]


def followed(records: list[Located]) -> Zones:
    zones = Zones()
    zones.follow(TOLD, records)
    return zones


def addresses_of(zone: Zone, name: str) -> list[str]:
    return [value for found, kind, value in listing(zone) if (found.rstrip("."), kind) == (name, "A")]


def test_a_zone_holds_the_services_and_tasks_of_its_networks() -> None:
    """VIP, aliases and ready tasks of services on the network; a task that drains keeps its own name only."""
    zone = followed(RECORDS).for_networks(["net"])
    assert {
        name: addresses_of(zone, name) for name in ("web", "www.demo", "tasks.web", "web.1", "web.2.t2", "other")
    } == {
        "web": ["10.0.1.2"],
        "www.demo": ["10.0.1.2"],
        "tasks.web": ["10.0.1.3"],
        "web.1": ["10.0.1.3"],
        "web.2.t2": ["10.0.1.4"],
        "other": [],
    }


def test_names_avoid_suspected_members() -> None:
    """A service's name leaves out tasks of members that are suspected while it has others, and keeps them if it has
    none; a task's own name stays; and it is all as before once the suspicion is over."""
    records = [Located("n1", "net", ONE), Located("n2", "net", replace(TWO, state="ready"))]
    zones = followed(records)
    names = ("tasks.web", "web", "web.2.t2")
    for suspected, expected in (
        ({"n2"}, [["10.0.1.3"], ["10.0.1.2"], ["10.0.1.4"]]),
        ({"n1", "n2"}, [["10.0.1.3", "10.0.1.4"], ["10.0.1.2"], ["10.0.1.4"]]),
        ({"n3"}, [["10.0.1.3", "10.0.1.4"], ["10.0.1.2"], ["10.0.1.4"]]),
        (set(), [["10.0.1.3", "10.0.1.4"], ["10.0.1.2"], ["10.0.1.4"]]),
    ):
        zones.follow(TOLD, records, frozenset(suspected))
        zone = zones.for_networks(["net"])
        assert [sorted(addresses_of(zone, name)) for name in names] == expected, suspected


def test_zones_are_shared_and_ingress_has_no_names() -> None:
    """Tasks on the same networks have one zone; ingress and networks that were not told yet add nothing."""
    zones = followed([*RECORDS, Located("n1", "in", replace(ONE, ip="10.0.0.3"))])
    assert zones.for_networks(["net"]) is zones.for_networks(["net"])
    for networks in (["in"], ["unknown"], []):
        assert listing(zones.for_networks(networks)) == ()


def test_a_container_as_its_service_says() -> None:
    """Placeholders are filled in, defaults are Docker's, and the task finds its resolver and its own name."""
    spec = ContainerSpec(
        image="app",
        args=("serve",),
        env=("SLOT={{.Task.Slot}}",),
        mounts=(Mount("bind", "/srv/{{.Service.Name}}", "/data", True),),
        healthcheck=Healthcheck(("CMD", "true"), interval=2 * SECOND),
    )
    task = replace(TASK, spec=TaskSpec(spec))
    identity = SimpleNamespace(netns="/run/netns/x", container_id="c" * 64, hostname="h1")
    made = container_spec(FakeHost(WEB), task, identity, "/dir")
    assert (made.name, made.env, made.args, made.dir) == ("web.1.t1", ("SLOT=1",), ("serve",), "/dir")
    assert [(m.source, m.target, m.read_only, m.type) for m in made.mounts] == [("/srv/web", "/data", True, "bind")]
    assert (made.stop_signal, made.stop_grace, made.netns) == ("", 10.0, "/run/netns/x")
    assert made.cgroup.endswith("/meshnet/lab/docker-0/t1")
    assert made.resolv_conf.startswith("nameserver 127.0.0.11\n")
    assert made.hosts.endswith("\n10.0.1.3\th1\n")
    assert made.health is not None
    assert (made.health.interval, made.health.timeout, made.health.retries) == (2.0, 30.0, 3)


@pytest.mark.parametrize("check", [None, Healthcheck()])
def test_no_health_check(check: Healthcheck | None) -> None:
    """None given and an empty one leave it to the image; NONE takes the image's away."""
    assert health_config(check) is None
    none = health_config(Healthcheck(("NONE",)))
    assert none is not None
    assert command(none) is None


def test_an_unknown_placeholder_is_refused() -> None:
    """A typo in a template is an error that names it, not an empty text."""
    task = replace(TASK, spec=TaskSpec(ContainerSpec(image="app", env=("A={{.Task.Slott}}",))))
    identity = SimpleNamespace(netns="", container_id="c", hostname="h")
    with pytest.raises(MeshnetError, match="Slott"):
        container_spec(FakeHost(), task, identity, "/dir")


def test_tasks_are_kept_until_they_are_removed(tmp_path: Path) -> None:
    """What was written is read back, also by another agent; what was removed is gone."""
    dirs = TaskDirs(str(tmp_path))
    assert dirs.read_all() == []
    kept = [Kept(replace(TASK, id=ident), "c" * 64, serving) for ident, serving in (("a", True), ("b", False))]
    kept[0] = replace(kept[0], leaving=True)
    for one in kept:
        dirs.write(one)
    assert TaskDirs(str(tmp_path)).read_all() == kept
    assert dirs.path("a").stat().st_mode & 0o777 == 0o700
    dirs.remove("a")
    dirs.remove("a")
    assert dirs.read_all() == kept[1:]


@pytest.mark.parametrize(
    "content", ["", '{"task": {"ID": "t', "[]", "null", '{"task": 5, "container": "", "serving": 1}']
)
def test_a_kill_in_the_middle_of_keeping(tmp_path: Path, content: str) -> None:
    """Half a new file changes nothing; a damaged one, or a directory without one, is passed over."""
    dirs = TaskDirs(str(tmp_path))
    whole = Kept(replace(TASK, id="whole"), "c", True)
    dirs.write(whole)
    (dirs.path("whole") / "task.json.new").write_text(content)
    dirs.path("damaged").mkdir()
    (dirs.path("damaged") / "task.json").write_text(content)
    dirs.path("empty").mkdir()
    assert dirs.read_all() == [whole]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Only root reads it, and what a kill left of an earlier try does not matter."""
    file = tmp_path / "epoch"
    (tmp_path / "epoch.new").write_text("half of something long")
    replace_text(file, "7")
    replace_text(file, "8")
    assert file.read_text() == "8"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def shown_agent() -> Agent:
    """An agent with one local task, one remote one, a VIP and a published port."""
    held = Plan(
        "n1",
        "172.17.0.2",
        ingress_vni=4096,
        networks=(NetworkRow(4097, "net", "demo", "10.0.1.0/24", "10.0.1.1", 1450),),
        endpoints=(EndpointRow(4097, "10.0.1.3", "", "t1", "/run/netns/x", "eth0", "mnt1"),),
        remotes=(RemoteRow(4097, "10.0.1.4", "", "172.17.0.3"),),
        services=(ServiceRow("s1", 4097, "10.0.1.2", ("10.0.1.3", "10.0.1.4")),),
        published=(PublishedRow("s1", "tcp", 8000, 80, ()),),
    )
    metas = {n: MemberMeta(tunnel=f"172.17.0.{n}", hostname=f"docker-{n - 2}", datapath="ebpf") for n in (2, 3)}
    members = [Member(f"n{n - 1}", meta.tunnel, 7946, "alive", 4, meta) for n, meta in metas.items()]

    async def observe() -> Plan:
        return held

    resolver = SimpleNamespace(statistics=lambda: {"queries": 3})
    return cast(
        Agent,
        SimpleNamespace(
            node="docker-0",
            assignments=TOLD,
            datapath=SimpleNamespace(
                observe=observe, statistics=lambda: {"drop.no_flow": 1}, meanings=lambda: {"drop.no_flow": "it"}
            ),
            neighbours=SimpleNamespace(
                located=RECORDS, suspected=frozenset(), members=lambda: members, statistics=lambda: {"probes": 2}
            ),
            outside=SimpleNamespace(statistics=lambda: {"reply_noerror": 4}),
            reconciler=SimpleNamespace(plan=held),
            runners={"t1": SimpleNamespace(task=TASK, finished=False, resolver=resolver)},
        ),
    )


def test_the_views_of_a_node() -> None:
    """Each view names tasks, services, networks and nodes as people know them, and is plain JSON."""
    agent = shown_agent()
    lb = asyncio.run(inspect.lb(agent))
    assert lb[0] == {
        "Service": "web",
        "Network": "demo",
        "Address": "10.0.1.2",
        "Port": "",
        "Backends": [
            {"IP": "10.0.1.3", "Task": "web.1.t1", "Node": "docker-0"},
            {"IP": "10.0.1.4", "Task": "web.2.t2", "Node": "docker-1"},
        ],
    }
    assert (lb[1]["Service"], lb[1]["Port"], lb[1]["Backends"]) == ("web", "8000/tcp -> 80", [])
    (dns,) = inspect.dns(agent)
    assert (dns["Task"], dns["Networks"], dns["Statistics"]) == ("web.1.t1", ["demo"], {"queries": 3})
    assert {"Name": "web.1", "Type": "A", "Value": "10.0.1.3"} in dns["Names"]
    assert [(m["Node"], m["Address"], m["State"]) for m in inspect.members(agent)] == [
        ("docker-0", "172.17.0.2:7946", "alive"),
        ("docker-1", "172.17.0.3:7946", "alive"),
    ]
    assert [(e["IP"], e["Task"], e["State"], e["Owner"]) for e in inspect.endpoints(agent)] == [
        ("10.0.1.3", "web.1.t1", "ready", "n1"),
        ("10.0.1.4", "web.2.t2", "draining", "n2"),
        ("10.0.1.9", "", "ready", "n1"),
    ]
    assert inspect.statistics(agent) == {
        "Datapath": {"drop.no_flow": 1},
        "Gossip": {"probes": 2},
        "Outside": {"reply_noerror": 4},
        "Meanings": {"drop.no_flow": "it"},
    }
    assert json.loads(json.dumps(lb)) == lb


def test_a_task_without_networks_has_its_name() -> None:
    """Its resolver is shown under the task's name like any other, although it has no endpoint anywhere."""
    agent = shown_agent()
    alone = replace(TASK, id="t9", slot=3, networks_attachments=())
    everywhere = replace(alone, id="t8", slot=0, node_id="n1")
    for task in (alone, everywhere):
        agent.runners[task.id] = cast(Runner, SimpleNamespace(**{**vars(agent.runners["t1"]), "task": task}))
    shown = [(one["Task"], one["Networks"]) for one in inspect.dns(agent)]
    assert shown == [("web.1.t1", ["demo"]), ("web.n1.t8", []), ("web.3.t9", [])]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """What does not fit leaves the old file, and the error is one line that says where it is full."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "file.new").symlink_to("/dev/full")
    with pytest.raises(NoSpaceError, match=f"^no space left in {tmp_path}: free some, or see with df what fills it$"):
        replace_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    replace_text(tmp_path / "file", "new")
