"""ICMP errors about translated connections: who gets one finds in it what it had sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from world import (
    CLIENT,
    DEMO,
    INGRESS,
    LOCAL,
    NODE,
    OTHER,
    OUTSIDE,
    OWN_INGRESS,
    PLAN,
    PORTS,
    REMOTE,
    VIP,
    WEB,
    WEB_REMOTE,
    outside,
    received,
    same,
    task,
    tunneled,
)

from meshnet.datapath.rows import Plan, ServiceRow
from meshnet.model import mac_of
from meshnet.testing.bpf_run import PASS, REDIRECT, PacketNode

pytestmark = pytest.mark.root
RETURN_MAC = "02:42:00:00:00:00"
ROUTER = "172.17.0.60"


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


def error(about: Any, code: int = 3, mtu: int = 0) -> Any:
    """The ICMP part of an error that quotes an IP header and 8 bytes."""
    return ICMP(type=3, code=code, nexthopmtu=mtu) / raw(about)[:28]


def quoted(source: str, destination: str, payload: Any) -> Any:
    """The packet an error is about, and the quote that translation makes of another: its transport checksum stays."""
    return IP(src=source, dst=destination, id=7) / payload


def with_checksum_of(packet: Any, original: Any) -> Any:
    """`packet` with the transport checksum of `original`, which a translated quote keeps."""
    kind = TCP if TCP in packet else UDP
    packet[kind].chksum = IP(raw(original))[kind].chksum
    return packet


@pytest.mark.parametrize("backend", [LOCAL, REMOTE])
def test_from_a_vips_backend(node: PacketNode, backend: str) -> None:
    """A backend's port unreachable comes from the VIP and is about the packet to the VIP."""
    node.apply(dataclasses.replace(PLAN, services=(ServiceRow("s", DEMO, VIP, (backend,)),)))
    payload = UDP(sport=4000, dport=80) / b"question"
    node.run("endpoint", task(CLIENT, VIP, payload), port=PORTS[CLIENT])
    seen = quoted(CLIENT, backend, payload)
    reply = task(backend, CLIENT, error(seen))
    local = backend == LOCAL
    result = node.run("endpoint", reply, port=PORTS[LOCAL]) if local else node.run("uplink", received(reply))
    assert (result.verdict, result.events) == (REDIRECT, {"icmp_translated": 1})
    wanted = with_checksum_of(quoted(CLIENT, VIP, payload), seen)
    same(result, task(VIP, CLIENT, error(wanted)))


def test_about_something_else(node: PacketNode) -> None:
    """An error about a packet that was not translated is not touched."""
    node.apply(dataclasses.replace(PLAN, services=(ServiceRow("s", DEMO, VIP, (REMOTE,)),)))
    node.run("endpoint", task(CLIENT, VIP, UDP(sport=4000, dport=80)), port=PORTS[CLIENT])
    reply = task(REMOTE, CLIENT, error(quoted(CLIENT, REMOTE, UDP(sport=4001, dport=80) / b"question")))
    same(node.run("uplink", received(reply)), reply)


def test_of_a_published_ports_task(node: PacketNode) -> None:
    """A task's port unreachable goes to the client as the node's, about what the client sent: here, and through the
    node that the request came to."""
    payload = UDP(sport=4000, dport=8000) / b"question"
    inside = UDP(sport=4000, dport=80) / b"question"
    node.run("uplink", outside(OUTSIDE, NODE, payload))
    seen = quoted(OUTSIDE, WEB, inside)
    result = node.run("endpoint", task(WEB, OUTSIDE, error(seen)), port=PORTS[WEB])
    assert (result.verdict, result.events) == (REDIRECT, {"icmp_translated": 1})
    wanted = with_checksum_of(quoted(OUTSIDE, NODE, payload), seen)
    assert result.data[14:] == raw(IP(src=NODE, dst=OUTSIDE) / error(wanted))
    node.forget()
    inner = Ether(src=mac_of("10.0.0.3"), dst=mac_of(WEB)) / IP(src=OUTSIDE, dst=OTHER) / payload
    node.run("uplink", received(inner, OTHER, INGRESS))
    result = node.run("endpoint", task(WEB, OUTSIDE, error(seen)), port=PORTS[WEB])
    wanted = with_checksum_of(quoted(OUTSIDE, OTHER, payload), seen)
    back = Ether(src=mac_of(WEB), dst=RETURN_MAC) / IP(src=OTHER, dst=OUTSIDE) / error(wanted)
    same(result, tunneled(back, OTHER, INGRESS))


