"""Who may send what: a task that breaks the rules packet by packet is heard by nobody, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hostile import World, vxlan
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until
from meshnet.testing.wires import drops, interface

pytestmark = pytest.mark.root
ASK = UDP(sport=1234, dport=8000)


@pytest.fixture(scope="module")
def world(lab: LabUnderTest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(lab, stack)


def test_an_honest_packet_arrives(world: World) -> None:
    """What the other tests break works: a task reaches its neighbours on its own network, here and elsewhere."""
    for name in ("near", "far"):
        world.delivered(world.frame(world.at[name].ip, ASK), name)


@pytest.mark.parametrize("whose", ["near", "far", "other", "docker-0", "docker-1", "client", "gateway", "nobody"])
def test_spoofed_source_address(world: World, whose: str) -> None:
    """A task that sends from any address but its own is not heard, not even from one that nobody has."""
    source = {"gateway": world.gateway("red"), "nobody": "10.0.1.250"}.get(whose) or world.at[whose].ip
    for to in ("near", "far"):
        world.dropped(world.frame(world.at[to].ip, ASK, src=source), "spoofed_ip")
    world.dropped(world.frame("172.17.0.10", ASK, src=source), "spoofed_ip")


def test_the_address_of_its_other_network(world: World) -> None:
    """An address that a task has on one network is not its own on another."""
    world.dropped(world.frame(world.at["near"].ip, ASK, src=world.at["ingress"].ip), "spoofed_ip")


@pytest.mark.parametrize("whose", ["near", "far", "docker-0"])
def test_spoofed_mac(world: World, whose: str) -> None:
    """A task that sends from any MAC but its own is not heard."""
    frame = world.frame(world.at["near"].ip, ASK)
    frame[Ether].src = world.at[whose].mac
    world.dropped(frame, "spoofed_mac")


def poison(world: World, op: str, **fields: str) -> Packet:
    here, near = world.at["mallory"], world.at["near"]
    arp = {"op": op, "hwsrc": here.mac, "psrc": world.at["far"].ip, "hwdst": near.mac, "pdst": near.ip, **fields}
    return Ether(src=here.mac, dst=near.mac) / ARP(**arp)


@pytest.mark.parametrize(
    ("op", "fields", "reason"),
    [
        ("is-at", {}, "arp_ignored"),
        ("is-at", {"hwdst": "ff:ff:ff:ff:ff:ff"}, "arp_ignored"),
        ("who-has", {}, "spoofed_ip"),
        ("who-has", {"hwsrc": "02:42:0a:00:01:63"}, "spoofed_mac"),
    ],
)
def test_arp_poisoning(world: World, op: str, fields: dict[str, str], reason: str) -> None:
    """No ARP of a task, answer or question, reaches a neighbour: there is nothing to poison."""
    world.dropped(poison(world, op, **fields), reason)
    broadcast = poison(world, op, **fields)
    broadcast[Ether].dst = "ff:ff:ff:ff:ff:ff"
    world.dropped(broadcast, reason)


def test_a_gratuitous_announcement(world: World) -> None:
    """An announcement of an address, its own or its neighbour's, reaches nobody."""
    here, near = world.at["mallory"], world.at["near"]
    for ip, reason in ((near.ip, "spoofed_ip"), (here.ip, "arp_ignored")):
        arp = ARP(op="who-has", hwsrc=here.mac, psrc=ip, hwdst="00:00:00:00:00:00", pdst=ip)
        world.dropped(Ether(src=here.mac, dst="ff:ff:ff:ff:ff:ff") / arp, reason)


def forged(world: World, network: str, source: str = "far", to: str = "near") -> Packet:
    """VXLAN that pretends: `source` says something to `to`."""
    one, other = world.at[source], world.at[to]
    inner = Ether(src=one.mac, dst=other.mac) / IP(src=one.ip, dst=other.ip) / ASK
    return UDP(sport=50000, dport=4789) / VXLAN(vni=world.vni(network), flags=8) / inner


@pytest.mark.parametrize("node", ["docker-0", "docker-1", "docker-2"])
@pytest.mark.parametrize("network", ["red", "blue"])
def test_a_task_forges_vxlan(world: World, node: str, network: str) -> None:
    """A task's VXLAN to its own node or another's is dropped, whatever network it pretends to be from."""
    to = {"red": "near", "blue": "other"}[network]
    world.dropped(world.frame(world.at[node].ip, forged(world, network, to=to), "ingress"), "node_port", "ingress")


