"""Networks, nodes and the underlay are closed to one another, tried with ordinary sockets and with routing tricks."""

from __future__ import annotations

import errno
import select
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest
from hostile import World, marker
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_RR, IPOption_SSRR
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from meshnet.kernel import netns
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until

pytestmark = pytest.mark.root
PORT = 5555  # of a service that nodes run for themselves
SHORT = 0.3  # s after which a connection attempt counts as unanswered: what works here takes less than 10 ms
LONG = 15.0  # s for one that must be answered


@pytest.fixture(scope="module")
def world(lab: LabUnderTest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(lab, stack)


@pytest.fixture
def listening(world: World) -> Iterator[dict[str, socket.socket]]:
    """A TCP service of every node's own, on all of its addresses."""
    with ExitStack() as stack:
        found = {}
        for node in ("docker-0", "docker-1"):
            server = stack.enter_context(
                netns.socket_in(world.at[node].netns, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            )
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("0.0.0.0", PORT))
            server.listen()
            found[node] = server
        yield found


def open_of(space: str, targets: Iterable[tuple[str, int]], patience: float = SHORT) -> list[tuple[str, int]]:
    """Those of some addresses and ports that accept a connection from a namespace; tried all at once."""
    found = []
    with ExitStack() as stack:
        poll = select.poll()
        tried = {}
        for target in targets:
            client = stack.enter_context(
                netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            )
            if client.connect_ex(target) in (0, errno.EINPROGRESS):
                tried[client.fileno()] = (client, target)
                poll.register(client, select.POLLOUT)
        deadline = time.monotonic() + patience
        while tried and time.monotonic() < deadline:
            for number, _ in poll.poll(1000 * patience):
                client, target = tried.pop(number)
                poll.unregister(number)
                if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.append(target)
    return found


def connects(space: str, ip: str, port: int, patience: float = LONG) -> bool:
    """Whether a connection from a namespace is accepted."""
    return bool(open_of(space, [(ip, port)], patience))


def test_what_is_allowed_works(world: World, listening: dict[str, socket.socket]) -> None:
    """Attempts here can succeed: to a neighbour, out to a client, and to a node's service from the underlay."""
    assert connects(world.at["mallory"].netns, world.at["far"].ip, 8000)
    assert connects(world.at["client"].netns, world.at["docker-0"].ip, PORT)
    out = world.lab.node("docker-0").out("curl -s http://127.0.0.1:8001")
    assert out.startswith("I'm ")


@pytest.mark.parametrize("name", ["near", "far"])
def test_a_node_does_not_reach_tasks(world: World, name: str) -> None:
    """No process of a node reaches a task at its address, from inside or outside of the node's group."""
    ip = world.at[name].ip
    for node in ("docker-0", "docker-1", "docker-2"):
        assert not connects(world.at[node].netns, ip, 8000, SHORT)
        assert world.lab.node(node).run(f"curl -s -m {SHORT} http://{ip}:8000").returncode != 0
        assert world.lab.node(node).run(f"ping -c 1 -W {SHORT} {ip}").returncode != 0


@pytest.mark.parametrize("name", ["mallory", "far"])
def test_a_node_reaches_what_is_published_only(world: World, name: str) -> None:
    """At a task's address on the ingress network a node finds the published port, and no other, nor a ping."""
    at = world.at["ingress" if name == "mallory" else "far-ingress"]
    with netns.socket_in(at.netns, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("0.0.0.0", 9999))
        server.listen()
        for node in ("docker-0", "docker-1", "docker-2"):
            assert connects(world.at[node].netns, at.ip, 8000)
            assert not connects(world.at[node].netns, at.ip, 9999, SHORT)
            assert world.lab.node(node).run(f"ping -c 1 -W {SHORT} {at.ip}").returncode != 0


def test_an_underlay_host_does_not_reach_tasks(world: World) -> None:
    """A stranger that sends a task's address to a node, or routes it there, is forwarded nowhere."""
    client = world.at["client"]
    for node in ("docker-0", "docker-1"):
        for name in ("mallory", "near", "far", "other", "ingress"):
            for body in (UDP(sport=1, dport=8000), TCP(sport=1, dport=8000, flags="S"), ICMP()):
                frame = Ether(src=client.mac, dst=world.at[node].mac) / IP(src=client.ip, dst=world.at[name].ip) / body
                fence = Ether(src=client.mac, dst=world.at[node].mac) / IP(src=client.ip, dst=world.at[node].ip) / UDP()
                ignored(world, frame, fence, node, "client")


def ignored(world: World, frame: Packet, fence: Packet, fence_to: str, source: str) -> None:
    """Sends a frame that only the device it is sent to may hear; one that is sent after it arrives."""
    mark = marker()
    for wire in world.wires.values():
        wire.heard()
    world.wires[source].send(bytes(frame / mark))
    world.delivered(fence, fence_to, source)
    world.silent(mark, (source, fence_to))


@pytest.mark.parametrize("option", [IPOption_LSRR, IPOption_SSRR])
def test_source_routes(world: World, option: type[Packet]) -> None:
    """A task's or a stranger's source route through a node leads nowhere."""
    options = option(routers=[world.at["docker-1"].ip, world.at["other"].ip])
    frame = world.frame(world.at["client"].ip, UDP(dport=9), "ingress", options=options)
    mark = marker()
    for wire in world.wires.values():
        wire.heard()
    world.wires["ingress"].send(bytes(frame / mark))
    world.delivered(world.frame(world.at["client"].ip, UDP(dport=9), "ingress"), "client", "ingress")
    world.silent(mark, ("ingress",))
    client, node = world.at["client"], world.at["docker-0"]
    link = Ether(src=client.mac, dst=node.mac)
    routed = link / IP(src=client.ip, dst=node.ip, options=option(routers=[world.at["other"].ip])) / UDP(dport=9)
    ignored(world, routed, link / IP(src=client.ip, dst=node.ip) / UDP(dport=9), "docker-0", "client")


def test_options_hide_nothing(world: World) -> None:
    """IP options move the ports, and the rules find them all the same."""
    options = [IPOption_RR(routers=["0.0.0.0"] * 9)]
    world.delivered(world.frame(world.at["near"].ip, UDP(dport=8000), options=options), "near")
    for node in ("docker-0", "docker-1"):
        frame = world.frame(world.at[node].ip, UDP(dport=7946), "ingress", options=options)
        world.dropped(frame, "node_port", "ingress")


def test_a_task_does_not_reach_its_node(world: World, listening: dict[str, socket.socket]) -> None:
    """What a node's own services listen on is closed to its tasks, at every address the node has."""
    space = world.at["mallory"].netns
    addresses = (
        world.at["docker-0"].ip,
        world.node_ingress("docker-0"),
        world.node_ingress("docker-1"),
        world.gateway("red"),
        world.gateway("ingress"),
    )
    assert not open_of(space, [(ip, port) for ip in addresses for port in (PORT, 7946, 2377, 22)])
    for server in listening.values():
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_task_does_not_ping_its_node(world: World) -> None:
    """Nor does a ping come through."""
    frame = world.frame(world.at["docker-0"].ip, ICMP(), "ingress")
    fence = world.frame(world.at["client"].ip, ICMP(), "ingress")
    mark = marker()
    world.wires["ingress"].heard()
    world.wires["ingress"].send(bytes(frame / mark))
    world.delivered(fence, "client", "ingress")
    wait_until(lambda: world.wires["ingress"].heard(b"<hostile"), what="the client's answer")
    assert not world.wires["ingress"].heard(mark)


def test_own_routes_and_neighbours_lead_nowhere(world: World) -> None:
    """Routes and neighbour entries that a task could only dream of setting do not open another network."""
    mallory = world.at["mallory"]
    targets = [world.at[name] for name in ("other", "beyond")]

    def ip(*words: str) -> None:
        netns.run_in(mallory.netns, lambda: subprocess.run(["ip", *words], check=True))

    gateway = world.gateway("red")
    for hop in (gateway, world.at["near"].ip, world.at["far"].ip):
        for target in targets:
            ip("route", "replace", target.ip, "via", hop, "dev", mallory.device)
        assert not open_of(mallory.netns, [(target.ip, 8000) for target in targets])
    for node in ("docker-0", "docker-1", ""):
        for target in targets:
            ip("route", "replace", target.ip, "dev", mallory.device)
            mac = world.at[node].mac if node else target.mac
            ip("neigh", "replace", target.ip, "lladdr", mac, "dev", mallory.device)
        assert not open_of(mallory.netns, [(target.ip, 8000) for target in targets])
    for target in targets:
        ip("route", "del", target.ip)
        ip("neigh", "del", target.ip, "dev", mallory.device)
    assert connects(mallory.netns, world.at["near"].ip, 8000)


def test_a_name_of_another_network(world: World) -> None:
    """A service of another network has no name here, and its VIP no way."""
    task = world.lab.task("mallory.1")
    assert task.run("getent hosts other").returncode != 0
    vips = {row["Address"] for row in world.lab.inspect("docker-0", "lb") if row["Service"] == "other"}
    assert vips
    for vip in vips:
        assert not connects(world.at["mallory"].netns, vip, 8000, SHORT)
        assert task.run(f"curl -s -m {SHORT} http://{vip}:8000").returncode != 0
