"""Tracing drops: members found in type information, packets as lines, reasons and whose they are."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from pathlib import Path

import pytest
from cli_engine import answering, meshnet
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from meshnet.cli import trace, trace_scope
from meshnet.errors import NotFoundError
from meshnet.lab import state
from meshnet.lab.spec import Lab
from meshnet.observe import drop_program, drops
from meshnet.observe.btf import Btf
from meshnet.observe.drop_program import OWN_MARK
from meshnet.observe.drops import DropTrace, Scope, Words
from meshnet.observe.packet_line import line, tcp
from meshnet.observe.settled import is_settled


def made() -> bytes:
    """BTF of: struct in { int x; int y; }; struct out { int a; union { typedef struct in t; int b; }; }; enum e."""
    strings = b"\0int\0in\0x\0y\0out\0a\0t\0b\0e\0ONE\0TOP\0alias\0"

    def at(name: str) -> int:
        return strings.index(b"\0" + name.encode() + b"\0") + 1 if name else 0

    def kind(name: str, which: int, count: int, other: int, *rows: tuple[str, int, int]) -> bytes:
        head = struct.pack("<III", at(name), which << 24 | count, other)
        return head + b"".join(struct.pack("<III", at(text), ident, bits) for text, ident, bits in rows)

    types = kind("int", 1, 0, 4) + struct.pack("<I", 32)  # 1
    types += kind("in", 4, 2, 8, ("x", 1, 0), ("y", 1, 32))  # 2
    types += kind("alias", 8, 0, 2)  # 3
    types += kind("", 5, 2, 8, ("t", 3, 0), ("b", 1, 0))  # 4
    types += kind("out", 4, 2, 16, ("a", 1, 0), ("", 4, 64))  # 5
    types += struct.pack("<III", at("e"), 6 << 24 | 2, 4) + struct.pack("<IiIi", at("ONE"), 1, at("TOP"), -65536)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def test_members() -> None:
    """A member is found at its place, inside nested structures and through unions without a name."""
    btf = Btf(made())
    assert [btf.offset("out", path) for path in ("a", "b", "t", "t.y")] == [0, 8, 8, 12]
    assert btf.enum("e") == {1: "ONE", 0xFFFF0000: "TOP"}


@pytest.mark.parametrize(("name", "path"), [("out", "z"), ("out", "t.z"), ("nothing", "a")])
def test_what_a_kernel_lacks(name: str, path: str) -> None:
    """A structure or member that this kernel does not have is a KeyError."""
    with pytest.raises(KeyError):
        Btf(made()).offset(name, path)


def test_no_type_information() -> None:
    """Other bytes are refused."""
    with pytest.raises(ValueError):
        Btf(bytes(64))


INNER = Ether() / IP(src="10.0.1.5", dst="10.0.1.7") / TCP(sport=4, dport=80, flags="SA")


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (INNER[IP], "10.0.1.5:4 > 10.0.1.7:80 TCP SA"),
        (
            IP(src="172.17.0.2", dst="172.17.0.3") / UDP(sport=5, dport=4789) / VXLAN(vni=4097, flags=8) / INNER,
            "172.17.0.2:5 > 172.17.0.3:4789 VXLAN 4097 | 10.0.1.5:4 > 10.0.1.7:80 TCP SA",
        ),
        (IP(src="10.0.1.5", dst="10.0.1.7") / UDP(sport=1, dport=2), "10.0.1.5:1 > 10.0.1.7:2 UDP"),
        (IP(src="10.0.1.5", dst="10.0.1.7") / ICMP(type=3, code=4), "10.0.1.5 > 10.0.1.7 ICMP type 3 code 4"),
        (IP(src="10.0.1.5", dst="10.0.1.7", proto=17, frag=2), "10.0.1.5 > 10.0.1.7 protocol 17 fragment at 16"),
        (IP(src="10.0.1.5", dst="10.0.1.7", proto=132), "10.0.1.5 > 10.0.1.7 protocol 132"),
    ],
)
def test_lines(packet: object, text: str) -> None:
    """The first bytes of a packet are enough for a line, and less than a header is no error."""
    data = bytes(packet)  # type: ignore[call-overload]
    assert line(data[:96], 0x0800) == text
    for size in range(len(data)):
        assert line(data[:size], 0x0800)


def test_other_lines() -> None:
    """ARP and what is unknown have a line, too."""
    assert line(bytes(ARP(psrc="10.0.1.5", pdst="10.0.1.7")), 0x0806) == "ARP who has 10.0.1.7, asks 10.0.1.5"
    assert line(b"x" * 39, 0x86DD) == "type 0x86dd"
    assert line(b"x" * 60, 0x88CC) == "type 0x88cc"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (TCP(sport=4, dport=80, flags="S"), "[::1]:4 > [fd00::7]:80 TCP S"),
        (UDP(sport=4, dport=80), "[::1]:4 > [fd00::7]:80 UDP"),
        (ICMPv6EchoRequest(), "::1 > fd00::7 ICMPv6 type 128 code 0"),
    ],
)
def test_lines_of_ipv6(body: object, text: str) -> None:
    """IPv6 has a line with addresses and ports, and less than a header is no error."""
    data = bytes(IPv6(src="::1", dst="fd00::7") / body)
    assert line(data, 0x86DD) == text
    for size in range(len(data)):
        assert line(data[:size], 0x86DD)
    assert line(bytes(IPv6(src="::1", dst="fd00::7", nh=132)), 0x86DD) == "::1 > fd00::7 next header 132"


def test_whose_reason() -> None:
    """A reason is meshnet's only where a tc program dropped and left its mark; else it is the kernel's."""
    words = Words({70: "tc_ingress", 3: "no_socket"}, [("none", ""), ("malformed", "cut off")])
    assert words.of(70, OWN_MARK | 1, "f") == ("malformed", True, "cut off")
    assert words.of(3, OWN_MARK | 1, "f") == ("no_socket", False, "in f")
    assert words.of(70, OWN_MARK, "f") == words.of(70, OWN_MARK | 2, "f") == ("tc_ingress", False, "in f")
    assert words.of(70, 0x6D6E, "f") == ("tc_ingress", False, "in f")
    assert words.of(99, 0, "f") == ("reason 99", False, "in f")


def segment(flags: str, payload: bytes = b"") -> bytes:
    options = [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]
    return bytes(IP(src="10.0.1.5", dst="10.0.1.7") / TCP(sport=4, dport=80, flags=flags, options=options) / payload)


QUEUE, INPUT = "sk_stream_kill_queues", "tcp_v4_rcv"


@pytest.mark.parametrize(
    ("reason", "function", "flags", "length", "settled"),
    [
        ("queue_purge", QUEUE, "FA", 0, True),
        ("not_specified", QUEUE, "FA", 0, True),  # as older kernels say it
        ("queue_purge", QUEUE, "FPA", 7, False),  # data that nobody read
        ("queue_purge", QUEUE, "A", 0, False),
        ("queue_purge", "tcp_disconnect", "FA", 0, False),
        ("socket_rcvbuff", QUEUE, "FA", 0, False),
        ("not_specified", INPUT, "RA", 32, True),
        ("not_specified", INPUT, "R", 32, True),
        ("not_specified", INPUT, "FA", 32, True),
        ("not_specified", INPUT, "FPA", 39, False),
        ("not_specified", INPUT, "A", 32, False),  # the accept queue may be full
        ("not_specified", INPUT, "S", 32, False),
        ("not_specified", INPUT, "SR", 32, False),
        ("no_socket", INPUT, "RA", 32, False),
        ("no_socket", INPUT, "S", 32, False),
        ("tcp_reset", "tcp_validate_incoming", "RA", 32, False),
        ("not_specified", "ip_rcv", "FA", 32, False),
    ],
)
def test_what_was_received(reason: str, function: str, flags: str, length: int, settled: bool) -> None:
    """A FIN or RST without data that a closed connection got is no drop; whatever may have been lost is one."""
    assert is_settled(reason, function, segment(flags, b"payload")[:96], 0x0800, length) == settled


def test_what_is_no_segment() -> None:
    """Other packets, later fragments and cut off headers settle nothing, and are no error."""
    assert tcp(segment("FA"), 0x0800) == (0x11, 32)
    fragment = bytes(IP(src="10.0.1.5", dst="10.0.1.7", proto=6, frag=2) / bytes(20))
    datagram = bytes(IP(src="10.0.1.5", dst="10.0.1.7") / UDP() / bytes(20))
    assert tcp(fragment, 0x0800) is tcp(datagram, 0x0800) is tcp(segment("FA"), 0x86DD) is None
    assert [tcp(segment("FA")[:size], 0x0800) for size in range(34)] == [None] * 34


FLOOD = f"""
import sys
from types import SimpleNamespace
sys.path.insert(0, {str(Path(drops.__file__).parent)!r})
import drop_process
sys.stdin.readline(), sys.stdin.readline()
drop_process.say(ready=True)
program = SimpleNamespace(ksym=lambda _: b"here")
numbers = dict.fromkeys(("space", "reason", "mark", "length", "protocol", "captured", "location"), 0)
while True:
    try:
        drop_process.show(program, SimpleNamespace(**numbers, device=b"eth0", data=b""))
    except OSError:
        pass  # bcc goes on
