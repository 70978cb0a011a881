"""Containers that people start by themselves: docker run on any node, on attachable networks and without one."""

from __future__ import annotations

import json
import os
import signal

import pytest
from engines import Docker, client, eventually

from meshnet.lab import nodes, processes, state
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"


@pytest.fixture(scope="module")
def manager(lab: LabUnderTest) -> Docker:
    node = Docker(lab, "docker-0")
    node.out("network", "create", "-d", "overlay", "--attachable", "att")
    node.out("network", "create", "-d", "overlay", "--attachable", "other")
    node.out("network", "create", "-d", "overlay", "closed")
    lab.service("box", "whoami", replicas=2, networks=("att",))
    return node


@pytest.fixture(scope="module")
def worker(lab: LabUnderTest, manager: Docker) -> Docker:
    return Docker(lab, "docker-1")


def test_on_an_attachable_network(manager: Docker, worker: Docker) -> None:
    """It reaches services, and is found by its name and aliases from other nodes; a worker knows the network then."""
    worker.out("run", "-d", "--name", "alone", "--network", "att", "--network-alias", "solo", "nginx")
    try:
        assert "I'm " in worker.out("exec", "alone", "curl", "-s", "box:8000")
        address = json.loads(
            worker.out("inspect", "--format", "{{json .NetworkSettings.Networks.att.IPAddress}}", "alone")
        )
        script = "dig +short alone; dig +short solo; dig +short -x $(dig +short alone); curl -s http://alone | head -1"
        found = manager.out("run", "--rm", "--network", "att", "alpine", "sh", "-c", script).splitlines()
        assert found == [address, address, "alone.att.", "<html>"]
        assert "att" in worker.out("network", "ls", "--format", "{{.Name}}").split()
        assert "is in use by" in manager.refused("network", "rm", "att")
    finally:
        worker.out("rm", "-f", "alone")


def test_exit_status_and_streams(worker: Docker) -> None:
    """`docker run` gives the program's input, output and exit status, on a terminal too; --rm leaves nothing."""
    done = worker.run("run", "--rm", "-i", "alpine", "sh", "-c", "cat; echo err >&2; exit 7", stdin="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n", "err\n")
    terminal = worker.terminal("run", "-it", "--rm", "alpine", "sh")
    terminal.until("# ")
    terminal.type("tty; exit 3\n")
    terminal.until("/dev/")
    assert terminal.end() == 3
    assert worker.out("ps", "-aq", "--filter", "is-task=false") == ""


def test_local_networks(worker: Docker) -> None:
    """`none` has loopback alone, `host` is the node's, and without a network there is a way out."""
    assert worker.out("run", "--rm", "--network", "none", "alpine", "ip", "-br", "addr").split()[0] == "lo"
    assert "172.17.0.3" in worker.out("run", "--rm", "--network", "host", "alpine", "ip", "-4", "addr")
    assert " 0% packet loss" in worker.out("run", "--rm", "alpine", "ping", "-c", "1", "-W", "2", "172.17.0.10")


def test_refusals(manager: Docker, worker: Docker) -> None:
    """Unknown images and networks, networks that are not attachable, and taken names are refused; nothing stays."""
    assert "No such image: nosuch:latest: it is neither of the catalogue nor loaded" in worker.refused("run", "nosuch")
    assert "network nosuch not found" in worker.refused("run", "--rm", "--network", "nosuch", "alpine", "true")
    assert "network closed not manually attachable" in worker.refused("run", "--rm", "--network", "closed", "alpine")
    assert "publishing all ports is not served" in worker.refused("run", "--rm", "-P", "alpine", "true")
    assert "publishing on 127.0.0.1 alone" in worker.refused("run", "--rm", "-p", "127.0.0.1:1:1", "alpine", "true")
    done = worker.run("run", "--rm", "alpine", "nosuchcmd")
    assert (done.returncode, 'exec: "nosuchcmd": executable file not found in $PATH' in done.stderr) == (127, True)
    assert worker.run("run", "--rm", "alpine", "/no/such").returncode == 127
    assert worker.run("run", "--rm", "alpine", "/etc").returncode == 126
    worker.out("create", "--name", "taken", "alpine")
    assert 'The container name "/taken" is already in use by container "' in worker.refused(
        "create", "--name", "taken", "alpine"
    )
    worker.out("rm", "taken")
    assert worker.out("ps", "-aq", "--filter", "is-task=false") == ""


