"""What Swarm's tutorials have people type, beyond what the stories tell: each command as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial

import pytest
from engines import NODES, Docker, eventually, sweep

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
# A command, and an expression that is found in what it prints; "!" before a command that must be refused.
CLUSTER = (
    ("docker info", r"Swarm: active"),
    ("docker network ls", r"ingress +overlay +swarm"),
    ("docker swarm join-token worker", r"docker swarm join --token SWMTKN-1-\S+ 172.17.0.2:2377"),
    ("docker swarm join-token manager", r"SWMTKN-1-"),
    ("docker node ls", r"(?s)docker-0 +Ready +Active +Leader.*docker-1 +Ready.*docker-2 +Ready"),
    ("docker node inspect docker-1 --pretty", r"Hostname: +\tdocker-1"),
    ("!docker node update --role manager docker-1", r"a swarm has one manager so far"),
    ("!docker node promote docker-1 docker-2", r"a swarm has one manager so far"),
    ("docker node demote docker-1", r"is already a worker"),
    ("!docker node demote docker-0", r"attempting to demote the last manager of the swarm"),
)
SERVICES = (
    ("docker service create --detach --name web nginx", r"^\w{25}$"),
    ("docker service create --detach --name frontweb --mode global nginx", r"^\w{25}$"),
    ('docker service create --detach --name demo busybox sh -c "while true;do sleep 3600;done"', r"^\w{25}$"),
    ("docker service create --detach --name my-tomcat tomcat", r"^\w{25}$"),
    ("docker service create --detach --name search elasticsearch:5", r"^\w{25}$"),
    ("docker service create --detach --name db --env MYSQL_ROOT_PASSWORD=x mariadb:10", r"^\w{25}$"),
    ("docker service inspect frontweb --pretty", r"Service Mode:\tGlobal"),
    ("docker service scale --detach web=3", r"web scaled to 3"),
    ("docker service scale --detach web=2", r"web scaled to 2"),
    ("!docker service scale frontweb=3", r"scale can only be used with replicated"),
    ("docker service create --detach --name my-web --publish published=8080,target=80 httpd", r"^\w{25}$"),
    ("docker service update --detach --publish-add 8000:80 web", r"web"),
    ("docker service update --detach --publish-add 8081 my-web", r"my-web"),
    ("docker service create --detach --name names -p 53:53/udp busybox sleep 1000", r"^\w{25}$"),
    ("docker service inspect --format='{{json .Endpoint.Ports}}' names", r'"udp","TargetPort":53,"PublishedPort":53'),
    ("docker service inspect --format='{{json .Endpoint.Ports}}' my-web", r'8081,"PublishedPort":3\d{4}'),
)


def typed(node: Docker, line: str, expected: str) -> None:
    """Types one command. What it says must be found in what comes, and it must succeed, or not."""
    words = shlex.split(line.removeprefix("!"))[1:]
    said = node.refused(*words) if line.startswith("!") else node.out(*words)
    assert re.search(expected, said), f"{line}\n{said}"


def shows(lab: LabUnderTest, command: str, words: str) -> bool:
    """Whether a client's command shows these words."""
    return words in lab.client().run(command).stdout


def test_cluster(lab: LabUnderTest) -> None:
    """Nodes, tokens, and what needs several managers, refused with the reason."""
    for line, expected in CLUSTER:
        typed(Docker(lab, NODES[0]), line, expected)


def test_services(lab: LabUnderTest) -> None:
    """Services of the tutorials' images run, are scaled and published, on random ports too."""
    manager = Docker(lab, NODES[0])
    try:
        for line, expected in SERVICES:
            typed(manager, line, expected)

        def all_run() -> bool:
            rows = manager.out("service", "ls", "--format", "{{.Name}} {{.Replicas}}").splitlines()
            wanted = {"frontweb": "3/3", "web": "2/2"}
            return all(row.split()[1] == wanted.get(row.split()[0], "1/1") for row in rows)

        eventually(lab, all_run, "all run")
        for address in ("172.17.0.2", "172.17.0.3", "172.17.0.4"):
            # Ports that were added to what runs are open on each node as soon as it has heard of them.
            for port, words in ((8080, "It works!"), (8000, "Welcome to nginx")):
                ask = f"curl -s -m 15 {address}:{port}"
                eventually(lab, partial(shows, lab, ask, words), f"{ask}: {words}")
    finally:
        sweep(lab)


def test_networks(lab: LabUnderTest) -> None:
    """A worker shows a network while it runs a task on it; an encrypted one is made, or refused with the reason."""
    manager, worker = Docker(lab, NODES[0]), Docker(lab, NODES[1])
    try:
        typed(manager, "docker network create --driver overlay web", r"^\w{25}$")
        typed(manager, "docker network create -d overlay demo", r"^\w{25}$")
        typed(manager, "docker network create --driver overlay --subnet 10.0.9.0/24 my-network", r"^\w{25}$")
        encrypted = ("--subnet", "10.0.10.0/24", "--opt", "encrypted", "other")
        done = manager.run("network", "create", "--driver", "overlay", *encrypted)
        assert done.returncode == 0 or "leave out --opt encrypted" in done.stderr
        shown = ("network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}}")
        assert worker.out(*shown).split() == ["ingress"]
        line = "docker service create --detach --name web --constraint node.hostname==docker-1 --network web busybox"
        typed(manager, f"{line} sleep 10000000", r"^\w{25}$")
        eventually(lab, lambda: worker.out(*shown).split() == ["ingress", "web"], "the worker is on it")
        found = json.loads(manager.out("service", "inspect", "--format={{json .Endpoint.VirtualIPs}}", "web"))
        assert [vip["Addr"].partition("/")[2] for vip in found] == ["24"]
    finally:
        sweep(lab)
