"""The overlay, packet by packet: what a task sends, what a tunnel brings, and who is turned away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from world import (
    CLIENT,
    DEMO,
    GATEWAY,
    GONE,
    INGRESS,
    LOCAL,
    NOBODY,
    NODE,
    ON_IPVS,
    OTHER,
    OWN_INGRESS,
    PLAN,
    PORTS,
    REMOTE,
    STRANGER,
    VIP,
    WEB,
    icmp_error,
    outside,
    received,
    reset_of,
    same,
    taken_out,
    task,
    tunneled,
)

from meshnet.datapath.rows import Plan, RemovedRow
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, NODE_PORT, PASS, REDIRECT, PacketNode, Result

pytestmark = pytest.mark.root
HELLO = UDP(sport=1000, dport=2000) / b"hello"


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


@pytest.mark.parametrize(
    "payload",
    [HELLO, TCP(sport=1000, dport=80, flags="PA", seq=5, ack=6) / bytes(100), ICMP(type=8, id=3) / b"ping"],
    ids=["udp", "tcp", "ping"],
)
def test_out_through_a_tunnel(node: PacketNode, payload: Any) -> None:
    """A packet to a remote endpoint leaves as VXLAN to its node, unchanged inside."""
    packet = task(CLIENT, REMOTE, payload, id=77)
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, tunneled(packet, OTHER))


def test_out_to_an_ipvs_node(node: PacketNode) -> None:
    """An IPVS node gets the same VXLAN: inner MACs are both tasks' own."""
    packet = task(CLIENT, ON_IPVS, HELLO)
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), tunneled(packet, "172.17.0.4"))


def test_out_by_the_gateways_mac(node: PacketNode) -> None:
    """A frame sent to the gateway for a remote endpoint carries the endpoint's MAC inside the tunnel."""
    packet = task(CLIENT, REMOTE, HELLO)
    packet.dst = mac_of(GATEWAY)
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), tunneled(task(CLIENT, REMOTE, HELLO), OTHER))


def test_out_with_ip_options(node: PacketNode) -> None:
    """IP options travel inside the tunnel."""
    packet = task(CLIENT, REMOTE, HELLO, options=b"\x01\x01\x01\x00")
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), tunneled(packet, OTHER))


def test_larger_than_the_mtu_as_gso(node: PacketNode) -> None:
    """A GSO packet is never judged by its size: it is cut later."""
    packet = task(CLIENT, LOCAL, TCP(sport=1, dport=2, flags="A") / bytes(3000), flags="DF")
    result = node.run("endpoint", packet, port=PORTS[CLIENT], gso_size=1400)
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, packet)


def test_local_delivery(node: PacketNode) -> None:
    """A packet to a task of the same node goes in directly, with the MACs of both."""
    packet = task(CLIENT, LOCAL, HELLO)
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, packet)


def test_in_through_a_tunnel(node: PacketNode) -> None:
    """A member's tunnel packet for a task of this node loses its outer headers and nothing else."""
    packet = task(REMOTE, CLIENT, HELLO)
    result = node.run("uplink", received(packet))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, packet)


def test_in_through_the_kernels_device(node: PacketNode) -> None:
    """What the kernel's VXLAN device took out of a member's tunnel reaches the task, by the rules of every tunnel."""
    packet = task(REMOTE, CLIENT, HELLO)
    result = node.run("overlay", packet, tunnel=(DEMO, OTHER))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, packet)
    stranger = node.run("overlay", packet, tunnel=(DEMO, STRANGER))
    assert (stranger.verdict, stranger.drops) == (DROP, {"unknown_member": 1})
    unknown = node.run("overlay", packet, tunnel=(9999, OTHER))
    assert (unknown.verdict, unknown.events) == (PASS, {"unknown_vni": 1})
    same(unknown, packet)


