"""The compose file: what Swarm's part of the format means, and the exact words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnet.containerspec import (
    BindOptions,
    DiscreteGenericResource,
    DNSConfig,
    GenericResource,
    Limit,
    ReferenceFile,
    TmpfsOptions,
)
from meshnet.errors import MeshnetError
from meshnet.lab.compose import Stack, parse
from meshnet.lab.references import with_ids
from meshnet.lab.yamlnodes import LabFileError, Problems
from meshnet.lab.yamlnodes import parse as parse_yaml
from meshnet.model import (
    SECOND,
    ContainerSpec,
    EndpointSpec,
    Global,
    GlobalJob,
    Healthcheck,
    IPAMConfig,
    IPAMOptions,
    Mount,
    NetworkAttachmentConfig,
    NetworkSpec,
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
from meshnet.secretspec import ConfigSpec, SecretSpec


def stack_of(text: str, directory: Path = Path(), name: str = "") -> Stack:
    problems = Problems()
    stack = parse(parse_yaml(text, "compose.yml", problems), directory, name)
    problems.check()
    return stack


def complaints(text: str) -> list[str]:
    with pytest.raises(LabFileError) as caught:
        stack_of(text)
    return str(caught.value).splitlines()


FULL = """\
version: "3.8"
x-base: &base
  image: whoami:1
  environment: {A: "1", B: yes, C: }
services:
  web:
    <<: *base
    command: sh -c 'echo "$$HOME"; exec whoami'
    entrypoint: [/bin/env, "-i"]
    hostname: web-{{.Task.Slot}}
    user: nobody
    working_dir: /srv
    stop_grace_period: 1m30s
    stop_signal: SIGINT
    labels: [tier=front]
    networks:
      front: {aliases: [www, w]}
      back:
    ports:
      - 8000:80
      - "53:53/udp"
      - "9"
      - 7000-7001:70-71
      - {target: 443, published: "8443", protocol: tcp, mode: ingress, name: tls}
    healthcheck: {test: curl -f localhost, interval: 5s, timeout: 500ms, retries: 2, start_period: 1s}
    deploy:
      replicas: 3
      endpoint_mode: vip
      labels: {owner: me}
      placement:
        constraints: [node.role == worker, node.labels.zone!=east]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      restart_policy: {condition: on-failure, delay: 2s, max_attempts: 3, window: 1m}
  probe:
    image: probe
    networks: [back]
    healthcheck: {disable: true}
    deploy: {mode: global}
  db:
    image: db
    healthcheck: {test: [CMD, pg_isready]}
    deploy: {endpoint_mode: dnsrr}
networks:
  front: {driver: overlay, driver_opts: {mtu: "1400"}, attachable: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}
  back: {internal: true, name: behind, labels: {a: b}}
"""


def test_a_full_stack() -> None:
    """Every key of the subset arrives in the specs the manager is given."""
    stack = stack_of(FULL)
    web, probe, db = stack.services
    assert web == ServiceSpec(
        name="web",
        labels={"owner": "me"},
        task_template=TaskSpec(
            container_spec=ContainerSpec(
                image="whoami:1",
                labels={"tier": "front"},
                command=("/bin/env", "-i"),
                args=("sh", "-c", 'echo "$HOME"; exec whoami'),
                hostname="web-{{.Task.Slot}}",
                env=("A=1", "B=yes", "C="),
                dir="/srv",
                user="nobody",
                stop_signal="SIGINT",
                stop_grace_period=90 * SECOND,
                healthcheck=Healthcheck(
                    ("CMD-SHELL", "curl -f localhost"), 5 * SECOND, SECOND // 2, 2, start_period=SECOND
                ),
            ),
            networks=(NetworkAttachmentConfig("front", ("www", "w")), NetworkAttachmentConfig("behind")),
            placement=Placement(
                ("node.role == worker", "node.labels.zone!=east"),
                (PlacementPreference(SpreadOver("node.labels.zone")),),
                2,
            ),
            restart_policy=RestartPolicy("on-failure", 2 * SECOND, 3, 60 * SECOND),
        ),
        mode=ServiceMode(Replicated(3)),
        endpoint_spec=EndpointSpec(
            "vip",
            (
                PortConfig("", "tcp", 80, 8000),
                PortConfig("", "udp", 53, 53),
                PortConfig("", "tcp", 9, 0),
                PortConfig("", "tcp", 70, 7000),
                PortConfig("", "tcp", 71, 7001),
                PortConfig("tls", "tcp", 443, 8443),
            ),
        ),
    )
    assert probe.mode == ServiceMode(global_=Global())
    assert probe.task_template.container_spec.healthcheck == Healthcheck(("NONE",))
    assert db.endpoint_spec.mode == "dnsrr"
    assert db.task_template.networks == (NetworkAttachmentConfig("default"),)
    assert db.task_template.container_spec.healthcheck == Healthcheck(("CMD", "pg_isready"))
    assert stack.networks == (
        NetworkSpec(
            "front",
            attachable=True,
            options={"mtu": "1400"},
            ipam_options=IPAMOptions((IPAMConfig("10.9.0.0/24"),)),
        ),
        NetworkSpec("behind", {"a": "b"}, internal=True),
        NetworkSpec("default"),
    )
    assert stack.warnings == ()


def test_a_port_is_never_base_sixty() -> None:
    """`22:22` without quotes is the ports 22 and 22, not YAML 1.1's number 1342."""
    stack = stack_of("services: {a: {image: i, ports: [22:22]}}")
    assert stack.services[0].endpoint_spec.ports == (PortConfig(target_port=22, published_port=22),)


