"""The node that packet tests look at, and the frames they send it.

This node is 172.17.0.2; the others run eBPF (172.17.0.3) and IPVS (172.17.0.4). Two networks: `demo` and `ingress`.
A task `client` and a backend `local` are here, a backend `remote` is on 172.17.0.3.
"""

from __future__ import annotations

import difflib
from typing import Any

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from meshnet.datapath.rows import (
    EndpointRow,
    NetworkRow,
    PeerRow,
    Plan,
    PublishedRow,
    RemoteRow,
    RemovedRow,
    ServiceRow,
)
from meshnet.model import mac_of
from meshnet.testing.bpf_run import PASS, UNDERLAY_MAC, PacketNode, Result, tunnel_id, tunnel_port

DEMO, INGRESS = 4097, 4096
NODE, OTHER, IPVS, STRANGER = "172.17.0.2", "172.17.0.3", "172.17.0.4", "172.17.0.99"
OUTSIDE = "172.17.0.50"  # a client of published ports
OUTSIDE_MAC = "02:00:00:00:00:50"

GATEWAY, VIP, EMPTY = "10.0.1.1", "10.0.1.2", "10.0.1.3"
CLIENT, LOCAL, REMOTE, ON_IPVS = "10.0.1.5", "10.0.1.6", "10.0.1.7", "10.0.1.8"
GONE, GONE_ALONE, NOBODY = "10.0.1.20", "10.0.1.21", "10.0.1.99"
OWN_INGRESS, OTHER_INGRESS = "10.0.0.2", "10.0.0.3"
WEB, WEB_REMOTE, WEB_IPVS = "10.0.0.5", "10.0.0.7", "10.0.0.8"

PORTS = {CLIENT: "mntclient", LOCAL: "mntlocal", WEB: "mntweb"}


def _endpoint(vni: int, ip: str, default_route: bool) -> EndpointRow:
    return EndpointRow(vni, ip, mac_of(ip), f"task{ip}", "/run/netns/x", "eth0", PORTS[ip], default_route)


def _remote(vni: int, ip: str, node: str) -> RemoteRow:
    return RemoteRow(vni, ip, mac_of(ip), node)


PLAN = Plan(
    node="node",
    address=NODE,
    addresses=(NODE,),
    ingress_vni=INGRESS,
    networks=(
        NetworkRow(INGRESS, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, ingress=True, node_address=OWN_INGRESS),
        NetworkRow(DEMO, "d", "demo", "10.0.1.0/24", GATEWAY, 1450),
    ),
    endpoints=(_endpoint(DEMO, CLIENT, True), _endpoint(DEMO, LOCAL, False), _endpoint(INGRESS, WEB, True)),
    remotes=(
        _remote(INGRESS, OTHER_INGRESS, OTHER),
        _remote(INGRESS, WEB_REMOTE, OTHER),
        _remote(INGRESS, WEB_IPVS, IPVS),
        _remote(DEMO, REMOTE, OTHER),
        _remote(DEMO, ON_IPVS, IPVS),
    ),
    peers=(PeerRow(OTHER), PeerRow(IPVS, "ipvs")),
    services=(ServiceRow("whoami", DEMO, VIP, (LOCAL, REMOTE)), ServiceRow("empty", DEMO, EMPTY)),
    published=(
        PublishedRow("whoami", "tcp", 8000, 80, (WEB,)),
        PublishedRow("whoami", "udp", 8000, 80, (WEB,)),
        PublishedRow("far", "tcp", 8001, 81, (WEB_REMOTE,)),
        PublishedRow("far", "udp", 8001, 81, (WEB_REMOTE,)),
        PublishedRow("empty", "tcp", 8002, 82),
        PublishedRow("empty", "udp", 8002, 82),
        PublishedRow("again", "tcp", 8003, 80, (WEB,)),
        PublishedRow("ipvs", "tcp", 8004, 84, (WEB_IPVS,)),
        PublishedRow("ipvs", "udp", 8004, 84, (WEB_IPVS,)),
    ),
    removed=(RemovedRow(DEMO, GONE, VIP), RemovedRow(DEMO, GONE_ALONE)),
)