def test_to_the_nodes_own_address(node: PacketNode) -> None:
    """The node's ingress address is reached like a task, and it reaches others like one, where they publish."""
    packet = task("10.0.0.7", OWN_INGRESS, HELLO)
    same(node.run("uplink", received(packet, vni=INGRESS)), packet)
    packet = task(OWN_INGRESS, "10.0.0.7", UDP(sport=1000, dport=80) / b"hello")
    same(node.run("endpoint", packet, port=NODE_PORT), tunneled(packet, OTHER, INGRESS))


@pytest.mark.parametrize("payload", [HELLO, TCP(sport=1, dport=2000), ICMP()])
def test_from_the_node_to_what_is_not_published(node: PacketNode, payload: Packet) -> None:
    """The node itself reaches no port of a task that is not published, and does not ping it."""
    result = node.run("endpoint", task(OWN_INGRESS, "10.0.0.7", payload), port=NODE_PORT)
    assert (result.verdict, result.drops) == (DROP, {"unpublished": 1})


def test_from_elsewhere_to_the_nodes_services(node: PacketNode) -> None:
    """A task does not speak to a node's own ports at the node's ingress address."""
    for payload in (UDP(sport=1, dport=7946), UDP(sport=1, dport=4789), TCP(sport=1, dport=2377)):
        result = node.run("uplink", received(task("10.0.0.7", OWN_INGRESS, payload), vni=INGRESS))
        assert (result.verdict, result.drops) == (DROP, {"node_port": 1})


def test_too_big_for_the_nodes_own_interface(node: PacketNode) -> None:
    """The node's own interface would drop silently what exceeds its MTU: it is counted here."""
    packet = task("10.0.0.7", OWN_INGRESS, UDP(sport=1, dport=2) / bytes(1440))
    result = node.run("uplink", received(packet, vni=INGRESS))
    assert (result.verdict, result.drops) == (DROP, {"too_big": 1})


@pytest.mark.parametrize("asked", [LOCAL, REMOTE, VIP, GATEWAY, GONE, ON_IPVS])
def test_arp(node: PacketNode, asked: str) -> None:
    """ARP for every known address of the network is answered on the spot: 02:42 and the address."""
    request = Ether(src=mac_of(CLIENT), dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=asked)
    result = node.run("endpoint", request, port=PORTS[CLIENT])
    reply = ARP(op=2, hwsrc=mac_of(asked), psrc=asked, hwdst=mac_of(CLIENT), pdst=CLIENT)
    assert (result.verdict, result.events) == (REDIRECT, {"arp_answered": 1})
    same(result, Ether(src=mac_of(asked), dst=mac_of(CLIENT)) / reply)


@pytest.mark.parametrize(
    ("arp", "reason"),
    [
        (ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=NOBODY), "unknown_endpoint"),
        (ARP(hwsrc=mac_of(CLIENT), psrc=LOCAL, pdst=REMOTE), "spoofed_ip"),
        (ARP(hwsrc=mac_of(LOCAL), psrc=CLIENT, pdst=REMOTE), "spoofed_mac"),
        (ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=CLIENT), "arp_ignored"),
        (ARP(op=2, hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=REMOTE), "arp_ignored"),
        (ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=WEB), "unknown_endpoint"),
        (raw(ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=REMOTE))[:20], "arp_ignored"),
    ],
    ids=["unknown", "other's IP", "other's MAC", "own address", "a reply", "another network", "cut off"],
)
def test_arp_refused(node: PacketNode, arp: Any, reason: str) -> None:
    """ARP that poses as another, or asks for what is not known, gets no answer and is counted."""
    frame = Ether(src=mac_of(CLIENT), dst="ff:ff:ff:ff:ff:ff", type=0x806) / arp
    result = node.run("endpoint", frame, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {reason: 1})


def test_arp_in_a_tunnel(node: PacketNode) -> None:
    """A bridge's flooded ARP is answered through the tunnel by the node that has the task."""
    arp = ARP(hwsrc=mac_of(ON_IPVS), psrc=ON_IPVS, pdst=CLIENT)
    request = received(Ether(src=mac_of(ON_IPVS), dst="ff:ff:ff:ff:ff:ff") / arp, "172.17.0.4")
    result = node.run("uplink", request)
    reply = ARP(op=2, hwsrc=mac_of(CLIENT), psrc=CLIENT, hwdst=mac_of(ON_IPVS), pdst=ON_IPVS)
    answer = request.copy()
    answer[IP].src, answer[IP].dst = NODE, "172.17.0.4"
    answer[VXLAN].remove_payload()
    assert result.verdict == REDIRECT
    same(result, answer / Ether(src=mac_of(CLIENT), dst=mac_of(ON_IPVS)) / reply)