@pytest.mark.parametrize("node", ["docker-0", "docker-1"])
def test_a_task_forges_vxlan_to_an_ingress_address(world: World, node: str) -> None:
    """A node's address on the ingress network is no way around that."""
    frame = world.frame(world.node_ingress(node), forged(world, "blue", to="other"), "ingress")
    world.dropped(frame, "node_port", "ingress", node, ("docker-1",))


@pytest.mark.parametrize("network", ["red", "blue", "ingress"])
@pytest.mark.parametrize("node", ["docker-0", "docker-1"])
def test_a_stranger_forges_vxlan(world: World, node: str, network: str) -> None:
    """VXLAN from a host of the underlay that is no member is dropped and counted by the node that gets it."""
    names = {"red": "far", "blue": "beyond", "ingress": "far-ingress"}
    here = {"red": "near", "blue": "other", "ingress": "ingress"}
    to = world.at[(here if node == "docker-0" else names)[network]]
    source = world.at[(names if node == "docker-0" else here)[network]]
    inner = Ether(src=source.mac, dst=to.mac) / IP(src=source.ip, dst=to.ip) / ASK
    frame = vxlan(world.at["client"], world.at[node], world.vni(network), inner)
    world.dropped(frame, "unknown_member", "client", node, (node,))


def test_a_stranger_asks_the_kernel(world: World) -> None:
    """VXLAN of an unknown network is left to the kernel's device, and the node's stack behind it hears nothing."""
    client, node = world.at["client"], world.at["docker-0"]
    wire = world.wires["client"]
    ping = IP(src=client.ip, dst=node.ip) / ICMP()
    wire.heard()
    for dst in (node.mac, "ff:ff:ff:ff:ff:ff"):
        wire.send(bytes(vxlan(client, node, 77, Ether(src=client.mac, dst=dst) / ping / Raw(b"hello"))))
    wire.send(bytes(Ether(src=client.mac, dst=node.mac) / ping / Raw(b"fence")))
    heard = wait_until(lambda: wire.heard(b"fence") or wire.heard(b"hello"))
    assert b"fence" in heard[0]


@pytest.mark.parametrize(("port", "kind"), [(7946, UDP), (7946, TCP), (2377, TCP), (4789, UDP)])
@pytest.mark.parametrize("node", ["docker-0", "docker-1", "docker-2"])
def test_node_ports(world: World, node: str, port: int, kind: type[Packet]) -> None:
    """A task cannot speak gossip, nor to a manager, nor VXLAN, with any node."""
    world.dropped(world.frame(world.at[node].ip, kind(sport=1234, dport=port), "ingress"), "node_port", "ingress")


@pytest.mark.parametrize(("port", "kind"), [(7946, UDP), (7946, TCP), (2377, TCP), (4789, UDP)])
@pytest.mark.parametrize("node", ["docker-0", "docker-1"])
def test_node_ports_at_the_ingress_address(world: World, node: str, port: int, kind: type[Packet]) -> None:
    """Nor at the address that a node has on the ingress network."""
    frame = world.frame(world.node_ingress(node), kind(sport=1234, dport=port), "ingress")
    world.dropped(frame, "node_port", "ingress", node, ("docker-1",))


@pytest.mark.parametrize("to", ["other", "beyond"])
def test_another_network(world: World, to: str) -> None:
    """A task does not reach a task of another network, whichever MAC it sends to: peer's, gateway's, node's."""
    for mac in (world.at[to].mac, "02:42:0a:00:01:01", world.at["docker-0"].mac, "ff:ff:ff:ff:ff:ff"):
        for source in ("mallory", "ingress"):
            frame = world.frame(world.at[to].ip, ASK, source)
            frame[Ether].dst = mac
            world.dropped(frame, "other_network", source)


def test_the_way_out_is_one(world: World) -> None:
    """Of a task's interfaces only the one with the default route leads out of the overlay."""
    world.dropped(world.frame(world.at["client"].ip, ASK), "not_outside")