def test_life(lab: LabUnderTest, manager: Docker, worker: Docker) -> None:
    """Created, started, renamed, connected to another network and away, stopped, started again, removed."""
    ident = worker.out("create", "--name", "one", "--network", "att", "alpine", "sleep", "1000")
    assert worker.out("inspect", "--format", "{{.State.Status}}", "one") == "created"
    worker.out("start", "one")
    worker.out("network", "connect", "--alias", "away", "other", "one")
    addresses = worker.out("exec", "one", "ip", "-4", "-br", "addr")
    assert addresses.count("eth") == 2
    assert "already exists in network other" in worker.refused("network", "connect", "other", "one")
    assert manager.out("run", "--rm", "--network", "other", "alpine", "dig", "+short", "away")
    worker.out("network", "disconnect", "other", "one")
    eventually(lab, lambda: worker.out("exec", "one", "ip", "-4", "-br", "addr").count("eth") == 1, "one network")
    worker.out("rename", "one", "two")
    worker.out("stop", "-t", "1", "two")
    assert worker.out("ps", "-aq", "--no-trunc", "--filter", "status=exited") == ident
    worker.out("restart", "two")
    assert worker.out("inspect", "--format", "{{.State.Running}}", "two") == "true"
    worker.out("rm", "-f", "two")
    assert worker.refused("inspect", "two").endswith("No such object: two")


def test_published_ports(lab: LabUnderTest, manager: Docker, worker: Docker) -> None:
    """A port of the node, or one from a range or of the node's choice, leads to the container as long as it runs."""
    flags = ("-p", "8091:8000", "-p", "8091-8099:8000", "-p", "8000", "-p", "8091:53/udp", "--network", "att")
    worker.out("run", "-d", "--name", "open", *flags, "whoami")
    try:
        led = dict(line.split(" -> ") for line in reversed(worker.out("port", "open").splitlines()))
        assert led["53/udp"] == "0.0.0.0:8091"
        ports = [line.rpartition(":")[2] for line in worker.out("port", "open", "8000").splitlines()]
        assert (ports[:2], int(ports[2]) >= 61000) == (["8091", "8092"], True)
        for port in ports:
            ask = f"curl -s -m 2 --retry 20 --retry-connrefused --retry-delay 1 172.17.0.3:{port}"
            assert "172.17.0.10" in lab.client().out(ask)
        assert lab.client().run("curl -s -m 2 172.17.0.4:8091").returncode == 7
        assert worker.out("ps", "--filter", "publish=8092", "--format", "{{.Names}}") == "open"
        assert "8091 failed: port is already allocated" in worker.refused("run", "-p", "8091:1", "alpine", "true")
        worker.out("stop", "-t", "0", "open")
        assert worker.out("port", "open") == ""
        eventually(lab, lambda: lab.client().run("curl -s -m 2 172.17.0.3:8091").returncode == 7, "it is closed")
        lab.service("swarms", "whoami", ports=("8091:8000",))
        assert "port is already allocated" in worker.refused("start", "open")
        lab.remove("swarms")
        worker.out("start", "open")
    finally:
        worker.out("rm", "-f", *worker.out("ps", "-aq", "--filter", "is-task=false").split())