def task(source: str, destination: str, payload: Any, **ip: Any) -> Any:
    """A frame as a task sends it: MACs by the rule, since every ARP request was answered so."""
    return Ether(src=mac_of(source), dst=mac_of(destination)) / IP(src=source, dst=destination, **ip) / payload


def outside(source: str, destination: str, payload: Any, **ip: Any) -> Any:
    """A frame on the underlay for this node."""
    return Ether(src=OUTSIDE_MAC, dst=UNDERLAY_MAC) / IP(src=source, dst=destination, **ip) / payload


def _ports(packet: Any) -> tuple[int, int]:
    ip = packet[IP]
    if ip.flags.MF or ip.frag:
        return 0, 0
    for layer in (TCP, UDP):
        if layer in packet:
            return packet[layer].sport, packet[layer].dport
    return 0, 0


def tunneled(inner: Any, node: str, vni: int = DEMO) -> Any:
    """What leaves the node for `inner`. The kernel fills in the outer MACs later."""
    inner = Ether(raw(inner))
    ip = inner[IP]
    which = (ip.src, ip.dst, *_ports(inner))
    return (
        Ether(src="00:00:00:00:00:00", dst="00:00:00:00:00:00", type=0x800)
        / IP(src=NODE, dst=node, id=tunnel_id(ip.id, *which), ttl=64)
        / UDP(sport=tunnel_port(*which), dport=4789, chksum=0)
        / VXLAN(vni=vni, flags="Instance")
        / inner
    )


def received(inner: Any, node: str = OTHER, vni: int = DEMO) -> Any:
    """A tunnel packet of another node's as it comes in here."""
    return outside(node, NODE, UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=vni, flags="Instance") / inner)


def taken_out(node: PacketNode, packet: Any) -> Result:
    """What becomes of a tunnel packet that `uplink` leaves to the kernel: its device takes it apart, for `overlay`."""
    left = node.run("uplink", packet)
    assert (left.verdict, left.drops, left.events) == (PASS, {}, {}), f"not left to the kernel: {left}"
    same(left, packet)
    tunnel = packet[VXLAN]
    return node.run("overlay", Ether(raw(tunnel.payload)), tunnel=(tunnel.vni, packet[IP].src))


def icmp_error(about: Any, kind: int, mtu: int = 0) -> Any:
    """The ICMP error that answers a frame, from where the frame was for, back where it came from."""
    eth, ip = about[Ether], about[IP]
    quote = raw(ip)[: 40 if ip.proto == 6 else 28]
    head = Ether(src=eth.dst, dst=eth.src) / IP(src=ip.dst, dst=ip.src, tos=0xC0, id=0, ttl=64)
    return head / ICMP(type=3, code=kind, nexthopmtu=mtu) / quote


def reset_of(packet: Any) -> Any:
    """The RST that answers a TCP frame (RFC 9293 §3.10.7.1), back where it came from."""
    eth, ip, tcp = packet[Ether], packet[IP], packet[TCP]
    length = len(raw(tcp)) - 4 * (Ether(raw(packet))[TCP].dataofs) + ("S" in tcp.flags) + ("F" in tcp.flags)
    if "A" in tcp.flags:
        answer = TCP(sport=tcp.dport, dport=tcp.sport, flags="R", seq=tcp.ack, ack=0, window=0)
    else:
        answer = TCP(sport=tcp.dport, dport=tcp.sport, flags="RA", seq=0, ack=tcp.seq + length, window=0)
    return Ether(src=eth.dst, dst=eth.src) / IP(src=ip.dst, dst=ip.src, id=0, flags="DF", ttl=64) / answer


def same(result: Result, expected: Any) -> None:
    """Byte for byte; both packets are shown as scapy reads them when they differ."""
    wanted = raw(expected)
    if result.data == wanted:
        return
    ours, theirs = (Ether(data).show2(dump=True).splitlines() for data in (wanted, result.data))
    difference = "\n".join(difflib.unified_diff(ours, theirs, "expected", "came out", lineterm=""))
    raise AssertionError(f"{result.drops} {result.events}\n{difference}\n{wanted.hex()}\n{result.data.hex()}")