@pytest.mark.parametrize("to", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255"])
def test_multicast_and_broadcast(world: World, to: str) -> None:
    """Multicast, broadcast, loopback: nobody hears them."""
    for mac in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", world.at["near"].mac):
        frame = world.frame(to, ASK)
        frame[Ether].dst = mac
        world.dropped(frame, "bad_address")


def test_the_networks_broadcast_address(world: World) -> None:
    """The broadcast address of its own network is nobody's, and that of the underlay reaches no node."""
    world.dropped(world.frame("10.0.1.255", ASK), "unknown_endpoint")
    world.dropped(world.frame("10.0.1.0", ASK), "unknown_endpoint")


@pytest.mark.parametrize("to", ["ff02::1", "ff02::2", "fe80::1", "fd00::1"])
def test_ipv6(world: World, to: str) -> None:
    """IPv6 of a task goes nowhere: no router is asked, no neighbour told."""
    here = world.at["mallory"]
    for body in (ICMPv6ND_RS(), ICMPv6ND_NS(tgt="fe80::1"), UDP(dport=8000)):
        world.dropped(Ether(src=here.mac, dst="33:33:00:00:00:01") / IPv6(src="fe80::5", dst=to) / body, "not_ipv4")


def test_other_protocols_of_the_link(world: World) -> None:
    """What is neither IPv4 nor ARP goes nowhere: VLAN tags, spanning tree, discovery, jumbled types."""
    here, near = world.at["mallory"], world.at["near"]
    for kind in (0x88CC, 0x8847, 0x8863, 0x0027, 0x86DE):
        world.dropped(Ether(src=here.mac, dst=near.mac, type=kind) / Raw(b"x" * 60), "not_ipv4")
    inner = IP(src=here.ip, dst=near.ip) / ASK
    world.dropped(Ether(src=here.mac, dst=near.mac) / Dot1Q(vlan=1) / inner, "not_ipv4")
    world.dropped(Ether(src=here.mac, dst=near.mac) / Dot1Q(vlan=0) / inner, "not_ipv4")


@pytest.mark.parametrize(
    "fields",
    [{"version": 6}, {"ihl": 4}, {"ihl": 15}, {"len": 19}, {"len": 1400}, {"len": 24}],
    ids=lambda fields: "-".join(f"{k}{v}" for k, v in fields.items()),
)
def test_lying_headers(world: World, fields: dict[str, Any]) -> None:
    """A header whose lengths contradict one another is dropped here, not passed on to be puzzled over."""
    world.dropped(world.frame(world.at["near"].ip, ASK, **fields), "malformed")


def counted(world: World, reason: str, source: str, frame: bytes) -> None:
    """Sends a frame that is too broken to carry a marker; it is counted."""
    before = drops(world.lab, "docker-0")[reason]
    world.wires[source].send(frame)
    wait_until(lambda: drops(world.lab, "docker-0")[reason] == before + 1, what=f"drop.{reason}")


def test_too_short(world: World) -> None:
    """A frame cut off anywhere in its headers is dropped."""
    whole = bytes(world.frame(world.at["near"].ip, ASK))
    for size in (14, 20, 33):
        counted(world, "malformed", "mallory", whole[:size])


def test_ports_hidden_in_fragments(world: World) -> None:
    """A first fragment too small for its ports is dropped, and one that shows a node's port as well."""
    node = world.at["docker-1"].ip
    shown = UDP(sport=1, dport=7946, len=72)
    world.dropped(world.frame(node, shown, "ingress", flags="MF", id=7), "node_port", "ingress")
    syn = bytes(TCP(sport=1, dport=2377, flags="S"))
    hidden = world.frame(node, Raw(syn[:8]), "ingress", flags="MF", id=8, proto=6)
    counted(world, "malformed", "ingress", bytes(hidden))


def test_removed_address(world: World) -> None:
    """What is sent to a removed task's address reaches nobody and is counted, once the node has heard of its end."""
    world.lab.service("gone", networks=["red"], constraints=["node.hostname==docker-1"])
    ip = interface(world.lab, "gone.1", "red").ip
    world.lab.remove("gone")
    frame = bytes(world.frame(ip, TCP(sport=1, dport=8000, flags="A")))
    before = drops(world.lab, "docker-0")

    def dropped() -> int:
        world.wires["mallory"].send(frame)
        after = drops(world.lab, "docker-0")
        return sum(after[reason] - before[reason] for reason in ("removed_backend", "unknown_endpoint"))

    wait_until(dropped, what="a drop of what is sent to a removed task")
    assert ip not in {endpoint["IP"] for endpoint in world.lab.inspect("docker-0", "endpoints")}
