"""What tests say of packets: matchers, one-line packets, and checksums computed again."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from meshnet.testing import arp, eth, icmp, ip, line, matching, tcp, udp, vxlan, wrong_checksums
from meshnet.testing.frames import decode

INNER = (
    Ether(src="02:42:0a:00:01:05", dst="02:42:0a:00:01:07")
    / IP(src="10.0.1.5", dst="10.0.1.7")
    / TCP(sport=40000, dport=80, flags="S")
)
OUTER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="172.17.0.2", dst="172.17.0.3")


def wire(packet: Any, port: int = 4789) -> Any:
    """A packet as it would be captured."""
    return decode(bytes(packet), port)


TUNNEL = wire(OUTER / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=4097, flags=8) / INNER)


@pytest.mark.parametrize(
    "match",
    [
        vxlan(),
        vxlan(4097, "172.17.0.2", "172.17.0.3"),
        vxlan(inner=tcp("10.0.1.5", "10.0.1.7", dport=80, flags="S!A")),
        vxlan(inner=eth(dst="02:42:0a:00:01:07") & ip(ttl=64) & ~udp()),
        udp("172.17.0.2", dport=4789),
        eth(src="02:00:00:00:00:01"),
        ~tcp(),
        matching(lambda packet: len(packet) > 50, "longer than 50"),
    ],
    ids=str,
)
def test_matches(match: Any) -> None:
    """A matcher takes a packet that has all it asks for, outside or inside of the tunnel as it says."""
    assert match.problems(TUNNEL) == []
    assert match(TUNNEL)


@pytest.mark.parametrize(
    ("match", "problems"),
    [
        (vxlan(4098), ["vni is 4097"]),
        (vxlan(src="172.17.0.9"), ["src is 172.17.0.2"]),
        (vxlan(port=4790), ["dport is 4789"]),
        (vxlan(inner=tcp(dport=81, flags="SA")), ["inner: dport is 80", "inner: flags are S"]),
        (vxlan(inner=tcp(flags="!S")), ["inner: flags are S"]),
        (vxlan(inner=udp()), ["inner: no UDP"]),
        (tcp(), ["no TCP"]),
        (tcp(flags="S"), ["no TCP"]),
        (ip(src="10.0.1.5"), ["src is 172.17.0.2"]),
        (~vxlan(), ["it is vxlan"]),
        (matching(lambda packet: False, "a unicorn"), ["not a unicorn"]),
    ],
    ids=str,
)
def test_says_what_differs(match: Any, problems: list[str]) -> None:
    """A packet that does not match is told what differs, field by field."""
    assert match.problems(TUNNEL) == problems
    assert not match(TUNNEL)


def test_an_icmp_error_is_not_what_it_quotes() -> None:
    """The packet quoted in an ICMP error is not a packet on the wire."""
    error = wire(OUTER / ICMP(type=3, code=3) / IP(src="172.17.0.3", dst="172.17.0.2") / UDP(sport=1, dport=2))
    assert icmp("172.17.0.2", type=3, code=3)(error)
    assert not udp()(error)


def test_a_field_that_does_not_exist() -> None:
    """A misspelt field is refused at once, with those that there are."""
    with pytest.raises(TypeError, match=r"tcp\(\) has no port; it has ack, chksum, dataofs, dport"):
        tcp(port=80)


def test_vxlan_without_its_flag() -> None:
    """A VXLAN header whose VNI flag is not set is not valid."""
    broken = wire(OUTER / UDP(sport=1, dport=4789) / VXLAN(vni=4097, flags=0) / INNER)
    assert vxlan().problems(broken) == ["its VNI flag is not set"]


def test_vxlan_on_another_port() -> None:
    """VXLAN is decoded on the port that was asked for."""
    packet = OUTER / UDP(sport=1, dport=14789) / VXLAN(vni=4097, flags=8) / INNER
    assert not vxlan(port=14789)(wire(packet))
    assert vxlan(4097, inner=tcp(dport=80), port=14789)(wire(packet, 14789))


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (
            TUNNEL,
            "172.17.0.2:50000 > 172.17.0.3:4789 UDP VXLAN 4097 | 02:42:0a:00:01:07 "
            "10.0.1.5:40000 > 10.0.1.7:80 TCP S len 0",
        ),
        (OUTER / UDP(sport=1, dport=2) / Raw(b"12345"), "172.17.0.2:1 > 172.17.0.3:2 UDP len 5"),
        (OUTER / ICMP(), "172.17.0.2 > 172.17.0.3 ICMP type 8 code 0"),
        (
            Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
            / IP(src="172.17.0.2", dst="172.17.0.3", flags="MF", frag=3, proto=17)
            / Raw(b"x" * 8),
            "172.17.0.2 > 172.17.0.3 protocol 17 fragment at 24+",
        ),
        (Ether() / ARP(op=1, psrc="10.0.1.5", pdst="10.0.1.7"), "ARP who has 10.0.1.7, asks 10.0.1.5"),
    ],
)
def test_line(packet: Any, text: str) -> None:
    """A packet is one line that names addresses, ports, flags, VNI and what is inside."""
    assert line(wire(packet)) == text


def test_arp() -> None:
    """ARP is matched by its own fields."""
    assert arp(op=1, pdst="10.0.1.7")(wire(Ether() / ARP(op=1, pdst="10.0.1.7")))


@pytest.mark.parametrize("payload", [TCP(sport=1, dport=2) / b"odd", UDP(sport=1, dport=2) / b"x", ICMP() / b"ping"])
def test_right_checksums(payload: Any) -> None:
    """Checksums as scapy writes them are right, also with padding behind the packet."""
    packet = OUTER / payload
    assert wrong_checksums(wire(packet)) == []
    assert wrong_checksums(wire(bytes(packet) + bytes(6))) == []


def test_wrong_checksums_are_named() -> None:
    """A wrong checksum is named with what it is and should be, outside and inside of the tunnel."""
    broken = OUTER / UDP(dport=4789, chksum=0) / VXLAN(vni=1, flags=8) / INNER.copy()
    broken[TCP].chksum = 0x1234
    broken[IP].chksum = 0x4321
    found = wrong_checksums(wire(broken))
    assert [text.partition(",")[0] for text in found] == ["IP checksum 0x4321", "inner TCP checksum 0x1234"]
    right = int(found[1].rpartition("0x")[2], 16)
    broken[TCP].chksum = right
    assert [text.partition(" ")[0] for text in wrong_checksums(wire(broken))] == ["IP"]


def test_unfinished_checksums() -> None:
    """What is left to the device must hold the pseudo header's sum, of the innermost packet only."""
    packet = OUTER / TCP(sport=1, dport=2)
    assert wrong_checksums(wire(packet), unfinished=True)[0].startswith("unfinished TCP checksum")
    wanted = int(wrong_checksums(wire(packet), unfinished=True)[0].rpartition("0x")[2], 16)
    packet[TCP].chksum = wanted
    assert wrong_checksums(wire(packet), unfinished=True) == []
    assert wrong_checksums(wire(packet)) != []


def test_an_absent_udp_checksum_is_right() -> None:
    """UDP over IPv4 may have no checksum (RFC 768)."""
    assert wrong_checksums(wire(OUTER / UDP(sport=1, dport=2, chksum=0) / b"x")) == []
