"""A packet as one line, for failures that a person can read."""

from __future__ import annotations

from typing import Any

from meshnet.testing.frames import outer, tunnelled


def line(packet: Any) -> str:
    """`172.17.0.2:50123 > 172.17.0.3:4789 UDP VXLAN 4097 | 10.0.1.5:40000 > 10.0.1.7:80 TCP S len 0`."""
    from scapy.layers.l2 import ARP, Ether

    arp = outer(packet, ARP)
    if arp is not None:
        asks = {1: f"who has {arp.pdst}, asks", 2: f"{arp.psrc} is at {arp.hwsrc}, says"}
        return f"ARP {asks.get(arp.op, f'op {arp.op}')} {arp.psrc}"
    text = _ip(packet)
    if text:
        return text
    eth = outer(packet, Ether)
    return f"{eth.src} > {eth.dst} type {eth.type:#06x}" if eth is not None else packet.summary()


def _ip(packet: Any) -> str:
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.vxlan import VXLAN

    ip = outer(packet, IP)
    if ip is None:
        return ""
    cut = f" fragment at {ip.frag * 8}{'+' if ip.flags.MF else ''}" if ip.frag or ip.flags.MF else ""
    tcp, udp, icmp = (outer(packet, kind) for kind in (TCP, UDP, ICMP))
    ports = tcp if tcp is not None else udp
    if ports is None:
        what = f"ICMP type {icmp.type} code {icmp.code}" if icmp is not None else f"protocol {ip.proto}"
        return f"{ip.src} > {ip.dst} {what}{cut}"
    ends = f"{ip.src}:{ports.sport} > {ip.dst}:{ports.dport}"
    if tcp is not None:
        return f"{ends} TCP {tcp.flags} len {len(tcp.payload)}{cut}"
    inner = tunnelled(packet)
    if inner is not None:
        return f"{ends} UDP VXLAN {packet[VXLAN].vni}{cut} | {inner.dst} {line(inner)}"
    return f"{ends} UDP len {len(udp.payload)}{cut}"
