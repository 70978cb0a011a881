"""Captures and sending, between namespaces that the test made."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import VethEnd, address_add, link_set, veth_add
from meshnet.testing import capture, eth, icmp, ip, send, send_from, tcp, udp, vxlan

pytestmark = pytest.mark.root
LEFT, RIGHT = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def pair(namespaces: Callable[..., str]) -> tuple[str, str]:
    """Two namespaces with a cable between their eth0, and an address on each."""
    left, right = namespaces("left"), namespaces("right")
    fd = netns.open(right)
    try:
        with Netlink(left) as link:
            link.send(veth_add(VethEnd("eth0"), VethEnd("eth0", netns=fd)))
    finally:
        os.close(fd)
    for space, address in ((left, LEFT), (right, RIGHT)):
        with Netlink(space) as link:
            index = link.index("eth0")
            link.send(link_set(index, up=True), address_add(index, address, 24))
    ask(left, RIGHT, 1)  # a link that has just come up may drop its first frames
    return left, right


def ask(space: str, address: str, port: int) -> None:
    """A connection that is refused at once: an answer, so everything before it has been captured."""
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((address, port))


def test_both_ends_see_a_connection(pair: tuple[str, str]) -> None:
    """What was answered when the block ended is in the capture of either end, with its direction, unlost."""
    left, right = pair
    for _ in range(20):
        with capture(left) as here, capture(right) as there:
            ask(left, RIGHT, 80)
        for seen, asks in ((here, True), (there, False)):
            seen.one(tcp(LEFT, RIGHT, dport=80, flags="S!A"))
            seen.one(tcp(RIGHT, LEFT, sport=80, flags="R"))
            seen.checksums()
            assert [one.outgoing for one in seen.seen if tcp(dport=80)(one.packet)] == [asks]


def test_nothing_before_and_nothing_after(pair: tuple[str, str]) -> None:
    """Only what went by during the block is in the capture."""
    left, right = pair
    ask(left, RIGHT, 79)
    with capture(right) as seen:
        ask(left, RIGHT, 80)
    ask(left, RIGHT, 81)
    assert {packet["TCP"].dport for packet in seen.all(tcp(flags="S!A"))} == {80}


@pytest.mark.parametrize("only", ["tcp and dst port 81", tcp(dport=81), lambda packet: tcp(dport=81)(packet)])
def test_filters(pair: tuple[str, str], only: object) -> None:
    """A filter in pcap's words, a matcher and a function keep what they are for, and nothing else."""
    left, right = pair
    with capture(right, only=only) as seen:  # type: ignore[arg-type]
        for port in (80, 81, 82):
            ask(left, RIGHT, port)
    seen.only(tcp(LEFT, RIGHT, dport=81))
    assert len(seen) == 1


def test_a_filter_that_is_none(pair: tuple[str, str]) -> None:
    """A filter or an interface that does not exist is refused in one line."""
    with pytest.raises(MeshnetError, match=r"the filter 'tcp and and': .*syntax error"):
        capture(pair[0], only="tcp and and")
    with pytest.raises(MeshnetError, match="-left eth7: there is no such interface"):
        capture(pair[0], "eth7")


def test_a_failure_lists_what_was_seen(pair: tuple[str, str]) -> None:
    """A failure names what was expected and where, and each packet in one line with what differs."""
    left, right = pair
    with capture(right, only="tcp") as seen:
        ask(left, RIGHT, 80)
    with pytest.raises(AssertionError) as failure:
        seen.one(tcp(dst=RIGHT, dport=81))
    first, request, answer = str(failure.value).splitlines()
    assert first == f"{right} eth0: expected one tcp dst={RIGHT} dport=81, found 0; seen 2"
    assert request.startswith(f"  in  {LEFT}:")
    assert request.endswith(f" > {RIGHT}:80 TCP S len 0   (dport is 80)")
    assert "  out" in answer
    for broken in (lambda: seen.none(tcp()), lambda: seen.only(udp()), lambda: seen.first(udp())):
        with pytest.raises(AssertionError, match="seen 2"):
            broken()
    with pytest.raises(AssertionError, match=r"expected 3 x tcp within 0\.02 s, found 2"):
        seen.wait(tcp(), 3, timeout=0.02)


def test_a_frame_arrives_as_it_was_sent(pair: tuple[str, str]) -> None:
    """`send` puts a frame on the wire byte for byte, also one with a VLAN tag; VXLAN is decoded on the asked port."""
    left, right = pair
    inner = Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:06") / IP(src="10.0.0.5", dst="10.0.0.6") / UDP(dport=9)
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    tunnel = link / IP(src=LEFT, dst="192.0.2.77") / UDP(sport=5, dport=14789) / VXLAN(vni=77, flags=8) / inner
    tagged = link / Dot1Q(vlan=7) / IP(src=LEFT, dst="192.0.2.77") / Raw(b"tagged")
    with capture(right, vxlan_port=14789) as seen:
        for frame in (tunnel, tagged):
            send(left, frame)
        packet = seen.wait(vxlan(77, LEFT, inner=udp("10.0.0.5", dport=9), port=14789))[0]
        assert bytes(seen.wait(eth(type=0x8100))[0]) == bytes(tagged)
    assert bytes(packet) == bytes(tunnel)
    seen.checksums()


def test_a_host_sends_a_packet(pair: tuple[str, str]) -> None:
    """`send_from` lets the stack find the way, with the host's own source or any other that is set."""
    left, right = pair
    with capture(right, only="not arp") as seen:
        sent = send_from(left, IP(dst=RIGHT) / UDP(sport=7, dport=9) / b"hello")
        seen.wait(icmp(RIGHT, LEFT, type=3, code=3))
        send_from(left, IP(src="203.0.113.1", dst=RIGHT) / UDP(sport=7, dport=9))
        seen.wait(ip(src="203.0.113.1"))
    assert sent.src == LEFT
    got = seen.one(udp(LEFT, RIGHT, sport=7, dport=9))
    assert bytes(got[UDP].payload) == b"hello"
    seen.checksums()


def test_a_wrong_checksum_is_found(pair: tuple[str, str]) -> None:
    """A packet with a wrong checksum fails `checksums`, with what it should be."""
    left, right = pair
    with capture(right, only="udp") as seen:
        send_from(left, IP(dst=RIGHT) / UDP(sport=7, dport=9, chksum=0x1234) / b"hello")
        seen.wait(udp(dport=9))
    with pytest.raises(AssertionError, match=r"192\.0\.2\.2:9 UDP len 5: UDP checksum 0x1234, should be 0x"):
        seen.checksums()


def test_bytes_that_did_not_fit_are_no_secret(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that had to leave packets out fails, rather than to look complete."""
    left, right = pair
    with capture(right) as first:  # neighbours know each other from here on: nothing waits for ARP
        send_from(left, IP(dst=RIGHT) / UDP(sport=7, dport=9))
        first.wait(udp(dport=9))
    monkeypatch.setattr("meshnet.testing.captures._ROOM", 4096)
    seen = capture(right)
    for _ in range(100):
        send_from(left, IP(dst=RIGHT) / UDP(sport=7, dport=9) / bytes(1000))
    with pytest.raises(AssertionError, match=r"\d+ packets did not fit into the capture"):
        seen.close()
