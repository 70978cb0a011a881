"""Raw IP and ARP headers as one line, without scapy: what a trace shows of a packet."""

from __future__ import annotations

import socket
import struct

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_FLAGS = "FSRPAUEC"  # from the lowest bit
_TUNNEL = 20 + 8 + 8 + 14  # from the outer IP header to the inner one


def line(data: bytes, protocol: int, vxlan_port: int = 4789) -> str:
    """`10.0.1.5:40000 > 10.0.1.7:80 TCP S`, from the network header on; cut off wherever the bytes end.

    `protocol` is the EtherType. A tunnel shows its VNI and the packet inside after a bar.
    """
    if protocol == _ARP and len(data) >= 28:
        operation = struct.unpack_from("!H", data, 6)[0]
        asks, about = _address(data, 14), _address(data, 24)
        return f"ARP who has {about}, asks {asks}" if operation == 1 else f"ARP op {operation} {asks} > {about}"
    if protocol == _IPV6 and len(data) >= 40:
        return _version_6(data)
    if protocol != _IPV4 or len(data) < 20:
        return f"type {protocol:#06x}"
    head = (data[0] & 15) * 4
    source, destination, kind = _address(data, 12), _address(data, 16), data[9]
    fragment = struct.unpack_from("!H", data, 6)[0]
    body = data[head:]
    if fragment & 0x1FFF or kind not in (_TCP, _UDP) or len(body) < 8:
        return f"{source} > {destination} {_other(kind, body, fragment)}"
    ports = struct.unpack_from("!HH", body)
    ends = f"{source}:{ports[0]} > {destination}:{ports[1]}"
    if kind == _TCP:
        return f"{ends} TCP {_flags(body)}".rstrip()
    if ports[1] == vxlan_port and head == 20 and len(data) >= _TUNNEL:
        vni = int.from_bytes(data[32:35], "big")
        return f"{ends} VXLAN {vni} | {line(data[_TUNNEL:], struct.unpack_from('!H', data, _TUNNEL - 2)[0], 0)}"
    return f"{ends} UDP"


def _version_6(data: bytes) -> str:
    """The same of IPv6, which overlays do not carry, but localhost does; extension headers are not followed."""
    source, destination = (socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24))
    kind, body = data[6], data[40:]
    if kind in (_TCP, _UDP) and len(body) >= 8:
        ports = struct.unpack_from("!HH", body)
        name = f"TCP {_flags(body)}".rstrip() if kind == _TCP else "UDP"
        return f"[{source}]:{ports[0]} > [{destination}]:{ports[1]} {name}"
    said = f"ICMPv6 type {body[0]} code {body[1]}" if kind == _ICMPV6 and len(body) > 1 else f"next header {kind}"
    return f"{source} > {destination} {said}"


def tcp(data: bytes, protocol: int) -> tuple[int, int] | None:
    """Flags (FIN lowest) and header's length in bytes of a TCP segment over IPv4, or None."""
    head = (data[0] & 15) * 4 if data else 0
    if protocol != _IPV4 or len(data) < head + 14 or data[9] != _TCP or struct.unpack_from("!H", data, 6)[0] & 0x1FFF:
        return None
    return data[head + 13], (data[head + 12] >> 4) * 4


def addresses(data: bytes, protocol: int) -> tuple[str, str] | None:
    """Source and destination of an IPv4 packet, or None."""
    return (_address(data, 12), _address(data, 16)) if protocol == _IPV4 and len(data) >= 20 else None


def _address(data: bytes, at: int) -> str:
    return socket.inet_ntoa(data[at : at + 4])


def _flags(segment: bytes) -> str:
    return "".join(name for bit, name in enumerate(_FLAGS) if len(segment) > 13 and segment[13] >> bit & 1)


def _other(kind: int, body: bytes, fragment: int) -> str:
    if fragment & 0x1FFF:
        return f"protocol {kind} fragment at {(fragment & 0x1FFF) * 8}"
    return f"ICMP type {body[0]} code {body[1]}" if kind == _ICMP and len(body) > 1 else f"protocol {kind}"
