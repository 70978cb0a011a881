"""The docker command and docker-py against the engine of each node: the node itself, and containers of tasks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from engines import PATIENCE, Docker, client, eventually

from meshnet.kernel.bpf import cgroup2_root
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
TALKER = "echo hello; echo err >&2; while true; do sleep 1; done"
WORKER = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."


@pytest.fixture(scope="module")
def manager(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(scope="module")
def worker(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-1")


@pytest.fixture(scope="module")
def talker(lab: LabUnderTest, worker: Docker) -> Iterator[str]:
    """The container of a task on docker-1 that writes to both streams and goes on."""
    lab.network("talk", attachable=True)
    constraints = ("node.hostname==docker-1",)
    lab.service("talker", "alpine", "sh", "-c", TALKER, networks=("talk",), constraints=constraints, restart_delay=0)
    container = worker.container("talker.1")
    eventually(lab, lambda: "err" in worker.run("logs", container).stderr, "it has written")
    yield container
    lab.remove("talker")


def test_version_and_info(manager: Docker, worker: Docker) -> None:
    """The client negotiates its version; info says what the node is in its swarm."""
    assert manager.out("version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}}") == "1.41 1.41"
    assert "Swarm: active" in manager.out("info")
    shown = "{{.Name}} {{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"
    assert manager.out("info", "--format", shown) == "docker-0 active true"
    assert worker.out("info", "--format", shown) == "docker-1 active false"
    assert worker.out("info", "--format", "{{(index .Swarm.RemoteManagers 0).Addr}}") == "172.17.0.2:2377"


def test_swarm_commands(manager: Docker, worker: Docker) -> None:
    """A manager answers them, a worker refuses them with Swarm's words."""
    assert [line.split()[-3] for line in manager.out("node", "ls").splitlines()[2:]] == ["Ready", "Ready"]
    for words in (("node", "ls"), ("service", "ls"), ("service", "create", "-d", "alpine")):
        assert worker.refused(*words).startswith(WORKER)


def test_ps_and_inspect(worker: Docker, talker: str) -> None:
    """A task's container has Swarm's name and labels, and its address on the network."""
    name = worker.out("ps", "--format", "{{.Names}} {{.State}} {{.Image}}")
    found = re.fullmatch(r"talker\.1\.(\w{25}) running alpine(:latest)?", name)
    assert found
    labels = json.loads(worker.out("inspect", "--format", "{{json .Config.Labels}}", talker))
    assert labels["com.docker.swarm.task.id"] == found[1]
    assert labels["com.docker.swarm.task.name"] == f"talker.1.{found[1]}"
    assert labels["com.docker.swarm.service.name"] == "talker"
    networks = json.loads(worker.out("inspect", "--format", "{{json .NetworkSettings.Networks}}", talker))
    assert networks["talk"]["IPAddress"] in worker.out("exec", talker, "ip", "-4", "addr")
    assert worker.out("ps", "-q", "--filter", "label=com.docker.swarm.service.name=talker") == talker
    assert worker.out("ps", "-q", "--filter", "name=nosuch") == ""
    assert worker.out("port", talker) == ""
    assert worker.refused("inspect", "nosuch").endswith("No such object: nosuch")


def test_logs(worker: Docker, talker: str) -> None:
    """Both streams come back apart, with times and a tail if asked for; following ends with the client."""
    done = worker.run("logs", talker)
    assert (done.stdout, done.stderr) == ("hello\n", "err\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+\.\d{9}Z err\n", worker.run("logs", "-t", "--tail", "1", talker).stderr)
    assert worker.out("logs", "--since", "1s", "--until", "2000-01-01T00:00:00Z", talker) == ""
    with worker.started("logs", "-f", talker) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "hello\n"
        worker.out("exec", talker, "sh", "-c", "echo later > /proc/1/fd/1")
        assert following.stdout.readline() == "later\n"


def test_exec(worker: Docker, talker: str) -> None:
    """Programs run inside, with both streams, exit status, environment, user, input and a wrong name."""
    assert worker.out("exec", talker, "hostname") == talker
    done = worker.run("exec", talker, "sh", "-c", "echo out; echo bad >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "bad\n")
    assert worker.out("exec", "-e", "A=b", "-w", "/tmp", talker, "sh", "-c", "echo $A $PWD") == "b /tmp"
    assert worker.out("exec", "-u", "nobody", talker, "id", "-un") == "nobody"
    assert worker.out("exec", "-i", talker, "cat", stdin="typed\n") == "typed"
    done = worker.run("exec", talker, "nosuchcmd")
    assert done.returncode == 126
    assert 'exec: "nosuchcmd": executable file not found in $PATH: unknown' in done.stdout
    assert worker.refused("exec", "nosuch", "true").endswith("No such container: nosuch")
    assert len(worker.run("exec", talker, "head", "-c", "3000000", "/dev/zero").stdout) == 3000000


def test_exec_on_a_terminal(worker: Docker, talker: str) -> None:
    """`exec -it` gives a shell on a terminal, and the shell's exit status."""
    terminal = worker.terminal("exec", "-it", talker, "sh")
    terminal.until("# ")
    terminal.type("tty; echo size is $(stty size)\n")
    terminal.until("/dev/pts/")
    terminal.until("size is ")
    terminal.type("exit 5\n")
    assert terminal.end() == 5


def descriptors(lab: LabUnderTest, node: str) -> int:
    """How many descriptors the agent of a node has open, and the monitors of its containers with it."""
    pids = Path(cgroup2_root(), "meshnet", lab.name, node, "agent", "cgroup.procs").read_text().split()
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):  # a monitor that has ended meanwhile
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


