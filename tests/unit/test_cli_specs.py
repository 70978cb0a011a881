"""docker's flags as specs: what each changes, what stays, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from meshnet.cli import gotemplate, pretty, service_flags
from meshnet.cli.service_apply import Known, changed, scaled
from meshnet.containerspec import (
    BindOptions,
    DiscreteGenericResource,
    DNSConfig,
    Driver,
    GenericResource,
    Limit,
    ReferenceFile,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from meshnet.errors import MeshnetError
from meshnet.lab import words
from meshnet.model import (
    SECOND,
    ConfigReference,
    ContainerSpec,
    EndpointSpec,
    Global,
    GlobalJob,
    Healthcheck,
    Mount,
    NetworkAttachmentConfig,
    Placement,
    PlacementPreference,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
    UpdateConfig,
)

KNOWN = Known({"net": "n1", "other": "n2"}, {"pw": "s1"}, {"cfg": "c1"})
WEB = PortConfig("", "tcp", 80, 8080)
BEFORE = ServiceSpec(
    name="web",
    labels={"a": "1"},
    task_template=TaskSpec(
        container_spec=ContainerSpec(
            image="i",
            env=("A=1", "B=2"),
            healthcheck=Healthcheck(("CMD", "true"), SECOND),
            mounts=(Mount("volume", "v", "/data"),),
            secrets=(SecretReference(ReferenceFile("pw"), "s1", "pw"),),
            configs=(ConfigReference(ReferenceFile("cfg"), None, "c1", "cfg"),),
            hosts=("10.0.0.1 db",),
        ),
        resources=ResourceRequirements(Limit(memory_bytes=2**30)),
        networks=(NetworkAttachmentConfig("n1"),),
        placement=Placement(("node.role==worker",), (PlacementPreference(SpreadOver("node.labels.z")),)),
        force_update=3,
    ),
    mode=ServiceMode(Replicated(2)),
    update_config=UpdateConfig(2, order="start-first"),
    endpoint_spec=EndpointSpec("vip", (WEB, PortConfig("", "udp", 53, 53))),
)


def given(flags: str, kind: str) -> dict[str, Any]:
    """The values that `service create` or `service update` would be called with."""
    found: dict[str, Any] = {}

    @click.command()
    @(service_flags.create if kind == "create" else service_flags.update)
    def command(**values: Any) -> None:
        found.update(values)

    result = CliRunner().invoke(command, flags.split(), standalone_mode=False, catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return found


def updated(flags: str) -> ServiceSpec:
    return changed(BEFORE, given(flags, "update"), KNOWN)


def created(flags: str) -> ServiceSpec:
    return changed(ServiceSpec(), given(flags, "create"), KNOWN)


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        ("-e A=1 -e B=x=y", "task_template.container_spec.env", ("A=1", "B=x=y")),
        ("-l a=b -l c", "labels", {"a": "b", "c": ""}),
        ("--container-label a=b", "task_template.container_spec.labels", {"a": "b"}),
        ("-u 1000:1000 -w /srv --hostname h", "task_template.container_spec.user", "1000:1000"),
        ("--entrypoint /bin/sh", "task_template.container_spec.command", ("/bin/sh",)),
        ("--stop-grace-period 1m30s", "task_template.container_spec.stop_grace_period", 90 * SECOND),
        ("--read-only", "task_template.container_spec.read_only", True),
        ("--init", "task_template.container_spec.init", True),
        ("-t", "task_template.container_spec.tty", True),
        ("--replicas 3", "mode", ServiceMode(Replicated(3))),
        ("", "mode", ServiceMode(Replicated(1))),
        ("--network net", "task_template.networks", (NetworkAttachmentConfig("net"),)),
        (
            "--network name=net,alias=a,alias=b,driver-opt=k=v",
            "task_template.networks",
            (NetworkAttachmentConfig("net", ("a", "b"), {"k": "v"}),),
        ),
        (
            "-p 8080:80 -p published=53,target=5353,protocol=udp,mode=host",
            "endpoint_spec",
            EndpointSpec("vip", (WEB, PortConfig("", "udp", 5353, 53, "host"))),
        ),
        (
            "--endpoint-mode dnsrr -p target=80,mode=host",
            "endpoint_spec",
            EndpointSpec("dnsrr", (PortConfig("", "tcp", 80, 0, "host"),)),
        ),
        ("--mount src=v,dst=/d,ro", "task_template.container_spec.mounts", (Mount("volume", "v", "/d", True),)),
        (
            "--mount type=bind,source=/a,target=/b,bind-propagation=rslave,readonly=false",
            "task_template.container_spec.mounts",
            (Mount("bind", "/a", "/b", bind_options=BindOptions("rslave")),),
        ),
        (
            "--mount type=volume,target=/b,volume-label=a=b,volume-driver=local,volume-nocopy",
            "task_template.container_spec.mounts",
            (
                Mount(
                    "volume",
                    "",
                    "/b",
                    volume_options=VolumeOptions(True, labels={"a": "b"}, driver_config=Driver("local")),
                ),
            ),
        ),
        (
            "--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
            "task_template.container_spec.mounts",
            (Mount("tmpfs", "", "/t", tmpfs_options=TmpfsOptions(2**20, 0o1770)),),
        ),
        (
            "--secret source=pw,target=/run/x,uid=1,gid=2,mode=0400",
            "task_template.container_spec.secrets",
            (SecretReference(ReferenceFile("/run/x", "1", "2", 0o400), "s1", "pw"),),
        ),
        (
            "--config cfg",
            "task_template.container_spec.configs",
            (ConfigReference(ReferenceFile("cfg"), None, "c1", "cfg"),),
        ),
        (
            "--limit-cpu 0.5 --limit-memory 50m --limit-pids 9 "
            "--reserve-cpu 1 --reserve-memory 1g --generic-resource gpu=2",
            "task_template.resources",
            ResourceRequirements(
                Limit(SECOND // 2, 50 * 2**20, 9),
                Resources(SECOND, 2**30, (GenericResource(None, DiscreteGenericResource("gpu", 2)),)),
            ),
        ),
        ("", "task_template.resources", None),
        ("", "task_template.restart_policy", None),
        (
            "--restart-condition on-failure --restart-delay 1s --restart-max-attempts 2 --restart-window 1m",
            "task_template.restart_policy",
            RestartPolicy("on-failure", SECOND, 2, 60 * SECOND),
        ),
        (
            "--update-parallelism 0 --update-delay 1m5s --update-failure-action rollback --update-monitor 2s "
            "--update-max-failure-ratio 0.2 --update-order start-first",
            "update_config",
            UpdateConfig(0, 65 * SECOND, "rollback", 2 * SECOND, 0.2, "start-first"),
        ),
        ("--rollback-failure-action continue", "rollback_config", UpdateConfig(1, failure_action="continue")),
        ("", "update_config", None),
        (
            "--constraint node.role==worker --placement-pref spread=node.labels.z --replicas-max-per-node 2",
            "task_template.placement",
            Placement(("node.role==worker",), (PlacementPreference(SpreadOver("node.labels.z")),), 2),
        ),
        (
            "--health-interval 5s --health-retries 2 --health-start-period 1s",
            "task_template.container_spec.healthcheck",
            Healthcheck((), 5 * SECOND, 0, 2, SECOND),
        ),
        ("--no-healthcheck", "task_template.container_spec.healthcheck", Healthcheck(("NONE",))),
        ("--dns 9.9.9.9 --dns-search x", "task_template.container_spec.dns_config", DNSConfig(("9.9.9.9",), ("x",))),
        ("--host db:10.0.0.9", "task_template.container_spec.hosts", ("10.0.0.9 db",)),
        (
            "--ulimit nofile=1:2 --ulimit core=0",
            "task_template.container_spec.ulimits",
            (Ulimit("nofile", 2, 1), Ulimit("core")),
        ),
        ("--sysctl net.x=1", "task_template.container_spec.sysctls", {"net.x": "1"}),
        ("--cap-add NET_ADMIN --cap-drop KILL", "task_template.container_spec.capability_drop", ("KILL",)),
    ],
)
def test_flags_of_create(flags: str, path: str, value: Any) -> None:
    """Each flag of `service create` is in its place in the spec; what is not given is left to the manager."""
    assert _at(created(flags), path) == value


def _at(spec: Any, path: str) -> Any:
    for name in path.split("."):
        spec = getattr(spec, name)
    return spec


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        ("--env-add A=9 --env-add C=3 --env-rm B", "task_template.container_spec.env", ("A=9", "C=3")),
        ("--label-add b=2 --label-rm a --label-rm none", "labels", {"b": "2"}),
        ("--publish-rm 80", "endpoint_spec.ports", (PortConfig("", "udp", 53, 53),)),
        ("--publish-rm 53/udp --publish-add 53:53/udp", "endpoint_spec.ports", BEFORE.endpoint_spec.ports),
        (
            "--publish-rm 80 --publish-add 9090:80",
            "endpoint_spec.ports",
            (PortConfig("", "udp", 53, 53), PortConfig("", "tcp", 80, 9090)),
        ),
        ("--publish-add 8080:80", "endpoint_spec.ports", BEFORE.endpoint_spec.ports),
        (
            "--constraint-add node.hostname!=a --constraint-rm node.role==worker",
            "task_template.placement.constraints",
            ("node.hostname!=a",),
        ),
        ("--placement-pref-rm spread=node.labels.z", "task_template.placement.preferences", ()),
        ("--network-add other --network-rm net", "task_template.networks", (NetworkAttachmentConfig("other"),)),
        (
            "--network-add name=net,alias=x",
            "task_template.networks",
            (NetworkAttachmentConfig("net", ("x",)),),
        ),
        ("--mount-rm /data", "task_template.container_spec.mounts", ()),
        ("--mount-add src=w,dst=/data", "task_template.container_spec.mounts", (Mount("volume", "w", "/data"),)),
        ("--secret-rm pw", "task_template.container_spec.secrets", ()),
        ("--config-rm cfg", "task_template.container_spec.configs", ()),
        ("--host-rm db:10.0.0.1", "task_template.container_spec.hosts", ()),
        ("--update-delay 1s", "update_config", UpdateConfig(2, SECOND, order="start-first")),
        ("--limit-cpu 1", "task_template.resources", ResourceRequirements(Limit(SECOND, 2**30))),
        ("--limit-memory 0", "task_template.resources", ResourceRequirements(Limit())),
        ("--health-interval 2s", "task_template.container_spec.healthcheck", Healthcheck(("CMD", "true"), 2 * SECOND)),
        (
            "--health-cmd x",
            "task_template.container_spec.healthcheck",
            Healthcheck(("CMD-SHELL", "x"), SECOND),
        ),
        ("--no-healthcheck", "task_template.container_spec.healthcheck", Healthcheck(("NONE",))),
        ("--replicas 0", "mode", ServiceMode(Replicated(0))),
        ("--stop-grace-period 3s", "task_template.container_spec.stop_grace_period", 3 * SECOND),
        ("--hostname h-{{.Task.Slot}}", "task_template.container_spec.hostname", "h-{{.Task.Slot}}"),
    ],
)
def test_flags_of_update(flags: str, path: str, value: Any) -> None:
    """Each flag of `service update` changes its part; the rest of the spec stays as it was."""
    found = updated(flags)
    assert _at(found, path) == value
    elsewhere = [name for name in ("name", "labels", "mode", "update_config", "endpoint_spec") if name not in path]
    assert [getattr(found, name) for name in elsewhere] == [getattr(BEFORE, name) for name in elsewhere]


def test_nothing_changes_nothing() -> None:
    """An update without flags is the spec as it was; with --force, only that is counted."""
    assert updated("") == BEFORE
    forced = changed(BEFORE, {**given("", "update"), "force": True, "args": ("x",), "image": "j"}, KNOWN)
    assert forced.task_template.force_update == 4
    assert (forced.task_template.container_spec.args, forced.task_template.container_spec.image) == (("x",), "j")


def test_modes() -> None:
    """The four modes, the numbers that go with them, and scaling."""
    for word, flags, mode in (
        ("global", "", ServiceMode(global_=Global())),
        ("global-job", "", ServiceMode(global_job=GlobalJob())),
        ("replicated-job", "", ServiceMode(replicated_job=ReplicatedJob(1, 1))),
        ("replicated-job", "--replicas 5", ServiceMode(replicated_job=ReplicatedJob(5, 5))),
        ("replicated-job", "--replicas 5 --max-concurrent 2", ServiceMode(replicated_job=ReplicatedJob(2, 5))),
        ("replicated", "--replicas 4", ServiceMode(Replicated(4))),
    ):
        assert changed(ServiceSpec(), {**given(flags, "create"), "mode": word}, KNOWN).mode == mode
    assert scaled(BEFORE, 7).mode == ServiceMode(Replicated(7))
    with pytest.raises(MeshnetError, match=r"^scale can only be used with replicated or replicated-job mode$"):
        scaled(ServiceSpec(mode=ServiceMode(global_=Global())), 7)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--env-add =1", "--env '=1': write NAME=value"),
        ("--label-add =1", "--label '=1': write NAME=value"),
        ("--publish-add 99999:80", "--publish: ports go from 1 to 65535"),
        ("--publish-add published=1", "--publish: 'published=1': target= is missing"),
        ("--publish-add 2377:1", "port 2377/tcp is the nodes' own; publish another one"),
        (
            "--publish-rm 8080",
            "--publish-rm 8080: no port is published with that target port; published port 8080 leads",
        ),
        ("--endpoint-mode dnsrr", "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"),
        ("--mount-add type=bind,source=/a", "--mount 'type=bind,source=/a': target= is missing"),
        ("--mount-add target=/a,tmpfs-size=1m", "--mount 'target=/a,tmpfs-size=1m': tmpfs-size is for type=tmpfs"),
        ("--mount-add target=/a,ro=maybe", "--mount 'target=/a,ro=maybe': ro is true or false"),
        ("--mount-add dest=/a", "--mount 'dest=/a': 'dest' is not known; use type, source"),
        ("--secret-add nosuch", "secret not found: nosuch"),
        ("--secret-add source=pw,mode=9", "--secret 'source=pw,mode=9': mode is a file's mode such as 0444"),
        ("--config-add target=/x", "--config 'target=/x': source= is missing"),
        ("--network-add alias=x", "--network 'alias=x': name= is missing"),
        ("--host-add db", "--host 'db': write NAME:ADDRESS"),
        ("--ulimit-add nofile", "--ulimit 'nofile': write NAME=SOFT:HARD"),
        ("--generic-resource-add gpu", "--generic-resource 'gpu': write KIND=NUMBER or KIND=NAME"),
        ("--placement-pref-add binpack=x", "--placement-pref 'binpack=x': 'binpack' is not known; use spread"),
        ("--health-cmd x --no-healthcheck", "--no-healthcheck conflicts with --health-* options"),
        ("--max-concurrent 2", "max-concurrent can only be used with replicated-job mode"),
        ("--limit-memory lots", "Invalid value for '--limit-memory': 'lots' is no size; write 50m or 1g"),
        ("--limit-cpu -1", "Invalid value for '--limit-cpu': '-1' is no number of processors; write 0.5 or 2"),
        ("--update-order sideways", "Invalid value for '--update-order': 'sideways' is not one of"),
        ("--update-delay soon", "Invalid value for '--update-delay': 'soon' is no time; write 5s or 1m30s"),
        ("--entrypoint '", "Invalid value for '--entrypoint': not a command line"),
    ],
)
def test_what_flags_cannot_be(flags: str, line: str) -> None:
    """A flag that cannot be is one line that says what it should be."""
    with pytest.raises((MeshnetError, click.UsageError)) as found:
        updated(flags)
    said = found.value.format_message() if isinstance(found.value, click.UsageError) else str(found.value)
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("50m", 50 * 2**20),
        ("50M", 50 * 2**20),
        ("1.5g", 3 * 2**29),
        ("64MB", 2**26),
        ("2GiB", 2**31),
    ]
    + [(wrong, None) for wrong in ("", "m", "-1m", "1x", "1 m m", "1e9", "99999999999t")],
)
def test_sizes(text: str, size: int | None) -> None:
    """docker's notation for sizes is read, and nothing else."""
    assert words.size(text) == size


