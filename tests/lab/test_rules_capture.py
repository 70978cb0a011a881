"""What is on the underlay while tasks talk: VXLAN of the right network and addresses, and nothing of a task beside it.

The capture is open before the traffic begins; a socket keeps what came in, so nothing is missed at either end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address, ip_network

import pytest
from hostile import World
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from meshnet import names
from meshnet.model import mac_of
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.wires import Wire

pytestmark = pytest.mark.root
OVERLAYS = ip_network("10.0.0.0/8")


@pytest.fixture(scope="module")
def world(lab: LabUnderTest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(lab, stack)


@pytest.fixture
def capture(world: World) -> Iterator[Wire]:
    with Wire(names.underlay_netns(world.lab.name)) as wire:
        yield wire
        assert wire.lost() == 0


def opened(frame: bytes) -> tuple[int, Packet] | None:
    """VNI and inner frame of VXLAN; None for anything else. scapy guesses by port, so the port decides."""
    packet = Ether(frame)
    if UDP not in packet or packet[UDP].dport != 4789:
        return None
    tunnel = VXLAN(bytes(packet[UDP].payload))
    return tunnel.vni, Ether(bytes(tunnel.payload))


def nothing_beside(frames: list[bytes]) -> None:
    """Outside of VXLAN no frame is from or to an overlay address, at any layer."""
    for frame in frames:
        packet = Ether(frame)
        if ARP in packet:
            outside = {packet[ARP].psrc, packet[ARP].pdst}
        elif IP in packet:
            outside = {packet[IP].src, packet[IP].dst}
        else:
            raise AssertionError(packet.show(dump=True))  # the hosts' own IPv6, for one: there is none
        assert not [ip for ip in outside if ip_address(ip) in OVERLAYS], packet.show(dump=True)
        assert packet.src[:11] != "02:42:0a:00", packet.show(dump=True)


def inner(frames: list[bytes], mark: bytes) -> list[tuple[int, Packet]]:
    """What is in the tunnel packets that carry a mark; every frame with the mark must be one."""
    found = [opened(frame) for frame in frames if mark in frame]
    assert found
    assert None not in found, "a task's bytes outside of VXLAN"
    return [one for one in found if one is not None]


def test_vip(world: World, capture: Wire) -> None:
    """A request to a VIP travels from task to task in its network's VNI, with both tasks' addresses and MACs."""
    mallory, far = world.at["mallory"], world.at["far"]
    asked = "from-mallory-to-the-vip-of-far"
    world.lab.task("mallory.1").out(f"curl -s http://far:8000/{asked}")
    frames = capture.heard()
    nothing_beside(frames)
    for vni, packet in inner(frames, asked.encode()):
        assert vni == world.vni("red")
        assert (packet.src, packet.dst) == (mac_of(mallory.ip), mac_of(far.ip))
        assert (packet[IP].src, packet[IP].dst) == (mallory.ip, far.ip)
    for vni, packet in inner(frames, b"I'm "):
        assert vni == world.vni("red")
        assert (packet.src, packet.dst) == (mac_of(far.ip), mac_of(mallory.ip))
        assert (packet[IP].src, packet[IP].dst) == (far.ip, mallory.ip)


def test_outer_headers(world: World, capture: Wire) -> None:
    """The tunnel is between the two nodes, to UDP port 4789, from a port of the upper quarter, unfragmented."""
    world.lab.task("mallory.1").out("curl -s http://far:8000/outer")
    tunnels = [Ether(frame) for frame in capture.heard() if opened(frame)]
    pairs = {(packet[IP].src, packet[IP].dst) for packet in tunnels}
    nodes = world.at["docker-0"], world.at["docker-1"]
    assert pairs == {(nodes[0].ip, nodes[1].ip), (nodes[1].ip, nodes[0].ip)}
    for packet in tunnels:
        assert (packet.src, packet.dst) == (mac_of(packet[IP].src), mac_of(packet[IP].dst))
        assert packet[UDP].sport >= 0xC000
        assert (packet[IP].frag, packet[IP].flags) == (0, 0)
        assert packet[IP].len == packet[UDP].len + 20


@pytest.mark.parametrize("node", ["docker-0", "docker-2"])
def test_mesh(world: World, capture: Wire, node: str) -> None:
    """A client's request to a node without the task goes on in the ingress VNI, unchanged; the reply comes back."""
    asked = f"from-the-client-to-{node}"
    client, far = world.at["client"], world.at["far-ingress"]
    said = world.lab.client().out(f"curl -s http://{world.at[node].ip}:8002/{asked}").splitlines()
    assert said[1] == client.ip
    frames = capture.heard()
    nothing_beside(frames)
    plain = [Ether(frame) for frame in frames if asked.encode() in frame and not opened(frame)]
    assert {(p[IP].src, p[IP].dst) for p in plain} == {(client.ip, world.at[node].ip)}
    tunneled = [found for frame in frames if asked.encode() in frame and (found := opened(frame))]
    assert tunneled
    for vni, packet in tunneled:
        assert vni == world.vni("ingress")
        assert (packet.src, packet.dst) == (mac_of(world.node_ingress(node)), mac_of(far.ip))
        assert (packet[IP].src, packet[IP].dst) == (client.ip, world.at[node].ip)
    answers = [Ether(frame) for frame in frames if b"I'm " in frame and not opened(frame)]
    assert answers
    assert {(p[IP].src, p[IP].dst) for p in answers} == {(world.at[node].ip, client.ip)}


def test_datagrams(world: World, capture: Wire) -> None:
    """UDP to a VIP, small and cut into fragments, stays in the tunnel."""
    task = world.lab.task("mallory.1")
    for size in (10, 4000):
        script = (
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(5); "
            f"s.sendto(b'datagram' * {size // 8}, ('far', 8000)); print(len(s.recv(65536)))"
        )
        assert int(task.out(["/usr/bin/python3", "-c", script])) > size // 8 * 8
    frames = capture.heard()
    nothing_beside(frames)
    for vni, packet in inner(frames, b"datagram"):
        assert vni == world.vni("red")
        assert {packet[IP].src, packet[IP].dst} == {world.at["mallory"].ip, world.at["far"].ip}


def test_names(world: World, capture: Wire) -> None:
    """Names are resolved inside: what a task asks, known or not, is not on the underlay."""
    task = world.lab.task("mallory.1")
    assert task.out("dig +short +tries=1 tasks.far") == world.at["far"].ip
    assert "SERVFAIL" in task.out("dig +tries=1 a-name-nobody-has.example")
    frames = capture.heard()
    nothing_beside(frames)
    assert not [frame for frame in frames if b"nobody-has" in frame or b"\x05tasks\x03far" in frame]


def test_egress(world: World, capture: Wire) -> None:
    """What a task sends to outside the overlay leaves masqueraded: from the node's address, not the task's."""
    world.lab.task("mallory.1").out(f"ping -c 1 -W 10 -p 6d65736871756974 {world.at['client'].ip}")
    frames = capture.heard()
    nothing_beside(frames)
    pings = [Ether(frame) for frame in frames if b"meshquit" in frame]
    assert {(p[IP].src, p[IP].dst) for p in pings} == {
        (world.at["docker-0"].ip, world.at["client"].ip),
        (world.at["client"].ip, world.at["docker-0"].ip),
    }
