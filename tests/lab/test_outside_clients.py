"""The nodes' resolvers for clients outside: dig from a client, and a HAProxy there that follows them."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshnet import names
from meshnet.kernel import netns
from meshnet.lab import haproxy as statistics
from meshnet.lab import packages
from meshnet.testing.labs import Host, LabUnderTest, service_spec

pytestmark = pytest.mark.root
LAB: dict[str, Any] = {
    "name": "outside",
    "nodes": {
        "a": {"address": "172.17.0.2", "role": "manager"},
        "b": {"address": "172.17.0.3"},
        "c": {"address": "172.17.0.4"},
    },
    "clients": {"edge": {"address": "172.17.0.20"}, "client": {"address": "172.17.0.10"}},
    "resolver": 53,
    "packages": ["haproxy"],
}
ALL = ["172.17.0.2", "172.17.0.3", "172.17.0.4"]
needs_haproxy = pytest.mark.skipif(
    not (packages.PLACE / "haproxy").is_dir(), reason="Debian's haproxy is not here: meshnet lab get labs/haproxy"
)
if not (packages.PLACE / "haproxy").is_dir():
    del LAB["packages"]


def dig(client: Host, *words: str, node: str = "172.17.0.4") -> list[str]:
    """What a node's resolver answers."""
    return sorted(client.out(["dig", "+short", "+time=5", "+tries=2", f"@{node}", *words]).splitlines())


def publish_in_host_mode(lab: LabUnderTest, name: str, replicas: int, port: int) -> None:
    """A service whose tasks say which node they are on."""
    spec = service_spec(name, replicas=replicas, ports=[f"{port}:8000"], hostname="{{.Node.Hostname}}")
    ports = tuple(dataclasses.replace(one, publish_mode="host") for one in spec.endpoint_spec.ports)
    lab.engine.create_service(
        dataclasses.replace(spec, endpoint_spec=dataclasses.replace(spec.endpoint_spec, ports=ports))
    )


def test_dig_from_a_client(lab: LabUnderTest) -> None:
    """Every node tells the same, over UDP and TCP: all nodes for a port of the mesh, those with a task for one in host
    mode, with the port in SRV records; what is no name of the swarm is refused; and who goes is named no more."""
    client = lab.client()

    def knows(node: str) -> bool:
        return dig(client, "web", node=node) == ALL and len(dig(client, "own", node=node)) == 2

    lab.service("web", ports=["8710:8000"], constraints=["node.hostname==b"])
    publish_in_host_mode(lab, "own", 2, 8711)
    for node in ALL:
        lab.wait_until(partial(knows, node), what=f"web and both tasks in host mode, as {node} has them")
        assert dig(client, "tasks.web", "+tcp", node=node) == ["172.17.0.3"]
    assert dig(client, "_8710._tcp.web", "SRV") == dig(client, "_8000._tcp.web", "SRV", "+tcp")
    assert dig(client, "_8710._tcp.web", "SRV") == ["0 1 8710 a.", "0 1 8710 b.", "0 1 8710 c."]
    where = sorted(task.node for task in lab.tasks("own"))
    assert dig(client, "_8711._tcp.own", "SRV") == [f"0 1 8711 {node}." for node in where]
    assert dig(client, "b") == ["172.17.0.3"]
    assert "status: REFUSED" in client.out("dig +time=5 @172.17.0.2 example.com")
    assert meshnet(lab, "node", "update", "--availability", "drain", where[0])[0] == 0
    other = [f"0 1 8711 {each}." for each in "abc" if each != where[0]]
    lab.wait_until(lambda: dig(client, "_8711._tcp.own", "SRV") == other, what="the tasks elsewhere")
    assert dig(client, "web") == ALL
    assert meshnet(lab, "node", "update", "--availability", "active", where[0])[0] == 0
    lab.remove("web", "own")
    lab.wait_until(lambda: "REFUSED" in client.out("dig +time=5 @172.17.0.3 own"), what="no names of what is gone")


def test_the_port_is_the_nodes(lab: LabUnderTest) -> None:
    """A service that wants to publish it is refused with a line that says whose it is."""
    code, _, err = meshnet(lab, "service", "create", "--name", "x", "--publish", "53:53/udp", "whoami")
    assert code == 1
    assert "port '53/udp' is that of the nodes' resolvers for clients outside; publish another port" in err