MORE = """
services:
  app:
    image: i
    init: true
    read_only: true
    cap_drop: [ALL]
    extra_hosts: ["db:10.0.0.9"]
    dns: 9.9.9.9
    sysctls: {net.core.somaxconn: "9"}
    depends_on: [job]
    secrets:
      - pw
      - {source: far, target: /run/far, uid: 5, mode: 0400}
    configs: [{source: cfg, target: /etc/app.cfg}, cfg]
    volumes:
      - data:/data:ro
      - ./site:/srv
      - /anonymous
      - {type: tmpfs, target: /t, tmpfs: {size: 1M}}
      - {type: bind, source: /opt, target: /opt, read_only: true, bind: {propagation: rslave}}
    ports: [{target: 80, published: 8080, mode: host}]
    deploy:
      endpoint_mode: dnsrr
      update_config:
        {parallelism: 2, delay: 1s, failure_action: rollback, monitor: 3s, max_failure_ratio: 0.2, order: start-first}
      rollback_config: {order: start-first}
      resources:
        limits: {cpus: "0.5", memory: 50M, pids: 9}
        reservations: {memory: 20M, generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}
  job:
    image: i
    deploy: {mode: replicated-job, replicas: 3}
  every:
    image: i
    networks: {back: {aliases: [e]}, shared: }
    deploy: {mode: global-job}
networks:
  back: {}
  shared: {external: true}
volumes:
  data:
secrets:
  pw: {file: ./pw, labels: {a: b}}
  far: {external: true}
configs:
  cfg: {file: cfg}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pw").write_text("secret")
    (tmp_path / "cfg").write_bytes(b"\x00\xff")
    return tmp_path


def test_what_a_manager_can_do_is_passed_on(folder: Path) -> None:
    """Updates, resources, jobs, secrets, configs, mounts and host-mode ports arrive in the specs."""
    stack = stack_of(MORE, folder)
    app, job, every = stack.services
    container = app.task_template.container_spec
    assert app.update_config == UpdateConfig(2, SECOND, "rollback", 3 * SECOND, 0.2, "start-first")
    assert app.rollback_config == UpdateConfig(1, order="start-first")
    assert app.task_template.resources == ResourceRequirements(
        Limit(SECOND // 2, 50 * 2**20, 9),
        Resources(0, 20 * 2**20, (GenericResource(None, DiscreteGenericResource("gpu", 2)),)),
    )
    assert app.endpoint_spec == EndpointSpec("dnsrr", (PortConfig("", "tcp", 80, 8080, "host"),))
    assert (container.init, container.read_only, container.capability_drop) == (True, True, ("ALL",))
    assert (container.hosts, container.dns_config) == (("10.0.0.9 db",), DNSConfig(("9.9.9.9",)))
    assert container.sysctls == {"net.core.somaxconn": "9"}
    assert container.secrets == (
        SecretReference(ReferenceFile("pw"), "", "pw"),
        SecretReference(ReferenceFile("/run/far", "5", "0", 0o400), "", "far"),
    )
    assert [one.file for one in container.configs] == [ReferenceFile("/etc/app.cfg"), ReferenceFile("/cfg")]
    assert container.mounts == (
        Mount("volume", "data", "/data", True),
        Mount("bind", f"{folder}/site", "/srv"),
        Mount("volume", "", "/anonymous"),
        Mount("tmpfs", "", "/t", tmpfs_options=TmpfsOptions(2**20)),
        Mount("bind", "/opt", "/opt", True, bind_options=BindOptions("rslave")),
    )
    assert job.mode == ServiceMode(replicated_job=ReplicatedJob(3, 3))
    assert every.mode == ServiceMode(global_job=GlobalJob())
    assert stack.secrets == (SecretSpec("pw", {"a": "b"}, "c2VjcmV0"),)
    assert stack.configs == (ConfigSpec("cfg", data="AP8="),)
    assert stack.warnings == (
        "compose.yml:11:17: warning: services.app.depends_on: a swarm has no use for it, so it changes nothing",
    )
    found = with_ids(app, {"pw": "1", "far": "2"}, {"cfg": "3"}).task_template.container_spec
    assert [one.secret_id for one in found.secrets] == ["1", "2"]
    assert {one.config_id for one in found.configs} == {"3"}
    with pytest.raises(MeshnetError, match=r"^secret not found: pw$"):
        with_ids(app, {}, {"cfg": "3"})


def test_names_in_a_stack(folder: Path) -> None:
    """A stack's name comes before what it makes, not before what is external; services keep their own names in DNS."""
    stack = stack_of(MORE, folder, "blog")
    app, _, every = stack.services
    mark = {"com.docker.stack.namespace": "blog"}
    assert app.name == "blog_app"
    assert app.labels == {**mark, "com.docker.stack.image": "i"}
    assert app.task_template.container_spec.labels == mark
    assert app.task_template.networks == (NetworkAttachmentConfig("blog_default", ("app",)),)
    assert every.task_template.networks == (
        NetworkAttachmentConfig("blog_back", ("e", "every")),
        NetworkAttachmentConfig("shared", ("every",)),
    )
    assert {network.name: network.labels for network in stack.networks} == {"blog_back": mark, "blog_default": mark}
    assert [one.secret_name for one in app.task_template.container_spec.secrets] == ["blog_pw", "far"]
    assert app.task_template.container_spec.mounts[0].source == "blog_data"
    assert stack.secrets[0].labels == {"a": "b", **mark}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("services:", ["1:1: there are no services in it"]),
        ("services: {a: {}}", ["1:15: services.a: image is missing"]),
        ("services: {a.b: {image: i}}", ["1:17: services.a.b: 'a.b' is no name: letters, digits, - and _ are"]),
        ("services: {a: {image: i, build: .}}", ["1:26: services.a.build: unknown key; known here: image, command"]),
        ("builds: {}\nservices: {a: {image: i}}", ["1:1: builds: unknown key; known here: version, services, net"]),
        (
            "services: {a: {image: i, volumes: [v:/d]}}",
            ["1:36: services.a.volumes[0]: v is not declared under the"],
        ),
        ("services: {a: {image: i, volumes: [d]}}", ["1:36: services.a.volumes[0]: write NAME:/TARGET, /SOURCE:"]),
        (
            "services: {a: {image: i, volumes: [/a, {target: /a}]}}",
            ["1:40: services.a.volumes[1]: something is moun"],
        ),
        (
            "services: {a: {image: i, volumes: [{type: bind, target: /a, tmpfs: {size: 1}}]}}",
            [
                "1:36: services.a.volumes[0]: source is missing: a path of the node",
                "1:68: services.a.volumes[0].tmpfs: this is for type: tmpfs",
            ],
        ),
        (
            "services: {a: {image: i, secrets: [s]}}",
            ["1:36: services.a.secrets[0]: s is not declared under the top"],
        ),
        (
            "services: {a: {image: i}}\nsecrets: {s: }",
            ["2:13: secrets.s: file is missing: the path of a file wit"],
        ),
        ("services: {a: {image: i}}\nsecrets: {s: {file: no}}", ["2:21: secrets.s.file: no cannot be read: No such f"]),
        (
            "services: {a: {image: i}}\nconfigs: {s: {file: /dev/null}}",
            ["2:21: configs.s.file: /dev/null cannot be read"],
        ),
        (
            "services: {a: {image: i}}\nconfigs: {a b: {file: /etc/passwd}}",
            ["2:16: configs.a b: 'a b' is no name: up to 64 letters, digits"],
        ),
        ("services: {a: {image: i}}\nvolumes: {v: {driver: nfs}}", ["2:23: volumes.v.driver: one of local is needed"]),
        (
            "services: {a: {image: i, deploy: {update_config: {order: first, max_failure_ratio: 2, paralelism: 1}}}}",
            [
                "1:58: services.a.deploy.update_config.order: one of stop-first, start-first is needed, not 'first'",
                "1:84: services.a.deploy.update_config.max_failure_ratio: a share from 0 to 1 such as 0.2 is needed",
                "1:87: services.a.deploy.update_config.paralelism: unknown key; known here: parallelism, delay",
            ],
        ),
        (
            "services: {a: {image: i, deploy: {rollback_config: {failure_action: rollback}}}}",
            ["1:69: services.a.deploy.rollback_config.failure_action: one of pause, continue is needed"],
        ),
        (
            "services: {a: {image: i, deploy: {resources: {limits: {cpus: many, memory: 1x}}}}}",
            [
                "1:62: services.a.deploy.resources.limits.cpus: a number of processors such as 0.5 is needed",
                "1:76: services.a.deploy.resources.limits.memory: a size such as 50M is needed",
            ],
        ),
        (
            "services: {a: {image: i, deploy: {mode: global-job, replicas: 2}}}",
            ["1:63: services.a.deploy.replicas: replicas can only be used with mode: replicated"],
        ),
        ("services: {a: {image: $I}}", ["1:23: services.a.image: variables are not substituted here; write $$"]),
        ('services: {a: {image: i, command: "echo \'"}}', ["1:35: services.a.command: not a command line: No closing"]),
        ("services: {a: {image: i, environment: [HOME]}}", ["1:40: services.a.environment[0]: write NAME=value;"]),
        ("services: {a: {image: i, networks: [x]}}", ["1:37: services.a.networks[0]: the network x is not declared"]),
        ("services: {a: {image: i, ports: [70000:80]}}", ["1:34: services.a.ports[0]: ports go from 1 to 65535"]),
        ("services: {a: {image: i, ports: [0:80]}}", ["1:34: services.a.ports[0]: ports go from 1 to 65535"]),
        ("services: {a: {image: i, ports: [1-3:80-81]}}", ["1:34: services.a.ports[0]: the two ranges of 1-3:80-81"]),
        ("services: {a: {image: i, ports: ['127.0.0.1:1:1']}}", ["1:34: services.a.ports[0]: '127.0.0.1:1:1' is no"]),
        ("services: {a: {image: i, ports: [80/sctp]}}", ["1:34: services.a.ports[0]: '80/sctp' is no port"]),
        (
            "services: {a: {image: i, ports: [{target: 80, mode: mesh}]}}",
            ["1:53: services.a.ports[0].mode:"],
        ),
        ("services: {a: {image: i, ports: [{published: 80}]}}", ["1:34: services.a.ports[0]: target is missing"]),
        (
            "services: {a: {image: i, ports: ['4789:1/udp']}}",
            ["1:34: services.a.ports[0]: port 4789/udp is the nodes'"],
        ),
        ("services: {a: {image: i, ports: ['2377:1']}}", ["1:34: services.a.ports[0]: port 2377/tcp is the nodes'"]),
        ("services: {a: {image: i, ports: [8:1, 8:2]}}", ["1:39: services.a.ports[1]: port 8/tcp is published twice"]),
        (
            "services:\n  a: {image: i, ports: [8:1]}\n  b: {image: i, ports: [8:1]}",
            ["3:6: services.b: port 8/tcp is published by a already"],
        ),
        (
            "services: {a: {image: i, ports: [8:1], deploy: {endpoint_mode: dnsrr}}}",
            ["1:33: services.a.ports: a dnsrr service has no VIP to publish through; use endpoint_mode: vip"],
        ),
        (
            "services: {a: {image: i, deploy: {mode: global, replicas: 2}}}",
            ["1:59: services.a.deploy.replicas: replicas can only be used with mode: replicated"],
        ),
        (
            "services: {a: {image: i, deploy: {replicas: -1}}}",
            ["1:45: services.a.deploy.replicas: a whole number from 0 to 10000 is needed, not '-1'"],
        ),
        (
            "services: {a: {image: i, deploy: {placement: {constraints: [node.role=manager]}}}}",
            ["1:61: services.a.deploy.placement.constraints[0]: 'node.role=manager' is no constraint"],
        ),
        (
            "services: {a: {image: i, healthcheck: {test: [true], interval: 5}}}",
            [
                "1:46: services.a.healthcheck.test: a list begins with NONE, CMD or CMD-SHELL",
                "1:64: services.a.healthcheck.interval: a time such as 5s or 1m30s is needed, not '5'",
            ],
        ),
        (
            "services: {a: {image: i}}\nnetworks: {ingress: }",
            ["2:20: networks.ingress: ingress is the routing mesh's own network"],
        ),
        (
            "services: {a: {image: i}}\nnetworks: {n: {driver: bridge}}",
            ["2:24: networks.n.driver: one of overlay is needed, not 'bridge'"],
        ),
        (
            "services: {a: {image: i}}\n"
            "networks:\n"
            "  n: {ipam: {config: [{subnet: 10.0.300.0/24}]}}\n"
            "  o: {ipam: {config: [{subnet: 10.5.0.0/16}]}}\n"
            "  p: {ipam: {config: [{subnet: 10.5.1.0/24}]}}\n",
            [
                "3:32: networks.n.ipam.config[0].subnet: an IPv4 subnet such as 10.0.9.0/24 is needed: Octet 300",
                "5:32: networks.p.ipam.config[0].subnet: 10.5.1.0/24 overlaps 10.5.0.0/16 of networks.o",
            ],
        ),
        (
            "services: {a: {image: i, working_dir: srv}}",
            ["1:39: services.a.working_dir: an absolute path such as /srv is needed, not 'srv'"],
        ),
        (
            "services: {a: {image: i, hostname: x y}}",
            ["1:36: services.a.hostname: 'x y' is no hostname: up to 64 letters, digits"],
        ),
        (
            "services: {a: {image: i, hostname: 'a-{{.Task.Nope}}'}}",
            ["1:36: services.a.hostname: unknown placeholder {{.Task.Nope}}; known are: .Node.Hostname"],
        ),
        (
            "services: {a: {image: i, environment: {A: '{{.Nope}}', '': b}}}",
            [
                "1:43: services.a.environment.A: unknown placeholder {{.Nope}}; known are",
                "1:60: services.a.environment.: a name is missing before the colon",
            ],
        ),
        ("services: {a: {image: i, user: a b}}", ["1:32: services.a.user: a user such as www-data, 1000 or 1000:1000"]),
        ("services: {a: {image: i, user: '1:'}}", ["1:32: services.a.user: a user such as"]),
        ("services: {a: {image: i, user: '4294967295'}}", ["1:32: services.a.user: a user such as"]),
        ("services: {a: {image: i, stop_signal: SIGNO}}", ["1:39: services.a.stop_signal: a signal such as SIGTERM"]),
        ('services: {a: {image: i, command: "a\\0b"}}', ["1:35: services.a.command: a NUL byte cannot be part of it"]),
        (
            "services: {a: {image: i, networks: {n: {aliases: [ok, -bad, 'b ad']}}}}\nnetworks: {n: }",
            [
                "1:55: services.a.networks.n.aliases[1]: '-bad' cannot be a DNS name: letters, digits",
                "1:61: services.a.networks.n.aliases[2]: 'b ad' cannot be a DNS name: letters, digits",
            ],
        ),
        (
            "services: {a: {image: i, healthcheck: {test: [CMD]}}}",
            ["1:46: services.a.healthcheck.test: a command is needed behind CMD"],
        ),
        (
            "services: {a: {image: i, healthcheck: {test: x, interval: 1us}}}",
            ["1:59: services.a.healthcheck.interval: at least 1ms is needed"],
        ),
        (
            "services: {a: {image: i, stop_grace_period: 9999999999h}}",
            ["1:45: services.a.stop_grace_period: a time such as 5s or 1m30s is needed"],
        ),
        (
            "services: {web: {image: i}, Web: {image: i}}",
            ["1:34: services.Web: services.web has the name of this service already; names must differ by more than"],
        ),
        (
            "services: {a: {image: i}}\nnetworks: {n: , m: {name: N}}",
            ["2:20: networks.m: networks.n has the name of this network already"],
        ),
        (
            "services: {a: {image: i}}\nnetworks:\n"
            "  n: {ipam: {config: [{subnet: 127.0.0.0/24}]}}\n"
            "  m: {ipam: {config: [{subnet: 10.7.0.0/24, gateway: 10.8.0.1}]}}\n",
            [
                "3:32: networks.n.ipam.config[0].subnet: Invalid subnet 127.0.0.0/24 : addresses of 127.0.0.0/8 cannot",
                "4:32: networks.m.ipam.config[0].subnet: no matching subnet for gateway 10.8.0.1",
            ],
        ),
    ],
)
def test_the_words_for_a_mistake(text: str, lines: list[str]) -> None:
    """Each mistake is one line that names the place and says what to do."""
    found = complaints(text)
    assert len(found) == len(lines), found
    for complaint, line in zip(found, lines, strict=True):
        assert complaint.startswith(f"compose.yml:{line}"), complaint
