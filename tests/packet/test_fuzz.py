"""Frames that were broken on purpose, thrown at every packet program: nothing malformed comes out.

MESHNET_FUZZ sets how many frames each program gets (default 50,000); the generator is seeded, so a failure repeats.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from world import (
    CLIENT,
    EMPTY,
    GONE,
    INGRESS,
    LOCAL,
    NODE,
    OTHER,
    OUTSIDE,
    PLAN,
    PORTS,
    REMOTE,
    VIP,
    WEB,
    outside,
    received,
    task,
)

from meshnet.datapath.rows import Plan
from meshnet.kernel import netns
from meshnet.kernel.bpf import SkbContext
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, PASS, REDIRECT, UNDERLAY, PacketNode

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800)]
FRAMES = int(os.environ.get("MESHNET_FUZZ", "50000"))
VXLAN_HEADERS = 50


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


def _payloads() -> list[Any]:
    return [
        TCP(sport=4000, dport=80, flags="S"),
        TCP(sport=4000, dport=80, flags="PA") / b"data",
        TCP(sport=4000, dport=8000, flags="S"),
        TCP(sport=4000, dport=8001, flags="FA"),
        UDP(sport=4000, dport=80) / b"data",
        UDP(sport=4000, dport=8000) / bytes(1440),
        ICMP(type=8) / b"ping",
        ICMP(type=3, code=4, nexthopmtu=1300) / raw(IP(src=NODE, dst=OUTSIDE) / TCP(sport=8000, dport=4000)),
        ICMP(type=3, code=3) / raw(IP(src=CLIENT, dst=LOCAL) / UDP(sport=4000, dport=80)),
    ]


def _tasks_frames() -> list[bytes]:
    frames = [task(CLIENT, to, load) for to in (LOCAL, REMOTE, VIP, EMPTY, GONE, "192.0.2.1") for load in _payloads()]
    frames.append(Ether(src=mac_of(CLIENT)) / ARP(hwsrc=mac_of(CLIENT), psrc=CLIENT, pdst=VIP))
    return [raw(frame) for frame in frames]


def _underlay_frames() -> list[bytes]:
    frames = [outside(OUTSIDE, NODE, load) for load in _payloads()]
    for load in _payloads():
        named = Ether(src=mac_of("10.0.0.3"), dst=mac_of(WEB)) / IP(src=OUTSIDE, dst=OTHER) / load
        back = Ether(src=mac_of(WEB), dst="02:42:00:00:00:00") / IP(src=NODE, dst=OUTSIDE) / load
        frames += [received(task(REMOTE, CLIENT, load)), received(named, OTHER, INGRESS)]
        frames.append(received(back, OTHER, INGRESS))
    arp = Ether(src=mac_of(REMOTE)) / ARP(hwsrc=mac_of(REMOTE), psrc=REMOTE, pdst=CLIENT)
    return [raw(frame) for frame in [*frames, received(arp)]]


def _broken(rng: random.Random, frame: bytes) -> bytes:
    """The frame with some bytes changed, most of them in headers, and sometimes cut or lengthened."""
    data = bytearray(frame)
    for _ in range(rng.randrange(0, 4)):
        at = rng.randrange(min(len(data), rng.choice((42, 60, 110))))
        data[at] = rng.choice((0, 1, 0x45, 0x4F, 0x80, 0xFF, rng.randrange(256), data[at] ^ (1 << rng.randrange(8))))
    if rng.random() < 0.2:
        data = data[: rng.randrange(34, len(data) + 1)]
    elif rng.random() < 0.05:
        data += bytes(rng.randrange(1, 40))
    return bytes(data)


def _sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _wrong(frame: bytes, trusted: bool) -> str:
    """What is malformed about an IPv4 frame, or nothing. `trusted`: its checksums should be right, too."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 34:
        return ""
    header, length = (frame[14] & 15) * 4, int.from_bytes(frame[16:18], "big")
    if frame[14] >> 4 != 4 or header < 20 or length < header or 14 + length > len(frame):
        return "lengths"
    if trusted and _sum(frame[14 : 14 + header]) != 0xFFFF:
        return "IP checksum"
    offset, more = int.from_bytes(frame[20:22], "big") & 0x1FFF, frame[20] & 0x20
    protocol, body = frame[23], frame[14 + header : 14 + length]
    if not trusted or offset or more:
        return ""
    pseudo = frame[26:34] + bytes([0, protocol]) + len(body).to_bytes(2, "big")
    if protocol == 6 and (len(body) < 20 or _sum(pseudo + body) != 0xFFFF):
        return "TCP"
    if protocol == 1 and (len(body) < 8 or _sum(body) != 0xFFFF):
        return "ICMP"
    if protocol == 17:
        if len(body) < 8 or not 8 <= int.from_bytes(body[4:6], "big") <= len(body):
            return "UDP lengths"
        if body[6:8] != b"\0\0" and int.from_bytes(body[4:6], "big") == len(body) and _sum(pseudo + body) != 0xFFFF:
            return "UDP checksum"
    return ""


def _inner(frame: bytes) -> bytes:
    """The frame inside a tunnel packet, or the frame itself."""
    if (
        frame[12:14] == b"\x08\x00"
        and frame[14:15] == b"\x45"
        and frame[23:24] == b"\x11"
        and frame[36:38] == b"\x12\xb5"
    ):
        return frame[VXLAN_HEADERS:]
    return frame


@pytest.mark.parametrize(
    ("program", "port", "frames"),
    [("endpoint", PORTS[CLIENT], _tasks_frames()), ("uplink", UNDERLAY, _underlay_frames())],
    ids=["endpoint", "uplink"],
)
def test_fuzz(node: PacketNode, program: str, port: str, frames: list[bytes]) -> None:
    """Whatever comes in: the program ends, and what it sends on has lengths that agree, and checksums that are right
    if those of what came in were."""
    rng = random.Random(f"meshnet {program}")
    loaded, context = node.objects.progs[program], SkbContext(ifindex=node.ports[port])

    def inside() -> None:
        for number in range(FRAMES):
            frame = _broken(rng, rng.choice(frames))
            done = loaded.test_run(frame, context)
            assert done.retval in (PASS, DROP, REDIRECT), (number, frame.hex())
            if done.retval == REDIRECT:
                trusted = not _wrong(frame, True) and not _wrong(_inner(frame), True)
                for part in (done.data, _inner(done.data)):
                    wrong = _wrong(part, trusted)
                    assert not wrong, f"frame {number}: {wrong}\n{frame.hex()}\n{done.data.hex()}"

    netns.run_in(node.netns, inside)