@pytest.mark.parametrize("asked", [REMOTE, VIP, NOBODY])
def test_arp_in_a_tunnel_for_others(node: PacketNode, asked: str) -> None:
    """Only the owner answers ARP in a tunnel."""
    arp = ARP(hwsrc=mac_of(ON_IPVS), psrc=ON_IPVS, pdst=asked)
    result = node.run("uplink", received(Ether(src=mac_of(ON_IPVS), dst="ff:ff:ff:ff:ff:ff") / arp, "172.17.0.4"))
    assert (result.verdict, result.drops) == (DROP, {"arp_ignored": 1})


def test_ping_of_the_gateway(node: PacketNode) -> None:
    """The gateway answers a ping, and nothing else."""
    ping = task(CLIENT, GATEWAY, ICMP(type=8, id=7, seq=1) / b"payload")
    result = node.run("endpoint", ping, port=PORTS[CLIENT])
    same(result, task(GATEWAY, CLIENT, ICMP(type=0, id=7, seq=1) / b"payload"))
    assert node.run("endpoint", task(CLIENT, GATEWAY, HELLO), port=PORTS[CLIENT]).drops == {"unsupported": 1}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (task(LOCAL, REMOTE, HELLO), "spoofed_mac"),
        (Ether(src=mac_of(CLIENT)) / IP(src=LOCAL, dst=REMOTE) / HELLO, "spoofed_ip"),
        (Ether(src=mac_of(LOCAL)) / IP(src=CLIENT, dst=REMOTE) / HELLO, "spoofed_mac"),
        (Ether(src=mac_of(CLIENT)) / IP(src=NODE, dst=REMOTE) / HELLO, "spoofed_ip"),
        (Ether(src=mac_of(CLIENT)) / IPv6(dst="ff02::1") / ICMP(), "not_ipv4"),
        (Ether(src=mac_of(CLIENT), type=0x8100) / b"\x00\x05\x08\x00" / raw(IP(src=CLIENT, dst=REMOTE)), "not_ipv4"),
        (task(CLIENT, NOBODY, HELLO), "unknown_endpoint"),
        (task(CLIENT, WEB, HELLO), "other_network"),
        (task(CLIENT, "224.0.0.1", HELLO), "bad_address"),
        (task(CLIENT, "255.255.255.255", HELLO), "bad_address"),
        (task(CLIENT, "127.0.0.1", HELLO), "bad_address"),
        (task(CLIENT, OTHER, UDP(sport=4789, dport=4789) / VXLAN(vni=DEMO)), "node_port"),
        (task(CLIENT, OTHER, UDP(sport=1, dport=7946)), "node_port"),
        (task(CLIENT, OTHER, TCP(sport=1, dport=7946)), "node_port"),
        (task(CLIENT, NODE, TCP(sport=1, dport=2377)), "node_port"),
    ],
)
def test_a_task_turned_away(node: PacketNode, packet: Any, reason: str) -> None:
    """A task sends as itself, to its own network or outside, and not to the nodes' own ports."""
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {reason: 1})


def test_outside(node: PacketNode) -> None:
    """A packet to outside the overlay goes to the node's stack unchanged, with the mark."""
    packet = task(CLIENT, "192.0.2.1", HELLO)
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.mark, result.events) == (PASS, 0x6D6E, {"outside": 1})
    same(result, packet)