def test_about_a_published_ports_reply(node: PacketNode) -> None:
    """Fragmentation-needed from the client's path reaches the task, about what the task sent."""
    node.run("uplink", outside(OUTSIDE, NODE, TCP(sport=4000, dport=8000, flags="S")))
    reply = TCP(sport=8000, dport=4000, flags="A") / b"large"
    seen = quoted(NODE, OUTSIDE, reply)
    result = node.run("uplink", outside(ROUTER, NODE, error(seen, 4, 1300)))
    assert (result.verdict, result.events) == (REDIRECT, {"icmp_translated": 1})
    wanted = quoted(WEB, OUTSIDE, TCP(sport=80, dport=4000, flags="A") / b"large")
    head = Ether(src=mac_of(ROUTER), dst=mac_of(WEB)) / IP(src=ROUTER, dst=WEB)
    same(result, head / error(wanted, 4, 1300))


def test_about_a_moved_connections_reply(node: PacketNode) -> None:
    """The same for a connection that got another client port."""
    node.run("uplink", outside(OUTSIDE, NODE, TCP(sport=4000, dport=8000, flags="S")))
    moved = node.run("uplink", outside(OUTSIDE, NODE, TCP(sport=4000, dport=8003, flags="S"))).packet[TCP].sport
    seen = quoted(NODE, OUTSIDE, TCP(sport=8003, dport=4000, flags="A"))
    result = node.run("uplink", outside(ROUTER, NODE, error(seen, 4, 1300)))
    wanted = quoted(WEB, OUTSIDE, TCP(sport=80, dport=moved, flags="A"))
    head = Ether(src=mac_of(ROUTER), dst=mac_of(WEB)) / IP(src=ROUTER, dst=WEB)
    same(result, head / error(wanted, 4, 1300))


def test_about_a_remote_backends_reply(node: PacketNode) -> None:
    """The node that a request came to sends such an error on unchanged, and the backend's node translates it."""
    node.run("uplink", outside(OUTSIDE, NODE, TCP(sport=4000, dport=8001, flags="S")))
    packet = error(quoted(NODE, OUTSIDE, TCP(sport=8001, dport=4000, flags="A")), 4, 1300)
    result = node.run("uplink", outside(ROUTER, NODE, packet))
    inner = Ether(src=mac_of(OWN_INGRESS), dst=mac_of(WEB_REMOTE)) / IP(src=ROUTER, dst=NODE) / packet
    same(result, tunneled(inner, OTHER, INGRESS))

    syn = Ether(src=mac_of("10.0.0.3"), dst=mac_of(WEB)) / IP(src=OUTSIDE, dst=OTHER)
    node.run("uplink", received(syn / TCP(sport=4000, dport=8000, flags="S"), OTHER, INGRESS))
    about = error(quoted(OTHER, OUTSIDE, TCP(sport=8000, dport=4000, flags="A")), 4, 1300)
    arriving = Ether(src=mac_of("10.0.0.3"), dst=mac_of(WEB)) / IP(src=ROUTER, dst=OTHER) / about
    result = node.run("uplink", received(arriving, OTHER, INGRESS))
    wanted = error(quoted(WEB, OUTSIDE, TCP(sport=80, dport=4000, flags="A")), 4, 1300)
    same(result, Ether(src=mac_of(ROUTER), dst=mac_of(WEB)) / IP(src=ROUTER, dst=WEB) / wanted)


@pytest.mark.parametrize(
    "packet",
    [
        outside(ROUTER, NODE, error(quoted(NODE, OUTSIDE, TCP(sport=22, dport=4000)))),
        outside(ROUTER, NODE, error(quoted("192.0.2.1", OUTSIDE, TCP(sport=8000, dport=4000)))),
        outside(ROUTER, NODE, ICMP(type=3, code=3) / b"short"),
        outside(ROUTER, NODE, ICMP(type=0)),
        outside(ROUTER, NODE, error(IP(src=NODE, dst=OUTSIDE, proto=47) / bytes(8))),
    ],
    ids=["another port", "another address", "cut off", "no error", "another protocol"],
)
def test_the_nodes_own_errors(node: PacketNode, packet: Any) -> None:
    """Errors about the node's own packets are the node's."""
    node.run("uplink", outside(OUTSIDE, NODE, TCP(sport=4000, dport=8000, flags="S")))
    result = node.run("uplink", packet)
    assert (result.verdict, result.drops) == (PASS, {})
    same(result, packet)
