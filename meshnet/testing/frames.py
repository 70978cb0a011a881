"""Bytes to scapy packets: VXLAN is decoded on the port that the lab uses, whichever that is."""

from __future__ import annotations

from typing import Any

VXLAN_PORT = 4789


def decode(data: bytes, vxlan_port: int = VXLAN_PORT) -> Any:
    """An Ethernet frame as scapy reads it, with tunnelled frames decoded to the end."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import NoPayload

    packet = Ether(data)
    if UDP in packet and packet[UDP].dport == vxlan_port and not isinstance(packet[UDP].payload, VXLAN | NoPayload):
        datagram = packet[UDP]
        if not packet[IP].frag:
            body = bytes(datagram.payload)
            datagram.remove_payload()
            datagram.add_payload(VXLAN(body))
    return packet


def tunnelled(packet: Any) -> Any:
    """The frame inside a VXLAN packet, or None if it is none."""
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    if VXLAN not in packet:
        return None
    inner = packet[VXLAN].payload
    return inner if isinstance(inner, Ether) else None


def outer(packet: Any, kind: Any) -> Any:
    """The header of a scapy class that a packet shows on the wire, or None: one inside a tunnel does not count."""
    from scapy.layers.inet import ICMPerror, IPerror, TCPerror, UDPerror
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import NoPayload

    layer = packet
    while not isinstance(layer, NoPayload | VXLAN | IPerror | TCPerror | UDPerror | ICMPerror):
        if isinstance(layer, kind):
            return layer
        layer = layer.payload
    return None