def test_outside_by_the_wrong_interface(node: PacketNode) -> None:
    """Only the interface of a task's default route leads outside; an internal network's never does."""
    result = node.run("endpoint", task(LOCAL, "192.0.2.1", HELLO), port=PORTS[LOCAL])
    assert (result.verdict, result.drops) == (DROP, {"not_outside": 1})
    internal = tuple(dataclasses.replace(row, internal=row.vni == DEMO) for row in PLAN.networks)
    node.apply(dataclasses.replace(PLAN, networks=internal))
    result = node.run("endpoint", task(CLIENT, "192.0.2.1", HELLO), port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {"not_outside": 1})


def test_a_stranger_is_turned_away(node: PacketNode) -> None:
    """VXLAN of a network of this node is taken only from members."""
    result = node.run("uplink", received(task(REMOTE, CLIENT, HELLO), STRANGER))
    assert (result.verdict, result.drops) == (DROP, {"unknown_member": 1})


@pytest.mark.parametrize("sender", [OTHER, STRANGER])
def test_unknown_networks_are_the_kernels(node: PacketNode, sender: str) -> None:
    """A VNI that is not this data path's goes to the kernel as it came, whoever sent it."""
    packet = received(task(REMOTE, CLIENT, HELLO), sender, vni=5000)
    result = node.run("uplink", packet)
    assert (result.verdict, result.drops, result.events) == (PASS, {}, {"unknown_vni": 1})
    same(result, packet)


@pytest.mark.parametrize("destination", [NOBODY, REMOTE, VIP])
def test_a_tunnel_packet_for_nobody_here(node: PacketNode, destination: str) -> None:
    """A tunnel packet for an address that is not a task of this node is dropped and counted."""
    result = node.run("uplink", received(task(ON_IPVS, destination, HELLO)))
    assert (result.verdict, result.drops) == (DROP, {"unknown_endpoint": 1})


def test_networks_are_apart(node: PacketNode) -> None:
    """An address of one network is not reached in another's VNI."""
    result = node.run("uplink", received(task(REMOTE, CLIENT, HELLO), vni=INGRESS, node=OTHER))
    assert (result.verdict, result.drops) == (DROP, {"unknown_endpoint": 1})


def test_vxlan_for_another_host(node: PacketNode) -> None:
    """VXLAN that is only passing by (another host's MAC or address) is not taken apart."""
    packet = received(task(REMOTE, CLIENT, HELLO))
    packet[IP].dst = OTHER
    assert node.run("uplink", packet).verdict == PASS
    packet = received(task(REMOTE, CLIENT, HELLO))
    packet.dst = "02:00:00:00:00:0b"
    assert node.run("uplink", packet).verdict == PASS


def test_outer_fragments_are_the_kernels(node: PacketNode) -> None:
    """Pieces of a tunnel packet go to the stack, which puts them together for `overlay`."""
    for bits in ({"flags": "MF"}, {"frag": 100}):
        packet = received(task(REMOTE, CLIENT, HELLO))
        packet[IP].flags = bits.get("flags", 0)
        packet[IP].frag = bits.get("frag", 0)
        assert node.run("uplink", packet).verdict == PASS


def test_the_nodes_own_packets(node: PacketNode) -> None:
    """What is no tunnel's and for no published port is the node's own."""
    for packet in (
        outside(OTHER, NODE, TCP(sport=1, dport=22)),
        outside(OTHER, NODE, UDP(sport=1, dport=7946) / b"gossip"),
        outside(OTHER, NODE, ICMP()),
        Ether(src="02:00:00:00:00:0b", dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=NODE),
    ):
        result = node.run("uplink", packet)
        assert (result.verdict, result.drops) == (PASS, {})
        same(result, packet)


def test_too_big_with_df(node: PacketNode) -> None:
    """A packet larger than the network's MTU that may not be cut is answered with the MTU that fits (RFC 1191)."""
    packet = task(CLIENT, REMOTE, UDP(sport=1000, dport=2000) / bytes(1440), flags="DF", id=9)
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {"too_big": 1}, {"too_big_sent": 1})
    same(result, icmp_error(packet, 4, 1450))


def test_too_big_tcp_with_df(node: PacketNode) -> None:
    """The error about a TCP segment quotes its whole header."""
    packet = task(CLIENT, LOCAL, TCP(sport=1000, dport=2000, flags="A") / bytes(1440), flags="DF", id=9)
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), icmp_error(packet, 4, 1450))


