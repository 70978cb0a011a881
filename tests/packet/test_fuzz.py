"""Frames that were broken on purpose, thrown at every packet program: nothing malformed comes out.

MESHNET_FUZZ sets how many frames all programs get together (200,000 if it is not set), and each gets a quarter of it:
the three here, and the one on lo in test_dns_kernel.py. The generators are seeded, so a failure repeats.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from wellformed import lengths, problem
from world import (
    CLIENT,
    DEMO,
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
    STRANGER,
    VIP,
    WEB,
    outside,
    received,
    task,
)

from meshnet.datapath.rows import Plan
from meshnet.kernel import netns
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, PASS, REDIRECT, UNDERLAY, VXLAN, PacketNode

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.fuzz, pytest.mark.timeout(1800)]
CLOSED = replace(PLAN, closed=tuple(row.task for row in PLAN.endpoints))  # the plan of the second half
FRAMES = int(os.environ.get("MESHNET_FUZZ", "200000")) // 4


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
        frames += [received(frame) for frame in _demo_frames(load)]
        frames += [received(frame, OTHER, INGRESS) for frame in _ingress_frames(load)]
    return [raw(frame) for frame in [*frames, received(_asking())]]


def _demo_frames(load: Any) -> list[Any]:
    return [task(REMOTE, to, load) for to in (CLIENT, GONE)]


def _ingress_frames(load: Any) -> list[Any]:
    """A request to a published port on its way to the task here, and the reply of one elsewhere on its way back."""
    named = Ether(src=mac_of("10.0.0.3"), dst=mac_of(WEB)) / IP(src=OUTSIDE, dst=OTHER) / load
    back = Ether(src=mac_of(WEB), dst="02:42:00:00:00:00") / IP(src=NODE, dst=OUTSIDE) / load
    return [named, back]


def _asking() -> Any:
    return Ether(src=mac_of(REMOTE)) / ARP(hwsrc=mac_of(REMOTE), psrc=REMOTE, pdst=CLIENT)


def _inner_frames() -> list[bytes]:
    """What the kernel's VXLAN device takes out of a member's tunnels."""
    frames = [_asking()]
    for load in _payloads():
        frames += [*_demo_frames(load), *_ingress_frames(load)]
    return [raw(frame) for frame in frames]


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


@dataclass(frozen=True)
class Target:
    """A program, the device that its frames come in at, whole frames to begin with, and tunnels they came out of."""

    program: str
    port: str
    frames: list[bytes]
    tunnels: tuple[tuple[int, str] | None, ...] = (None,)


TARGETS = (
    Target("endpoint", PORTS[CLIENT], _tasks_frames()),
    Target("uplink", UNDERLAY, _underlay_frames()),
    Target("overlay", VXLAN, _inner_frames(), ((DEMO, OTHER), (INGRESS, OTHER), (DEMO, STRANGER), (9999, OTHER))),
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.program)
def test_fuzz(node: PacketNode, target: Target) -> None:
    """Whatever comes in: the program ends, and what it sends on has lengths that agree, and checksums that are right
    if those of what came in were. What it leaves to the node's stack is as it came."""
    rng = random.Random(f"meshnet {target.program}")
    verdicts: Counter[int] = Counter()

    def inside() -> None:
        for number in range(FRAMES):
            if number == FRAMES // 2:
                node.apply(CLOSED)
            frame = _broken(rng, rng.choice(target.frames))
            size = rng.choice((0,) * 9 + (500,))  # a GSO packet, now and then
            entry, context = node.prepared(target.program, target.port, size, rng.choice(target.tunnels))
            done = entry.test_run(frame, context)
            verdicts[done.retval] += 1
            if done.retval == REDIRECT:
                wrong = problem(frame, done.data)
            elif done.retval == PASS:
                # What a task sends beyond the overlay is forwarded; on the underlay it is for the node to judge.
                wrong = "changed" if done.data != frame else lengths(frame) if target.program == "endpoint" else ""
            else:
                wrong = "" if done.retval == DROP else f"verdict {done.retval}"
            assert not wrong, f"frame {number}, gso {size}: {wrong}\n{frame.hex()}\n{done.data.hex()}"

    netns.run_in(node.netns, inside)
    assert min(verdicts[each] for each in (PASS, DROP, REDIRECT)) > FRAMES // 100, verdicts