"""


def test_the_end_of_a_flood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that is closed ends at once, also while drops come faster than anybody reads them."""
    program, types = tmp_path / "flood.py", tmp_path / "btf"
    program.write_text(FLOOD)
    types.touch()
    monkeypatch.setattr(drops, "_PROGRAM", program)
    monkeypatch.setattr(drops, "_BTF", types)
    monkeypatch.setattr(drops, "Btf", lambda _: None)
    for name in ("source", "reasons"):
        monkeypatch.setattr(drop_program, name, lambda _: {})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ended = list[int]()
    wait = subprocess.Popen.wait

    def waited(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        ended.append(wait(process, timeout))
        return ended[-1]

    monkeypatch.setattr(subprocess.Popen, "wait", waited)
    with DropTrace(Scope({})):
        pass
    assert ended
    assert ended[-1] != -signal.SIGKILL


def test_a_lab_that_goes_down(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of a lab ends when the lab does, with a line that says so."""

    class Nothing:
        lost = 0

        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> Nothing:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, _: float) -> list[object]:
            return []

    looked = iter([Scope({})])

    def scope(lab: Lab, *_: str) -> Scope:
        for found in looked:
            return found
        raise FileNotFoundError(2, "No such file or directory", f"/run/{lab.name}/m0")

    answering(monkeypatch, {})
    monkeypatch.setattr(drops, "DropTrace", Nothing)
    monkeypatch.setattr(trace, "_REFRESH", 0.0)
    monkeypatch.setattr(trace_scope, "scope", scope)
    monkeypatch.setattr(state, "load", refuse)
    code, _, err = meshnet(capsys, monkeypatch, "trace", "drops")
    assert (code, err.splitlines()[-1]) == (1, "meshnet: the lab x is not up")


def refuse(name: str) -> Lab:
    raise NotFoundError(f"the lab {name} is not up")