def test_a_node_that_dies_and_comes_back(lab: LabUnderTest) -> None:
    """The others name a node no more that has lost its power; back, it is named again, and answers itself."""
    client = lab.client()

    def all_named(node: str) -> bool:
        return dig(client, "left", node=node) == ALL

    lab.service("left", ports=["8713:8000"], constraints=["node.hostname==a"])
    lab.wait_until(partial(all_named, ALL[0]), what="all nodes")
    assert meshnet(lab, "lab", "kill", "b")[0] == 0
    lab.wait_until(lambda: dig(client, "left") == ["172.17.0.2", "172.17.0.4"], what="the two that are alive")
    lab.wait_until(lambda: dig(client, "b") == [], what="no node of that name")
    assert meshnet(lab, "lab", "start", "b")[0] == 0
    for node in ALL:
        lab.wait_until(partial(all_named, node), what=f"all nodes, as {node} has them")
    lab.remove("left")


def test_a_port_that_somebody_has(lab: LabUnderTest) -> None:
    """An agent that cannot have the resolver's port says whose it is not, and does not run half alive."""
    assert meshnet(lab, "lab", "stop", "c")[0] == 0
    with netns.socket_in(names.node_netns(lab.name, "c"), socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("172.17.0.4", 53))
        code, _, err = meshnet(lab, "lab", "start", "c")
        assert code == 1
        assert "cannot have port 53 of 172.17.0.4: Address already in use" in err
    assert meshnet(lab, "lab", "start", "c")[0] == 0


def meshnet(lab: LabUnderTest, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "meshnet.cli", *words]
    env = {**os.environ, "MESHNET_LAB": lab.name}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def haproxy_outside(lab: LabUnderTest, service: str, folder: Path) -> Iterator[str]:
    """A HAProxy on the host `edge`, as the command configures it; its stats socket."""
    code, text, err = meshnet(lab, "haproxy", "config", service, "--mode", "dns", "--outside")
    assert (code, err) == (0, "")
    path = folder / "haproxy.cfg"
    path.write_text(text)
    edge = lab.client("edge")
    assert edge.out(["haproxy", "-c", "-f", str(path)]) == "Configuration file is valid"
    edge.run(["haproxy", "-D", "-p", str(folder / "pid"), "-f", str(path)], check=True)
    try:
        yield f"{names.lab_dir(lab.name)}/haproxy.sock"
    finally:
        edge.run(f"kill $(cat {folder}/pid)", check=True)


def servers(path: str) -> list[str]:
    """The addresses of servers that are up."""
    table = statistics.rows(statistics.ask(path, "show stat"))
    return sorted(row["addr"] for row in table if row["type"] == "2" and row["status"] == "UP")


def load(lab: LabUnderTest, command: str) -> None:
    """No request is lost while the command runs."""
    code, out, err = meshnet(
        lab, "lab", "load", "--json", "--for", "2s", "client", "http://172.17.0.20", "--", "sh", "-c", command
    )
    assert code == 0, f"{out}{err}"
    assert json.loads(out)["Failed"] == 0


@needs_haproxy
@pytest.mark.parametrize("mode", ["host", "ingress"])
def test_haproxy_outside_follows(lab: LabUnderTest, tmp_path: Path, mode: str) -> None:
    """It balances over the nodes that SRV records name, follows them through a scale and a drain, and loses nothing."""
    if mode == "host":
        publish_in_host_mode(lab, "shop", 2, 8712)
    else:
        lab.service("shop", ports=["8712:8000"], hostname="{{.Node.Hostname}}", replicas=2)
    with haproxy_outside(lab, "shop", tmp_path) as stats:
        first = 2 if mode == "host" else 3
        lab.wait_until(lambda: len(servers(stats)) == first, what="HAProxy's servers")
        load(lab, f"{sys.executable} -m meshnet.cli service scale -q shop=3")
        lab.wait_until(lambda: servers(stats) == [f"{each}:8712" for each in ALL], what="all three nodes")
        load(lab, f"{sys.executable} -m meshnet.cli node update --availability drain b")
        left = [f"{each}:8712" for each in ALL if mode == "ingress" or each != "172.17.0.3"]
        lab.wait_until(lambda: servers(stats) == left, what="the nodes that are left")
        load(lab, f"{sys.executable} -m meshnet.cli node update --availability active b")
        load(lab, f"{sys.executable} -m meshnet.cli service scale -q shop=1")
        table = statistics.rows(statistics.ask(stats, "show stat"))
        assert statistics.lost(table, statistics.LOSSES) == []
    lab.remove("shop")