def test_too_big_without_df(node: PacketNode) -> None:
    """A packet that may be cut goes through the kernel's device, with the inner MACs in place."""
    packet = task(CLIENT, REMOTE, UDP(sport=1000, dport=2000) / bytes(1440))
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {}, {"fallback": 1})
    same(result, packet)


def test_fits_exactly(node: PacketNode) -> None:
    """A packet as large as the MTU goes out."""
    packet = task(CLIENT, REMOTE, UDP(sport=1000, dport=2000) / bytes(1422), flags="DF")
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), tunneled(packet, OTHER))


def test_to_a_removed_endpoint_of_this_node(node: PacketNode) -> None:
    """A TCP packet in a tunnel to an endpoint that was here gets a RST through the tunnel; a datagram is counted."""
    node.apply(dataclasses.replace(PLAN, removed=(*PLAN.removed, RemovedRow(DEMO, "10.0.1.30"))))
    packet = task(REMOTE, "10.0.1.30", TCP(sport=1, dport=80, flags="PA", seq=100, ack=200) / b"data")
    result = taken_out(node, received(packet))
    assert (result.verdict, result.drops) == (REDIRECT, {"removed_backend": 1})
    same(result, tunneled(reset_of(packet), OTHER))
    result = node.run("uplink", received(task(REMOTE, "10.0.1.30", HELLO)))
    assert (result.verdict, result.drops) == (DROP, {"removed_backend": 1})


def test_to_a_removed_endpoint_that_no_vip_stands_for(node: PacketNode) -> None:
    """A connection that begins is refused at once; one to a service with a VIP may ask again for another backend."""
    alone, behind = RemovedRow(DEMO, "10.0.1.30"), RemovedRow(DEMO, "10.0.1.31", VIP)
    node.apply(dataclasses.replace(PLAN, removed=(alone, behind)))
    packet = task(REMOTE, alone.ip, TCP(sport=1, dport=80, flags="S", seq=100))
    same(taken_out(node, received(packet)), tunneled(reset_of(packet), OTHER))
    result = node.run("uplink", received(task(REMOTE, behind.ip, TCP(sport=1, dport=80, flags="S", seq=100))))
    assert (result.verdict, result.drops) == (DROP, {"removed_backend": 1})


@pytest.mark.parametrize("source", [CLIENT, REMOTE])
def test_to_a_closed_endpoint(node: PacketNode, source: str) -> None:
    """A task that is about to be stopped refuses connections from here and elsewhere that begin; all else gets in."""
    closed = next(row.task for row in PLAN.endpoints if row.ip == LOCAL)

    def sent(payload: Any) -> tuple[Result, Any]:
        packet = task(source, LOCAL, payload)
        if source == CLIENT:
            return node.run("endpoint", packet, port=PORTS[CLIENT]), packet
        return node.run("uplink", received(packet)), packet

    begins = TCP(sport=1000, dport=80, flags="S", seq=100)
    result, packet = sent(begins)
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, packet)
    node.apply(dataclasses.replace(PLAN, closed=(closed,)))
    packet = task(source, LOCAL, begins)
    result = sent(begins)[0] if source == CLIENT else taken_out(node, received(packet))
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {"closed_endpoint": 1}, {"reset_sent": 1})
    same(result, reset_of(packet) if source == CLIENT else tunneled(reset_of(packet), OTHER))
    for payload in (TCP(sport=1000, dport=80, flags="PA", seq=101, ack=7) / b"data", HELLO, ICMP(type=8) / b"ping"):
        result, packet = sent(payload)
        assert (result.verdict, result.drops) == (REDIRECT, {})
        same(result, packet)


def test_not_an_endpoints_interface(node: PacketNode) -> None:
    """A device that no endpoint owns may send nothing."""
    node.apply(dataclasses.replace(PLAN, endpoints=PLAN.endpoints[1:]))
    result = node.run("endpoint", task(CLIENT, REMOTE, HELLO), port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {"no_interface": 1})


