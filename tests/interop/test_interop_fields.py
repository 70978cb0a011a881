"""What is asked of a container beyond its image and command: applied, refused by name, or taken with a warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.types import Ulimit
from engines import Docker, client, eventually

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {
    "nodes": {"docker-0": {"role": "manager"}, "docker-1": None},
    "clients": {"client": None},
}
RUN = ("run", "--rm")
CREATE = ("service", "create", "-q", "--no-resolve-image")


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture
def service(lab: LabUnderTest) -> Iterator[str]:
    yield "asked"
    if any(task.service == "asked" for task in lab.tasks()) or lab.engine.services():
        lab.remove("asked")


def test_run(node: Docker) -> None:
    """Rights, limits of processes, groups, names and files of `docker run` are there inside."""
    asked = ("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--ulimit", "nofile=77:88", "--oom-score-adj", "9")
    more = ("--sysctl", "net.ipv4.ip_forward=1", "--group-add", "video", "--init", "--read-only", "--shm-size", "1m")
    names = ("--add-host", "db:10.9.8.7", "--dns", "192.0.2.7", "--dns-search", "example", "--dns-option", "timeout:1")
    script = (
        "grep CapEff /proc/self/status | cut -f 2; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; "
        "cat /proc/sys/net/ipv4/ip_forward; id -G; cat /proc/1/comm; (echo > /usr/x) 2>/dev/null || echo refused; "
        "df -k /dev/shm | tail -1 | awk '{print $2}'; getent hosts db; cat /etc/resolv.conf"
    )
    said = node.out(*RUN, *asked, *more, *names, "alpine", "sh", "-c", script).splitlines()
    assert said == [
        *("00000000a80435fa", "77", "88", "9", "1", "0 44", "docker-init", "refused", "1024"),
        "10.9.8.7        db",
        "nameserver 127.0.0.11",
        "search example",
        "options timeout:1 ndots:0",
    ]
    assert node.out(*RUN, "--network", "none", "--dns", "192.0.2.7", "alpine", "cat", "/etc/resolv.conf") == (
        "nameserver 192.0.2.7"
    )
    mounts = node.out(
        *RUN, "--tmpfs", "/run:rw,noexec,nosuid,size=65536k,mode=700", "alpine", "grep", " /run ", "/proc/mounts"
    )
    assert "noexec" in mounts
    assert "size=65536k,mode=700" in mounts


def test_inspect_shows_what_was_asked(node: Docker) -> None:
    """As it was given, in the fields of an engine."""
    asked = ("--cap-add", "NET_ADMIN", "--ulimit", "core=-1", "--memory", "64m", "--init", "--dns", "192.0.2.7")
    node.out("create", "--name", "shown", *asked, "--read-only", "alpine", "true")
    try:
        found = json.loads(node.out("inspect", "--format", "{{json .HostConfig}}", "shown"))
        wanted = {
            "CapAdd": ["NET_ADMIN"],
            "Ulimits": [{"Name": "core", "Hard": -1, "Soft": -1}],
            "Memory": 64 << 20,
            "Init": True,
            "Dns": ["192.0.2.7"],
            "ReadonlyRootfs": True,
        }
        assert {name: found[name] for name in wanted} in (wanted, {**wanted, "CapAdd": ["CAP_NET_ADMIN"]})
    finally:
        node.out("rm", "shown")


def test_a_service(lab: LabUnderTest, node: Docker, service: str) -> None:
    """The same of a service: its tasks have what it says, on a terminal too, and are stopped with its signal."""
    asked = ("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--ulimit", "nofile=77:88", "--init", "--read-only")
    more = ("--group", "video", "--sysctl", "net.ipv4.ip_forward=1", "--tty", "--mount", "type=tmpfs,target=/t")
    names = ("--host", "db:10.9.8.7", "--dns", "192.0.2.7", "--dns-search", "example", "--dns-option", "ndots:2")
    stop = ("--stop-signal", "USR1", "--stop-grace-period", "9s", "--constraint", "node.hostname==docker-0")
    script = (
        "trap 'echo bye; exit 0' USR1; grep CapEff /proc/self/status | cut -f 2; ulimit -Sn; id -G; cat /proc/1/comm; "
        "tty; (echo > /usr/x) 2>/dev/null || echo refused; getent hosts db; cat /etc/resolv.conf; "
        "while :; do sleep 0.1; done"
    )
    node.out(*CREATE, "--name", service, *asked, *more, *names, *stop, "alpine", "sh", "-c", script)
    expected = [
        *("00000000a80435fa", "77", "0 44", "docker-init", "/dev/pts/0", "refused", "10.9.8.7        db"),
        *("nameserver 127.0.0.11", "search example", "options ndots:2"),
    ]
    eventually(
        lab, lambda: len(node.out("service", "logs", "--raw", service).splitlines()) >= len(expected), "its words"
    )
    assert node.out("service", "logs", "--raw", service).replace("\r", "").splitlines() == expected
    container = node.container(f"{service}.1")
    with node.started("logs", "-f", "--tail", "1", container) as following:
        assert following.stdout is not None
        assert following.stdout.readline().strip() == expected[-1]  # from here on it is told what comes
        node.out("service", "scale", "-d", f"{service}=0")
        assert following.stdout.read().strip() == "bye"


def test_names_are_asked_of_the_servers_given(lab: LabUnderTest, node: Docker, tmp_path: Path) -> None:
    """What no network knows goes to the container's own DNS servers, which the node asks."""
    address = lab.spec.host("client").address
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.99 far.example\n")
    command = f"dnsmasq -k -u root -p 53 -a {address} -z -R -h -H {hosts} --pid-file={tmp_path}/pid & echo $!"
    pid = lab.client().out(f"{command} > {tmp_path}/started 2>&1; cat {tmp_path}/started; true") or "0"
    try:
        ask = (*RUN, "--dns", address, "alpine", "sh", "-c", "dig +short +tries=3 +time=1 far.example")
        eventually(lab, lambda: node.out(*ask) == "192.0.2.99", "the server answers")
    finally:
        lab.client().run(f"kill $(cat {tmp_path}/pid) {pid} 2>/dev/null")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cap-add", "SYS_ADMIN"), "capability CAP_SYS_ADMIN is not given"),
        (("--cap-add", "ALL"), "capability ALL is not given"),
        (("--privileged",), "privileged containers are not served"),
        (("--pid", "host"), "another PID namespace is not served"),
        (("--ipc", "host"), "IpcMode host is not served"),
        (("--device", "/dev/null"), "devices of the machine are not served"),
        (("--security-opt", "seccomp=unconfined"), "is not served"),
        (("--volumes-from", "x"), "the volumes of another container are not served"),
        (("--link", "x"), "links are not served"),
        (("--publish-all",), "publishing all ports is not served"),
        (("--network", "container:x"), "the network of another container is not served"),
        (("--oom-score-adj", "2000"), "range for oom score adj is [-1000, 1000]"),
        (("--group-add", "nosuch"), "Unable to find group nosuch"),
        (("--add-host", "db:x"), "invalid"),
        (("-v", "/tmp:/t:rshared"), "the propagation rshared is not served"),
        (("--tmpfs", "/t:wrong"), "invalid tmpfs option 'wrong'"),
        (("--memory", "1m"), "Minimum memory limit allowed is 6MB"),
    ],
)
def test_refusals(node: Docker, words: tuple[str, ...], said: str) -> None:
    """What a container cannot have is refused by name, and no container is left."""
    assert said in node.refused(*RUN, *words, "alpine", "true")
    assert node.out("ps", "-aq", "--filter", "is-task=false") == ""