def test_templates() -> None:
    """{{.Field}} and {{json .Field}} are filled in; what is more is refused, and so are fields that are not there."""
    value = {"Name": "web", "Endpoint": {"Ports": [{"TargetPort": 80}], "On": True}}
    assert gotemplate.expand(r"{{.Name}}\t{{ json .Endpoint.Ports }}", value) == 'web\t[{"TargetPort":80}]'
    assert gotemplate.expand("{{json .}}", {"a": "é"}) == '{"a":"é"}'
    assert gotemplate.expand("{{.Endpoint}}", value) == "map[On:true Ports:[map[TargetPort:80]]]"
    for wrong in ("{{range .X}}", "{{.Nope}}", "{{.Name.X}}", "{{}}"):
        with pytest.raises(MeshnetError, match=r"^--format: "):
            gotemplate.expand(wrong, value)


def test_a_service_in_words() -> None:
    """`service inspect --pretty` says what docker's says, line by line."""
    update = {
        "Parallelism": 2,
        "Delay": 65 * SECOND,
        "FailureAction": "pause",
        "Monitor": 5 * SECOND,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    }
    task = {
        "ContainerSpec": {"Image": "nginx:latest", "Args": ["sleep", "1000"], "Env": ["A=B"], "Init": False},
        "Networks": [{"Target": "n1"}],
        "Resources": {"Limits": {"MemoryBytes": 50 * 2**20}},
    }
    port = {"PublishedPort": 8080, "TargetPort": 80, "Protocol": "tcp", "PublishMode": "ingress"}
    found = {
        "ID": "huq0t1wn54zq",
        "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 2}}, "TaskTemplate": task, "UpdateConfig": update},
        "Endpoint": {"Spec": {"Mode": "vip"}, "Ports": [port]},
    }
    assert pretty.service(found, {"n1": "front"}).splitlines() == [
        "",
        "ID:\t\thuq0t1wn54zq",
        "Name:\t\tweb",
        "Service Mode:\tReplicated",
        " Replicas:\t2",
        "Placement:",
        "UpdateConfig:",
        " Parallelism:\t2",
        " Delay:\t\t1m5s",
        " On failure:\tpause",
        " Monitoring Period: 5s",
        " Max failure ratio: 0",
        " Update order:      stop-first",
        "ContainerSpec:",
        " Image:\t\tnginx:latest",
        " Args:\t\tsleep 1000 ",
        " Env:\t\tA=B ",
        " Init:\t\tfalse",
        "Resources:",
        " Limits:",
        "  Memory:\t50MiB",
        "Networks: front ",
        "Endpoint Mode:\tvip",
        "Ports:",
        " PublishedPort = 8080",
        "  Protocol = tcp",
        "  TargetPort = 80",
        "  PublishMode = ingress ",
    ]