def test_it_outlives_its_agent(lab: LabUnderTest, worker: Docker) -> None:
    """An agent that was killed and started again takes the container over: it runs on, is seen, and can be removed."""
    ident = worker.out("run", "-d", "--name", "lasting", "--network", "att", "-p", "8080:80", "nginx")
    pid = worker.out("inspect", "--format", "{{.State.Pid}}", "lasting")
    for agent in processes.pids(lab.name, "docker-1", "agent"):
        os.kill(agent, signal.SIGKILL)
    eventually(lab, lambda: not processes.alive(lab.name, "docker-1", "agent"), "the agent is dead")
    nodes.start(state.load(lab.name), "docker-1")
    eventually(lab, lambda: worker.run("ps", "-q", "--no-trunc").stdout.find(ident) >= 0, "the container is seen")
    assert worker.out("inspect", "--format", "{{.State.Pid}}", "lasting") == pid
    assert "I'm " in worker.out("exec", "lasting", "curl", "-s", "box:8000")
    assert "Welcome" in lab.client().out("curl -s -m 2 172.17.0.3:8080")
    worker.out("rm", "-f", "lasting")


def test_restart_policies(lab: LabUnderTest, worker: Docker) -> None:
    """What ends by itself begins again as its policy says; what somebody stops does not, and rm ends the waiting."""
    show = ("inspect", "--format", "{{.State.Status}} {{.RestartCount}}")
    worker.out("run", "-d", "--name", "fails", "--restart", "on-failure:2", "alpine", "sh", "-c", "echo x; exit 3")
    worker.out("run", "-d", "--name", "ends", "--restart", "always", "alpine", "sleep", "0.2")
    try:
        eventually(lab, lambda: worker.out(*show, "fails") == "exited 2", "it was tried three times")
        eventually(lab, lambda: int(worker.out(*show, "ends").split()[1]) >= 2, "it begins again and again")
        assert "Running" not in worker.out("ps", "--filter", "status=restarting", "--format", "{{.Status}}")
        worker.out("stop", "-t", "0", "ends")
        assert worker.out(*show, "ends").startswith("exited ")
        worker.out("start", "ends")
        eventually(lab, lambda: worker.out(*show, "ends").startswith("restarting "), "it ends again")
        worker.out("rm", "-f", "ends")
        assert worker.out("ps", "-aq", "--filter", "name=ends") == ""
        assert "invalid restart policy 'daily'" in worker.refused("run", "--restart", "daily", "alpine", "true")
    finally:
        worker.run("rm", "-f", "fails", "ends")


def test_policies_when_a_node_starts(lab: LabUnderTest, worker: Docker) -> None:
    """A node that was stopped starts again what shall run always, and not what somebody had stopped."""
    keep = ("alpine", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    for name, policy in (
        ("always", "always"),
        ("running", "unless-stopped"),
        ("halted", "unless-stopped"),
        ("no", "no"),
    ):
        worker.out("run", "-d", "--name", name, "--restart", policy, *keep)
    worker.out("stop", "-t", "1", "halted")
    topology = state.load(lab.name)
    nodes.stop(topology, "docker-1")
    nodes.start(topology, "docker-1")
    try:
        names = ("ps", "--filter", "is-task=false", "--filter", "status=running", "--format", "{{.Names}}")
        eventually(lab, lambda: set(worker.run(*names).stdout.split()) == {"always", "running"}, "two run again")
    finally:
        worker.out("rm", "-f", "always", "running", "halted", "no")


def test_docker_py(lab: LabUnderTest, worker: Docker) -> None:
    """docker-py runs a container and gets its output."""
    engine = client(lab, "docker-1")
    try:
        assert engine.containers.run("alpine", ["echo", "hello"], remove=True) == b"hello\n"
        container = engine.containers.run("alpine", ["sleep", "99"], detach=True, network="att", name="py")
        assert container.exec_run("hostname").output.decode().strip() == container.short_id
        for _ in range(3):
            container.stop(timeout=0)
            container.start()  # also while the last run is still being taken away
            assert container.exec_run("true").exit_code == 0
        container.remove(force=True)
    finally:
        engine.close()