def test_warnings(node: Docker, service: str) -> None:
    """What is taken without effect is said: by run, by service create, and of the machine by docker info."""
    lacking = json.loads(node.out("info", "--format", "{{json .Warnings}}")) or []
    done = node.run(*RUN, "--memory", "64m", "--cpu-shares", "5", "--log-driver", "syslog", "alpine", "true")
    assert done.returncode == 0
    assert "CpuShares is without effect" in done.stderr
    assert "the log driver syslog is not there" in done.stderr
    assert ("no memory limit is applied" in done.stderr) is any("memory" in line for line in lacking)
    done = node.run(*CREATE, "--name", service, "--limit-memory", "64m", "-d", "alpine", "sleep", "99")
    assert ("no memory limit is applied" in done.stderr) is any("memory" in line for line in lacking)


@pytest.mark.parametrize(
    "words",
    [
        ("diff", "{}"),
        ("export", "-o", "x", "{}"),
        ("update", "--memory", "64m", "{}"),
        ("commit", "{}", "x"),
        ("save", "-o", "x", "alpine"),
        ("push", "alpine"),
        ("search", "alpine"),
    ],
)
def test_commands_that_are_not_served(node: Docker, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Each says so itself, with what to do instead."""
    ident = node.out("create", "alpine", "true")
    try:
        asked = [str(tmp_path / "x") if word == "x" and words[0] in ("save", "export") else word for word in words]
        assert "not served" in node.refused(*(word.format(ident) for word in asked))
    finally:
        node.out("rm", ident)


def test_docker_py(lab: LabUnderTest, node: Docker) -> None:
    """docker-py's arguments mean the same, and its exceptions are of the right class."""
    engine = client(lab, "docker-0")
    try:
        said = engine.containers.run(
            "alpine",
            ["sh", "-c", "ulimit -n; id -G; cat /proc/1/comm"],
            remove=True,
            init=True,
            group_add=["video"],
            ulimits=[Ulimit(name="nofile", soft=55, hard=55)],
        )
        assert said == b"55\n0 44\ndocker-init\n"
        with pytest.raises(docker.errors.APIError, match="not served"):
            engine.containers.run("alpine", "true", privileged=True)
    finally:
        engine.close()
