"""Tools for tests of meshnet and of what runs on it. docs/testing.md teaches them.

Names are imported when they are used, and scapy when a packet is looked at, so that the pytest plugin costs
other people's projects nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshnet.testing.bpf_run import PacketNode as PacketNode
    from meshnet.testing.bpf_run import Result as Result
    from meshnet.testing.captures import Capture as Capture
    from meshnet.testing.captures import capture as capture
    from meshnet.testing.checksums import wrong_checksums as wrong_checksums
    from meshnet.testing.labs import Host as Host
    from meshnet.testing.labs import LabUnderTest as LabUnderTest
    from meshnet.testing.lines import line as line
    from meshnet.testing.matchers import Match as Match
    from meshnet.testing.matchers import arp as arp
    from meshnet.testing.matchers import eth as eth
    from meshnet.testing.matchers import icmp as icmp
    from meshnet.testing.matchers import ip as ip
    from meshnet.testing.matchers import matching as matching
    from meshnet.testing.matchers import tcp as tcp
    from meshnet.testing.matchers import udp as udp
    from meshnet.testing.matchers import vxlan as vxlan
    from meshnet.testing.sending import send as send
    from meshnet.testing.sending import send_from as send_from
    from meshnet.testing.waiting import wait_until as wait_until
    from meshnet.testing.wires import Interface as Interface
    from meshnet.testing.wires import interface as interface

_HOMES = {
    "bpf_run": ("PacketNode", "Result"),
    "captures": ("Capture", "capture"),
    "checksums": ("wrong_checksums",),
    "labs": ("Host", "LabUnderTest"),
    "lines": ("line",),
    "matchers": ("Match", "arp", "eth", "icmp", "ip", "matching", "tcp", "udp", "vxlan"),
    "sending": ("send", "send_from"),
    "waiting": ("wait_until",),
    "wires": ("Interface", "interface"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
