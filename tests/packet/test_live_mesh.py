"""Packets that really travel between three nodes: what test_run cannot show, with offloads on and off."""

from __future__ import annotations

import functools
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh import (
    ADDRESSES,
    CLIENT,
    DEMO,
    EMPTY,
    LARGE,
    LOCAL,
    OWN,
    REMOTE,
    VIP,
    WEB_A,
    WEB_B,
    Mesh,
    ask_tcp,
    ask_udp,
    inside,
    raises,
    serving,
    sweep,
)

from meshnet import names
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool: apt-get install ethtool"),
]
OUT = ADDRESSES["out"]


@pytest.fixture(scope="module", params=["on", "off"])
def wired(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """Three nodes, with checksum and segmentation offloads on or off everywhere."""
    made = Mesh()
    try:
        made.apply()
        made.offloads(request.param)
        with serving(made):
            yield made
    finally:
        made.close()


@pytest.fixture
def mesh(wired: Mesh) -> Iterator[Mesh]:
    """The same, as it was at first; no stack may see a wrong checksum."""
    wired.apply()
    errors = wired.checksum_errors()
    yield wired
    assert wired.checksum_errors() == errors


def test_overlay(mesh: Mesh) -> None:
    """Endpoints of one network reach each other, on one node and across: TCP, UDP, large datagrams, ping."""
    client, before = mesh.tasks["client"], mesh.drops()
    for address, name in ((LOCAL, "local"), (REMOTE, "remote")):
        assert ask_tcp(client, address) == (name, CLIENT)
        assert ask_udp(client, address) == (name, CLIENT)
        assert ask_udp(client, address, size=1422) == (name, CLIENT)
        assert ask_udp(client, address, size=60000) == (name, CLIENT)
        inside(client, "ping", "-c", "1", "-W", "2", "-s", "3000", address)
    assert mesh.drops() == before


@pytest.mark.parametrize("backend", [LOCAL, REMOTE])
def test_vip(mesh: Mesh, backend: str) -> None:
    """A VIP's backend is reached on this node and across, sees its client, and answers as the VIP."""
    mesh.apply(backends=(backend,))
    client, name = mesh.tasks["client"], "local" if backend == LOCAL else "remote"
    assert ask_tcp(client, VIP) == (name, CLIENT)
    for connected in (True, False):
        assert ask_udp(client, VIP, connected=connected) == (name, CLIENT)
        assert ask_udp(client, VIP, size=60000, connected=connected) == (name, CLIENT)
    inside(client, "ping", "-c", "1", "-W", "2", "-s", "3000", VIP)


def test_vip_of_oneself(mesh: Mesh) -> None:
    """A backend reaches itself through its VIP."""
    for backend, name in ((LOCAL, "local"), (REMOTE, "remote")):
        mesh.apply(backends=(backend,))
        assert ask_tcp(mesh.tasks[name], VIP) == (name, VIP)
        assert ask_udp(mesh.tasks[name], VIP) == (name, VIP)


def test_vip_takes_turns(mesh: Mesh) -> None:
    """Consecutive connections go to the backends in turn."""
    went = [ask_tcp(mesh.tasks["client"], VIP, size=10)[0] for _ in range(6)]
    assert went == went[:2] * 3
    assert set(went) == {"local", "remote"}


def test_vip_without_backends(mesh: Mesh) -> None:
    """Connections and datagrams to a VIP without backends are refused at once."""
    client = mesh.tasks["client"]
    assert raises(lambda: ask_tcp(client, EMPTY)) == "ConnectionRefusedError"
    assert raises(lambda: ask_udp(client, EMPTY)) == "ConnectionRefusedError"


@pytest.mark.parametrize("direct", [False, True], ids=["via", "direct"])
def test_closed_ports(mesh: Mesh, direct: bool) -> None:
    """A task's port unreachable reaches the socket that asked, through the VIP and through published ports."""
    for backend, web in ((LOCAL, WEB_A), (REMOTE, WEB_B)):
        mesh.apply(backends=(backend,), web=(web,), direct=direct)
        assert raises(lambda: ask_udp(mesh.tasks["client"], VIP, 9)) == "ConnectionRefusedError"
        for node in ("a", "b", "c"):
            ask = functools.partial(ask_udp, mesh.spaces["out"], ADDRESSES[node], 8009)
            assert raises(ask) == "ConnectionRefusedError"


@pytest.mark.parametrize("direct", [False, True], ids=["via", "direct"])
def test_published(mesh: Mesh, direct: bool) -> None:
    """A published port of every node reaches its task wherever it runs, and the task sees the client's address."""
    for web, name in ((WEB_A, "local"), (WEB_B, "remote")):
        mesh.apply(web=(web,), direct=direct)
        for node in ("a", "b", "c"):
            address = ADDRESSES[node]
            assert ask_tcp(mesh.spaces["out"], address, 8000) == (name, OUT)
            assert ask_udp(mesh.spaces["out"], address, 8000) == (name, OUT)
            assert ask_udp(mesh.spaces["out"], address, 8000, connected=False) == (name, OUT)
            assert ask_udp(mesh.spaces["out"], address, 8000, size=60000) == (name, OUT)


@pytest.mark.parametrize("direct", [False, True], ids=["via", "direct"])
def test_a_client_behind_a_router(mesh: Mesh, direct: bool) -> None:
    """Replies to a client that is not on the underlay's own link take the node's route to it."""
    mesh.apply(web=(WEB_B,), direct=direct)
    far = "192.0.2.1"
    inside(mesh.spaces["out"], "ip", "address", "replace", f"{far}/32", "dev", "eth0")
    for node in ("a", "b", "c"):
        inside(mesh.spaces[node], "ip", "route", "replace", f"{far}/32", "via", OUT)
        with netns.socket_in(mesh.spaces["out"], socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.bind((far, 0))
            client.connect((ADDRESSES[node], 8000))
            client.send(bytes(64))
            assert client.recv(100)[:32].decode().split() == ["remote", far]


@pytest.mark.parametrize("direct", [False, True], ids=["via", "direct"])
def test_tasks_use_published_ports(mesh: Mesh, direct: bool) -> None:
    """A task reaches a published port at its own node and at others, wherever the backend runs, itself included."""
    for web, name in ((WEB_A, "local"), (WEB_B, "remote")):
        mesh.apply(web=(web,), direct=direct)
        for task in ("client", "local"):
            for node in ("a", "b", "c"):
                address, seen = ADDRESSES[node], OWN["a"] if node == "a" else ADDRESSES["a"]
                assert ask_tcp(mesh.tasks[task], address, 8000) == (name, seen)
                assert ask_udp(mesh.tasks[task], address, 8000) == (name, seen)
                assert ask_udp(mesh.tasks[task], address, 8000, size=60000, connected=False) == (name, seen)
        assert raises(lambda: ask_udp(mesh.tasks["client"], ADDRESSES["a"], 8009)) == "ConnectionRefusedError"


def test_a_task_asks_outside_from_a_published_port(mesh: Mesh) -> None:
    """What a task sends from a port that its node publishes leaves from another, so that the answer is the task's."""
    mesh.apply()
    server = netns.socket_in(mesh.spaces["out"], socket.AF_INET, socket.SOCK_DGRAM)
    client = netns.socket_in(mesh.tasks["client"], socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        for each in (server, client):
            each.settimeout(5)
            each.bind(("0.0.0.0", 8000))
        client.connect((OUT, 8000))
        client.send(b"question")
        asked, source = server.recvfrom(100)
        assert (asked, source[0]) == (b"question", ADDRESSES["a"])
        assert source[1] in range(32768, 61000)
        server.sendto(b"answer", source)
        assert client.recv(100) == b"answer"


def test_one_client_port_at_three_nodes(mesh: Mesh) -> None:
    """Connections that would be one at the task stay apart."""
    mesh.apply(web=(WEB_B,))
    out, before = mesh.spaces["out"], mesh.counters()["b"].get("moved_connection", 0)
    held = []
    for node in ("a", "b", "c"):
        connection = netns.socket_in(out, socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(5)
        connection.bind(("0.0.0.0", 4444))
        connection.connect((ADDRESSES[node], 8000))
        held.append(connection)
    for connection, letter in zip(held, b"xyz", strict=True):
        connection.sendall((3).to_bytes(4, "big") + bytes([letter]) * 3)
    for connection, letter in zip(held, b"xyz", strict=True):
        answer = b""
        while len(answer) < 83:
            answer += connection.recv(100)
        assert answer.startswith(b"remote ")
        assert answer.endswith(bytes([letter]) * 3)
        connection.close()
    assert mesh.counters()["b"]["moved_connection"] == before + 2


def test_too_big_for_the_overlay(mesh: Mesh) -> None:
    """A datagram that may not be cut is lost once and its sender told the MTU; one that may be cut arrives."""
    out = mesh.spaces["out"]
    mesh.apply(web=(WEB_B,))
    assert ask_udp(out, ADDRESSES["c"], 8000, size=1460, cut=True) == ("remote", OUT)
    with netns.socket_in(out, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        client.settimeout(5)
        client.connect((ADDRESSES["a"], 8000))
        client.send(bytes(1460))
        assert raises(lambda: client.recv(2000)) == "OSError"  # EMSGSIZE
        assert client.getsockopt(socket.IPPROTO_IP, 14) == 1450  # IP_MTU


def test_a_task_with_too_large_an_mtu(mesh: Mesh) -> None:
    """A task that was given a larger MTU learns the right one, and its transfers work."""
    mesh.apply(backends=(REMOTE,))
    client = mesh.tasks["client"]
    inside(client, "ip", "link", "set", "eth0", "mtu", "1500")
    inside(mesh.spaces["a"], "ip", "link", "set", names.port_name("client", DEMO), "mtu", "1500")
    for address in (REMOTE, LOCAL, VIP):
        with netns.socket_in(client, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            asking.settimeout(5)
            asking.connect((address, 80))
            asking.send(bytes(1460))
            assert raises(lambda: asking.recv(2000)) == "OSError", address
            assert asking.getsockopt(socket.IPPROTO_IP, 14) == 1450, address  # IP_MTU
        assert ask_tcp(client, address, size=LARGE)[1] == CLIENT
    inside(client, "ip", "link", "set", "eth0", "mtu", "1450")


def test_the_node_itself_asks(mesh: Mesh) -> None:
    """The node's ingress address and tasks of the ingress network reach each other through its own interface."""
    assert ask_tcp(mesh.spaces["a"], WEB_A) == ("local", "10.0.0.2")
    assert ask_tcp(mesh.spaces["a"], WEB_B) == ("remote", "10.0.0.2")


def test_what_a_killed_mesh_left_is_swept() -> None:
    """Namespaces, pins and groups of a mesh whose process is gone are removed by the next one."""
    program = (
        "import os, signal; from mesh import Mesh; made = Mesh(); made.apply(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent) as process:
        assert process.wait(30) == -signal.SIGKILL
    name = f"p{process.pid}"
    group = cgroup2_root() / "meshnet" / name
    assert group.is_dir()
    assert netns.names(f"mn-{name}-")
    assert name in sweep()
    assert (group.is_dir(), netns.names(f"mn-{name}-")) == (False, [])
    assert not Path(names.BPFFS, "meshnet", name).exists()