def test_nothing_is_left_of_clients_that_go(lab: LabUnderTest, worker: Docker, talker: str) -> None:
    """Programs of clients that were killed in the middle end, and the agent keeps no descriptor of them."""
    before = descriptors(lab, "docker-1")
    for words in (("exec", talker, "sleep", "77"), ("exec", "-i", talker, "sleep", "77"), ("logs", "-f", talker)):
        with worker.started(*words):
            if words[0] == "exec":
                eventually(lab, lambda: "sleep 77" in worker.out("top", talker), "the program runs")
        eventually(lab, lambda: "sleep 77" not in worker.out("top", talker), "the program is gone")
    eventually(lab, lambda: descriptors(lab, "docker-1") <= before, "descriptors are closed")


def test_top_and_attach(worker: Docker, talker: str) -> None:
    """top shows the container's processes and no others; attach shows what is written from then on."""
    shown = worker.out("top", talker).splitlines()
    assert shown[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert "echo hello" in shown[1]
    assert not any("crun" in line for line in shown)
    with worker.started("attach", "--no-stdin", "--sig-proxy=false", talker) as attached:
        assert attached.stdout is not None
        deadline = time.monotonic() + PATIENCE
        line = ""
        while not line and time.monotonic() < deadline:
            worker.out("exec", talker, "sh", "-c", "echo now > /proc/1/fd/1")
            if select.select([attached.stdout], [], [], 1)[0]:  # else it was written before the client was there
                line = attached.stdout.readline()
        assert line == "now\n"


def test_docker_py(lab: LabUnderTest, talker: str) -> None:
    """docker-py sees the same, and raises its own exceptions for what is refused."""
    with_client = client(lab, "docker-1")
    try:
        container = with_client.containers.get(talker)
        assert container.status == "running"
        assert container.exec_run(["sh", "-c", "echo a; echo b >&2; exit 4"], demux=True) == (4, (b"a\n", b"b\n"))
        assert container.exec_run("hostname", tty=True).output == talker.encode() + b"\r\n"
        assert b"hello\n" in container.logs()
        with pytest.raises(docker.errors.NotFound, match="No such container: nosuch"):
            with_client.containers.get("nosuch")
        with pytest.raises(docker.errors.APIError, match="cannot remove a running container"):
            container.remove()
        with pytest.raises(docker.errors.APIError, match="not a swarm manager"):
            with_client.services.list()
    finally:
        with_client.close()


def test_health(lab: LabUnderTest, worker: Docker) -> None:
    """inspect shows the last five results of a health check with their output; ps says healthy."""
    options = ("--health-cmd", "echo fine", "--health-interval", "100ms", "--constraint", "node.hostname==docker-1")
    Docker(lab, "docker-0").out("service", "create", "-d", "-q", "--name", "checked", *options, "alpine", "sleep", "99")
    try:
        container = worker.container("checked.1")

        def health() -> dict[str, object]:
            found: dict[str, object] = json.loads(
                worker.out("inspect", "--format", "{{json .State.Health}}", container)
            )
            return found

        eventually(lab, lambda: len(health()["Log"]) == 5, "five results")  # type: ignore[arg-type]
        shown = health()
        assert (shown["Status"], shown["FailingStreak"]) == ("healthy", 0)
        assert shown["Log"][-1]["Output"] == "fine\n"  # type: ignore[index]
        assert "(healthy)" in worker.out("ps", "--filter", "name=checked")
    finally:
        lab.remove("checked")


def test_a_removed_container_is_replaced(lab: LabUnderTest, worker: Docker, talker: str) -> None:
    """rm without force refuses; with force the swarm starts another, and the old one's end is told as Swarm does."""
    assert worker.refused("rm", talker).endswith("Stop the container before attempting removal or force remove")
    container = worker.container("talker.1")
    worker.out("rm", "-f", container)
    assert container not in worker.out("ps", "-aq")
    eventually(lab, lambda: worker.run("ps", "-q", "--filter", "name=talker").stdout.strip(), "a new container")
    shown = Docker(lab, "docker-0").out("service", "ps", "--no-trunc", "talker")
    assert '"task: non-zero exit (137)"' in shown


def test_an_ended_container_stays(lab: LabUnderTest, worker: Docker) -> None:
    """What ended by itself is shown by ps -a with its exit code, and its logs can be read, until it is removed."""
    constraints = ("node.hostname==docker-1",)
    lab.service(
        "brief",
        "alpine",
        "sh",
        "-c",
        "echo last words; exit 3",
        wait=False,
        constraints=constraints,
        restart_delay=3600 * 10**9,
    )
    try:

        def exited() -> str:
            return worker.run("ps", "-aq", "--filter", "name=brief", "--filter", "status=exited").stdout.strip()

        eventually(lab, exited, "the task has ended")
        container = exited()
        assert worker.out("inspect", "--format", "{{.State.ExitCode}}", container) == "3"
        assert worker.out("logs", container) == "last words"
        assert worker.out("wait", container) == "3"
        assert "is not running" in worker.refused("exec", container, "true")
        worker.out("rm", container)
        assert exited() == ""
    finally:
        lab.remove("brief")
