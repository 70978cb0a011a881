"""Bytes arrive whole in any size: TCP and UDP, VIPs on both paths, published ports local and remote, both ways back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from places import CLIENT, LAB, NODES, address, at, box, subnet, vip
from probes import Probe, beside, inside, on
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from meshnet import names
from meshnet.kernel import netns
from meshnet.testing.labs import LabUnderTest, bring_up, take_down

pytestmark = pytest.mark.root
ECHO = """
import socket, threading
def serve(c):
    with c:
        while data := c.recv(65536):
            c.sendall(data)
s = socket.create_server(("", 8000))
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
"""
SIZES = (1, 1398, 1399, 1460, 20_000, 1_000_000)
UNDERLAY, OVERLAY = 1500, 1450
HEADERS = 28  # IPv4 and UDP
ETH_P_ALL = 3
WAYS: dict[str, tuple[Callable[[LabUnderTest], Probe], str]] = {
    "socket-remote": (lambda lab: inside(lab, "far.1"), "vip"),
    "socket-local": (lambda lab: inside(lab, "near.1"), "vip"),
    "packet-remote": (lambda lab: beside(lab, "far.1"), "vip"),
    "packet-local": (lambda lab: beside(lab, "near.1"), "vip"),
    "published-remote": (lambda lab: on(lab, "client"), NODES["docker-0"]),
    "published-local": (lambda lab: on(lab, "client"), NODES["docker-1"]),
    "own-remote": (lambda lab: on(lab, "docker-2"), "127.0.0.1"),
    "own-local": (lambda lab: on(lab, "docker-1"), "127.0.0.1"),
    "task-remote": (lambda lab: inside(lab, "far.1"), NODES["docker-0"]),
    "task-local": (lambda lab: inside(lab, "near.1"), NODES["docker-1"]),
    "task-elsewhere": (lambda lab: inside(lab, "near.1"), NODES["docker-2"]),
    "other-node": (lambda lab: on(lab, "docker-2"), NODES["docker-0"]),
}


@pytest.fixture(scope="module", params=["direct", "via"])
def lab(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """A lab for each way back of published connections, with a server of each kind on docker-1."""
    found = bring_up({**LAB, "return": request.param}, Path("/"))
    found.network("demo")
    found.service(
        "echo",
        "host",
        "/usr/bin/python3",
        "-ISc",
        ECHO,
        networks=["demo"],
        ports=["8000:8000"],
        constraints=at("docker-1"),
    )
    found.service("whoami", networks=["demo"], ports=["9000:8000/udp", "9000:8000"], constraints=at("docker-1"))
    box(found, "near", "docker-1", "demo")
    box(found, "far", "docker-0", "demo")
    yield found
    take_down(found)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, lab: LabUnderTest) -> Iterator[tuple[Probe, str]]:
    """A prober, and the address at which it finds the services ("vip": each service's own)."""
    make, target = WAYS[request.param]
    with make(lab) as probe:
        yield probe, target


def test_transfers_both_ways(lab: LabUnderTest, way: tuple[Probe, str]) -> None:
    """What is sent comes back whole, from one byte over the sizes around the MTU to a megabyte."""
    probe, target = way
    host = vip(lab, "echo") if target == "vip" else target
    for size in SIZES:
        assert probe.call("echo", host=host, port=8000, size=size) == "", size


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_datagrams(lab: LabUnderTest, way: tuple[Probe, str], connected: bool) -> None:
    """Datagrams of any size are answered, from the address that was asked, also in fragments."""
    probe, target = way
    host, port = (vip(lab), 8000) if target == "vip" else (target, 9000)
    for size in (1, OVERLAY - HEADERS - 100, OVERLAY - HEADERS, UNDERLAY - HEADERS, 4000, 20_000):
        for fresh in (True, False):
            answers = probe.call("udp", host=host, port=port, count=3, size=size, connected=connected, fresh=fresh)
            assert [answer[2:] for answer in answers] == 3 * [[host, size]], (size, fresh, answers)


def test_a_datagram_names_its_client(lab: LabUnderTest) -> None:
    """A backend sees the client's own address on datagrams, from a task and from outside."""
    for make in (inside, beside):
        with make(lab, "far.1") as probe:
            assert probe.call("udp", host=vip(lab), port=8000)[0][1] == address(lab, "far.1")
    with on(lab, "client") as client:
        for node in NODES.values():
            assert client.call("udp", host=node, port=9000)[0][1] == CLIENT, node


def test_too_big_is_reported(lab: LabUnderTest) -> None:
    """A datagram with DF that does not fit the tunnel is refused with the tunnel's MTU, not lost."""
    with on(lab, "client") as client:
        size = UNDERLAY - HEADERS
        assert client.call("path_mtu", host=NODES["docker-0"], port=9000, size=size) == ["EMSGSIZE", OVERLAY]
        size = OVERLAY - HEADERS - 100
        assert client.call("path_mtu", host=NODES["docker-0"], port=9000, size=size)[0] == ""
    for make in (inside, beside):
        with make(lab, "far.1") as probe:
            found = probe.call("path_mtu", host=vip(lab), port=8000, size=OVERLAY - HEADERS + 1)
        assert found == ["EMSGSIZE", OVERLAY]


@contextmanager
def captured(lab: LabUnderTest, node: str) -> Iterator[list[Ether]]:
    """The frames of a node's underlay device while the block runs."""
    found: list[Ether] = []
    namespace = names.node_netns(lab.name, node)
    with netns.socket_in(namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.bind(("eth0", ETH_P_ALL))
        sock.setblocking(False)
        yield found
        try:
            while True:
                found.append(Ether(sock.recv(65536)))
        except BlockingIOError:
            pass


def answers(frames: list[Ether], source: str) -> int:
    """How many TCP segments go from a published port to the client, outside a tunnel."""
    return sum(
        frame[IP].src == source and frame[IP].dst == CLIENT
        for frame in frames
        if TCP in frame and VXLAN not in frame and frame[TCP].sport == 9000
    )


def test_the_way_back(lab: LabUnderTest) -> None:
    """Replies of a remote backend go straight to the client with `direct`, and through the ingress node with `via`."""
    with captured(lab, "docker-0") as ingress, captured(lab, "docker-1") as backend, on(lab, "client") as client:
        client.ask(NODES["docker-0"], 9000)
    at_ingress, at_backend = answers(ingress, NODES["docker-0"]), answers(backend, NODES["docker-0"])
    assert (at_ingress == 0, at_backend > 0) == (lab.spec.direct_return, lab.spec.direct_return), (
        at_ingress,
        at_backend,
    )
    assert at_ingress + at_backend > 0


def test_tasks_speak_vxlan_only(lab: LabUnderTest) -> None:
    """Between nodes, packets of tasks are VXLAN on 4789 with their network's VNI and their own addresses, only."""
    overlay = subnet(lab, "demo")
    with captured(lab, "docker-0") as frames, inside(lab, "far.1") as one, beside(lab, "far.1") as two:
        assert one.ask(vip(lab))[0][1] == two.ask(vip(lab))[0][1] == address(lab, "far.1")
        assert one.call("udp", host=vip(lab), port=8000)[0][0]
    tunnelled = [frame for frame in frames if VXLAN in frame and frame[VXLAN][IP].dst != frame[IP].dst]
    pairs = {(frame[VXLAN].vni, frame[VXLAN][IP].src, frame[VXLAN][IP].dst) for frame in tunnelled}
    vni = int(lab.engine.network("demo")["Options"]["com.docker.network.driver.overlay.vxlanid_list"])
    here, there = address(lab, "far.1"), address(lab, "whoami.1")
    assert pairs == {(vni, here, there), (vni, there, here)}
    assert {frame[UDP].dport for frame in tunnelled} == {4789}
    assert {(frame[IP].src, frame[IP].dst) for frame in tunnelled} == {
        (NODES["docker-0"], NODES["docker-1"]),
        (NODES["docker-1"], NODES["docker-0"]),
    }
    outer = {ip for frame in frames if IP in frame for ip in (frame[IP].src, frame[IP].dst)}
    outer |= {ip for frame in frames if ARP in frame for ip in (frame[ARP].psrc, frame[ARP].pdst)}
    assert not [ip for ip in outer if IPv4Address(ip) in overlay]