def _broken() -> list[tuple[str, Any]]:
    good = task(CLIENT, REMOTE, HELLO)
    tcp = task(CLIENT, REMOTE, TCP(sport=1, dport=2) / b"x")
    return [
        ("no transport header", raw(good)[:34]),
        ("cut off in the payload", raw(good)[:-2]),
        ("IP version 5", task(CLIENT, REMOTE, HELLO, version=5)),
        ("IP header of 16 bytes", task(CLIENT, REMOTE, HELLO, ihl=4)),
        ("IP header longer than the packet", task(CLIENT, REMOTE, HELLO, ihl=15)),
        ("IP length beyond the frame", task(CLIENT, REMOTE, HELLO, len=100)),
        ("IP length below the header", task(CLIENT, REMOTE, HELLO, len=19)),
        ("IP length below the UDP header", task(CLIENT, REMOTE, HELLO, len=27)),
        ("UDP length beyond the packet", task(CLIENT, REMOTE, UDP(sport=1, dport=2, len=50) / b"hello")),
        ("UDP length below its header", task(CLIENT, REMOTE, UDP(sport=1, dport=2, len=7) / b"hello")),
        ("TCP header beyond the packet", task(CLIENT, REMOTE, TCP(sport=1, dport=2, dataofs=15) / b"x")),
        ("TCP header of 16 bytes", task(CLIENT, REMOTE, TCP(sport=1, dport=2, dataofs=4) / b"x")),
        ("half a TCP header", raw(tcp)[:46]),
        ("half an ICMP header", task(CLIENT, REMOTE, b"\x08\x00\x00\x00", proto=1)),
    ]


@pytest.mark.parametrize(("packet"), [item[1] for item in _broken()], ids=[item[0] for item in _broken()])
def test_malformed(node: PacketNode, packet: Any) -> None:
    """What contradicts itself is dropped and counted, from a task as from a tunnel."""
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {"malformed": 1})
    inner = Ether(raw(packet)) if len(raw(packet)) > 14 else packet
    result = node.run("uplink", received(inner))
    assert result.verdict == DROP
    assert result.drops in ({"malformed": 1}, {"unknown_endpoint": 1})


@pytest.mark.parametrize(
    "change",
    [
        lambda p: raw(p)[:50],
        lambda p: raw(p)[:63],
        lambda p: raw(p)[:70],
        lambda p: raw(p)[:-3],
        lambda p: _with(p, IP, len=40),
        lambda p: _with(p, UDP, len=20),
        lambda p: _with(p, UDP, len=2000),
    ],
    ids=[
        "no VXLAN",
        "half an inner frame",
        "no inner packet",
        "cut off",
        "IP too short",
        "UDP too short",
        "UDP too long",
    ],
)
def test_malformed_tunnel(node: PacketNode, change: Any) -> None:
    """A tunnel packet whose outer lengths are wrong is never delivered."""
    result = node.run("uplink", change(received(task(REMOTE, CLIENT, HELLO))))
    assert result.verdict in (DROP, PASS)
    if result.verdict == DROP:
        assert result.drops == {"malformed": 1}


def _with(packet: Any, layer: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(packet[layer], name, value)
    return packet


def test_padding_is_allowed(node: PacketNode) -> None:
    """A short frame may carry padding behind its packet (IEEE 802.3)."""
    packet = raw(task(REMOTE, CLIENT, UDP(sport=1, dport=2) / b"x")) + bytes(17)
    result = node.run("uplink", received(Ether(packet)))
    assert (result.verdict, result.data) == (REDIRECT, packet)


def test_a_program_or_port_that_is_none(node: PacketNode) -> None:
    """A wrong name is one line with the right ones."""
    with pytest.raises(ValueError, match="no packet program is called 'uplnk'; there are endpoint, uplink, overlay"):
        node.run("uplnk", bytes(60))
    with pytest.raises(ValueError, match="endpoint runs at a port of the plan, not 'eth7': "):
        node.run("endpoint", bytes(60), port="eth7")
