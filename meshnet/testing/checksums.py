"""Checksums of captured packets, computed again by scapy.

A sender with checksum offload leaves a TCP or UDP checksum to the device: until then the field holds the sum of
the pseudo header (RFC 9293 §3.1), and the packet socket says so (TP_STATUS_CSUMNOTREADY). That sum is checked, too:
a program that rewrites addresses must keep it right. A zero UDP checksum over IPv4 means none (RFC 768).
"""

from __future__ import annotations

from typing import Any

from meshnet.testing.frames import outer, tunnelled


def wrong_checksums(packet: Any, unfinished: bool = False) -> list[str]:
    """What is wrong, outermost first, as `inner TCP checksum 0x1234, should be 0x4321`; empty if all is right.

    `unfinished`: the innermost TCP or UDP checksum is left to the device. Fragments have no checksum to check
    beyond that of their IP header.
    """
    found, depth = [], ""
    frame = packet
    while frame is not None:
        inside = tunnelled(frame)
        found += [f"{depth}{text}" for text in _of(frame, unfinished and inside is None)]
        frame, depth = inside, f"inner {depth}"
    return found


def _of(frame: Any, unfinished: bool) -> list[str]:
    from scapy.layers.inet import ICMP, IP, TCP, UDP

    ip = outer(frame, IP)
    if ip is None:
        return []
    again = ip.copy()
    del again.chksum
    found = _differ("IP", ip.chksum, IP(bytes(again)).chksum)
    if ip.frag or ip.flags.MF:
        return found
    for kind in (TCP, UDP, ICMP):
        layer = outer(frame, kind)
        if layer is None or (kind is UDP and layer.chksum == 0):
            continue
        if unfinished and kind is not ICMP:
            found += _differ(f"unfinished {kind.__name__}", layer.chksum, _pseudo(ip))
        else:
            found += _differ(kind.__name__, layer.chksum, _final(ip, kind))
    return found


def _final(ip: Any, kind: Any) -> int:
    """Over the bytes as they are: scapy would build them anew from its fields."""
    from scapy.layers.inet import ICMP
    from scapy.utils import checksum

    body = bytearray(_body(ip))
    at = {"TCP": 16, "UDP": 6, "ICMP": 2}[kind.__name__]
    body[at : at + 2] = b"\0\0"
    head = b"" if kind is ICMP else _pseudo_header(ip)
    value: int = checksum(head + bytes(body))
    return value or 0xFFFF if kind.__name__ == "UDP" else value


def _pseudo(ip: Any) -> int:
    from scapy.utils import checksum

    value: int = checksum(_pseudo_header(ip))
    return value ^ 0xFFFF


def _pseudo_header(ip: Any) -> bytes:
    from socket import inet_aton

    return inet_aton(ip.src) + inet_aton(ip.dst) + bytes([0, ip.proto]) + len(_body(ip)).to_bytes(2, "big")


def _body(ip: Any) -> bytes:
    """Beyond the IP header, without the Ethernet padding behind it; a GSO packet may say length 0."""
    data: bytes = ip.original or bytes(ip)
    return data[ip.ihl * 4 : ip.len or len(data)]


def _differ(name: str, is_: int, should: int) -> list[str]:
    return [] if is_ == should else [f"{name} checksum {is_:#06x}, should be {should:#06x}"]
