"""What is malformed about a frame: lengths that do not agree, checksums that are wrong, in and outside of a tunnel.

Written for hundreds of thousands of frames, so bytes are looked at where they are.
"""

from __future__ import annotations

from world import NODE

VXLAN_HEADERS = 50
_IPV4, _ARP = b"\x08\x00", b"\x08\x06"
_VXLAN_PORT = b"\x12\xb5"
_NODE = bytes(map(int, NODE.split(".")))
_ARP_REPLY = b"\0\1\x08\0\x06\x04\0\2"  # Ethernet, IPv4, sizes of addresses, reply
_TCP, _UDP, _ICMP = 6, 17, 1
_ERRORS = {3, 11, 12}  # ICMP types that quote a packet
RST = 4


def _sum(data: bytes) -> int:
    """The Internet checksum's sum: 0xffff if a checksum in it is right."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def inner(frame: bytes) -> bytes:
    """The frame inside a tunnel packet; nothing if it is none."""
    is_udp = frame[12:15] == _IPV4 + b"\x45" and frame[23:24] == b"\x11" and frame[20:22] in (b"\0\0", b"\x40\0")
    return frame[VXLAN_HEADERS:] if is_udp and frame[36:38] == _VXLAN_PORT else b""


def layers(frame: bytes) -> list[bytes]:
    """The frame, and the one inside."""
    inside = inner(frame)
    return [frame, inside] if inside else [frame]


def lengths(frame: bytes) -> str:
    """What does not agree about the lengths of an IPv4 packet; nothing about other frames."""
    if frame[12:14] != _IPV4:
        return ""
    if len(frame) < 34:
        return "a cut IP header"
    header, length = (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
    if frame[14] >> 4 != 4 or header < 20 or length < header or 14 + length > len(frame):
        return "IP lengths"
    if int.from_bytes(frame[20:22], "big") & 0x1FFF:
        return ""
    room, protocol, at = length - header, frame[23], 14 + header
    if room < {_TCP: 20, _UDP: 8, _ICMP: 8}.get(protocol, 0):
        return "a cut transport header"
    whole = not frame[20] & 0x20
    if protocol == _TCP and (frame[at + 12] >> 4 < 5 or (whole and (frame[at + 12] >> 4) * 4 > room)):
        return "TCP's header length"
    if protocol == _UDP:
        size = int.from_bytes(frame[at + 4 : at + 6], "big")
        if size < 8 or (whole and size > room):
            return "UDP lengths"
    return ""


def header_sum(frame: bytes) -> str:
    """Whether the IPv4 header's checksum is wrong. Lengths are right."""
    if frame[12:14] != _IPV4:
        return ""
    return "" if _sum(frame[14 : 14 + (frame[14] & 15) * 4]) == 0xFFFF else "IP checksum"


def transport_sum(frame: bytes) -> str:
    """Whether the checksum of a whole TCP, UDP or ICMP packet is wrong, or that of an IP header that an error quotes.
    Lengths are right."""
    if frame[12:14] != _IPV4 or int.from_bytes(frame[20:22], "big") & 0x3FFF:
        return ""
    header, length = (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
    protocol, body = frame[23], frame[14 + header : 14 + length]
    pseudo = frame[26:34] + bytes([0, protocol]) + len(body).to_bytes(2, "big")
    if protocol == _TCP and _sum(pseudo + body) != 0xFFFF:
        return "TCP checksum"
    if protocol == _ICMP:
        quote = body[8:28]
        if _sum(body) != 0xFFFF:
            return "ICMP checksum"
        if body[0] in _ERRORS and len(quote) == 20 and quote[0] == 0x45 and _sum(quote) != 0xFFFF:
            return "checksum of the quoted header"
    # One that ends before its packet does is checked by nobody: the sum covers less than the pseudo header says.
    if protocol == _UDP and body[6:8] != b"\0\0" and int.from_bytes(body[4:6], "big") == len(body):
        return "" if _sum(pseudo + body) == 0xFFFF else "UDP checksum"
    return ""


def broken(frame: bytes) -> str:
    """The first thing that is wrong about a frame or the one inside."""
    return next((w for part in layers(frame) if (w := lengths(part) or header_sum(part) or transport_sum(part))), "")


def _is_answer(frame: bytes) -> bool:
    """A reset, or an ICMP error: where it answers a frame that was neither, its headers are the program's own."""
    if frame[12:14] != _IPV4 or len(frame) < 48 or frame[14] & 15 != 5:
        return False
    return (frame[23] == _TCP and bool(frame[47] & RST)) or (frame[23] == _ICMP and frame[34] in _ERRORS)


def problem(before: bytes, after: bytes) -> str:
    """What is wrong about a frame that was sent on, given the one that came in.

    Lengths must agree in any case, checksums must be right if all were; those of headers that the program made itself
    in any case. A broken sum may only be handed on.
    """
    trusted = not broken(before)
    for number, part in enumerate(layers(after)):
        if wrong := lengths(part):
            return wrong
        made = _is_answer(part) and not any(_is_answer(old) for old in layers(before))
        made = made or (number == 0 and bool(inner(after)) and part[26:30] == _NODE)
        if trusted or made:
            wrong = header_sum(part) or (transport_sum(part) if trusted else "")
            if wrong:
                return f"{wrong} {'inside' * number}"
        if part[12:14] == _ARP and after != before and part[14:22] != _ARP_REPLY:
            return "no ARP reply"
    return ""
