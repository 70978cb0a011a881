"""Logs of services and events through the docker command and docker-py."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from engines import Docker, client, eventually

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
SAYS = "echo hello; echo err >&2; while true; do sleep 1; done"


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(scope="module")
def talker(lab: LabUnderTest, node: Docker) -> Iterator[str]:
    """A service of two tasks on two nodes that write to both streams."""
    node.out("service", "create", "-q", "--name", "talker", "--replicas", "2", "alpine", "sh", "-c", SAYS)
    yield "talker"
    lab.remove("talker")


def _lines(node: Docker, talker: str) -> int:
    done = node.run("service", "logs", talker)
    return len((done.stdout + done.stderr).splitlines())


def test_service_logs(lab: LabUnderTest, node: Docker, talker: str) -> None:
    """Both streams of all tasks, with task and node before each line; tail, times, one task, and what is none."""
    eventually(lab, lambda: _lines(node, talker) >= 4, "both have written")
    done = node.run("service", "logs", talker)
    assert sorted(re.sub(r"\w{12}", "ID", line) for line in done.stdout.splitlines()) == [
        "talker.1.ID@docker-0    | hello",
        "talker.2.ID@docker-1    | hello",
    ]
    assert done.stderr.count("| err") == 2
    done = node.run("service", "logs", "--tail", "1", "-t", talker)
    assert (done.stdout.count("hello"), done.stderr.count("err")) == (0, 2)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z talker", done.stderr)
    since = ("service", "logs", "--since", "1s", "--no-trunc", talker)
    eventually(lab, lambda: node.out(*since) == "", "all was written more than a second ago")
    task = node.out("service", "ps", "-q", talker).split()[0]
    assert node.run("service", "logs", task).stdout.count("hello") == 1
    assert node.refused("service", "logs", "nosuch").startswith("no such task or service: nosuch")


def test_service_logs_of_a_terminal(lab: LabUnderTest, node: Docker) -> None:
    """What a service with a terminal writes comes as it is, and nothing else with it."""
    node.out("service", "create", "-d", "-q", "--tty", "--name", "term", "alpine", "sh", "-c", "tty; sleep 99")
    try:
        shown = ("service", "logs", "--raw", "term")
        eventually(lab, lambda: node.run(*shown).stdout == "/dev/pts/0\n", "the name of its terminal")
    finally:
        lab.remove("term")


def test_following_finds_new_tasks(lab: LabUnderTest, node: Docker, talker: str) -> None:
    """`logs -f` shows what comes, also of tasks that come; when the client goes, nobody reads on."""
    with node.started("service", "logs", "-f", talker) as following:
        assert following.stdout is not None
        lines = [following.stdout.readline() for _ in range(2)]
        node.out("service", "scale", "-d", "talker=3")
        lines.append(following.stdout.readline())
    assert {line.partition(".")[2][0] for line in lines} == {"1", "2", "3"}
    node.out("service", "scale", "-d", "talker=2")


def test_logs_of_what_has_ended(lab: LabUnderTest, node: Docker) -> None:
    """A task's log can be read after its end, with docker-py too."""
    node.out(
        "service", "create", "-d", "-q", "--name", "brief", "--restart-condition", "none", "alpine", "echo", "last"
    )
    engine = client(lab, "docker-0")
    try:
        eventually(lab, lambda: "Complete" in node.out("service", "ps", "brief"), "it has ended")
        assert node.out("service", "logs", "--raw", "brief") == "last"
        assert b"last\n" in b"".join(engine.services.get("brief").logs(stdout=True))
    finally:
        engine.close()
        lab.remove("brief")


def test_ports_in_host_mode(lab: LabUnderTest, node: Docker) -> None:
    """They are served on the nodes of the tasks only, shown by ps and port, and two tasks cannot share one."""
    port = "published=8080,target=8000,mode=host"
    node.out("service", "create", "-q", "--name", "own", "--replicas", "2", "--publish", port, "whoami")
    try:
        addresses = {"docker-0": "172.17.0.2", "docker-1": "172.17.0.3", "docker-2": "172.17.0.4"}
        asked = {name: lab.client().run(f"curl -s -m 15 {ip}:8080").stdout for name, ip in addresses.items()}
        there = {task.node for task in lab.tasks("own")}
        assert {name for name, answer in asked.items() if answer.endswith("\n172.17.0.10\n")} == there
        assert {name for name, answer in asked.items() if not answer} == addresses.keys() - there
        here = Docker(lab, min(there))
        assert here.out("port", here.container("own.")) == "8000/tcp -> 0.0.0.0:8080"
        assert "*:8080->8000/tcp" in node.out("service", "ps", "own")
        node.out("service", "scale", "-d", "own=4")
        waiting = ("service", "ps", "--no-trunc", "--filter", "desired-state=running", "own")
        eventually(lab, lambda: "host-mode port already in use on 3 nodes" in node.out(*waiting), "the fourth waits")
    finally:
        lab.remove("own")


def test_events(lab: LabUnderTest, node: Docker) -> None:
    """What happened to services, networks, nodes, containers and volumes is told in order, live and afterwards."""
    shown = ("--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
    # From now on, whenever the client gets there; what comes after its first line, it is told live.
    only = ("--filter", "type=network", "--filter", "type=volume", "--since", f"{time.time():.9f}")
    with node.started("events", *shown, *only) as live:
        assert live.stdout is not None
        node.out("network", "create", "-d", "overlay", "seen")
        assert live.stdout.readline() == "network create seen\n"
        node.out("volume", "create", "kept")
        assert live.stdout.readline().startswith("volume create")
    here = ("--constraint", "node.hostname==docker-0")
    node.out("service", "create", "-q", "--name", "short", *here, "alpine", "sleep", "99")
    node.out("node", "update", "--label-add", "a=b", "docker-1")
    node.out("service", "rm", "short")
    eventually(lab, lambda: not lab.tasks("short"), "its task is gone")
    node.out("network", "rm", "seen")

    def past() -> list[str]:  # the client counts in whole seconds
        return node.out("events", *shown, "--since", "1m", "--until", "0s").splitlines()

    eventually(lab, lambda: "network remove seen" in past(), "the last of it is told")
    told = past()
    wanted = ["network create seen", "service create short", "node update docker-1", "service remove short"]
    told = told[told.index(wanted[0]) :]
    assert [line for line in told if line in wanted] == wanted
    lives = [line.split()[1] for line in told if line.startswith("container") and "short.1." in line]
    assert lives[:3] == ["create", "start", "die"]
    worker = Docker(lab, "docker-1")
    assert "service" not in worker.out("events", *shown, "--since", "1m", "--until", "0s")
