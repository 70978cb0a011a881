"""One node's packet programs, with maps filled from a plan, run on packets that are never sent.

    def test_it(bpf_run):                                        # or: with PacketNode(plan) as node: node.run(...)
        result = bpf_run("endpoint", packet, plan, port="mnta")
        result.verdict, result.packet, result.drops, result.events

The programs are the real ones and so are their maps; BPF_PROG_TEST_RUN shows what came out of a program, the
packet and the verdict, but not the device that a redirect names.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnet.datapath.ebpf import layout, reasons, tables, writer
from meshnet.datapath.rows import Plan
from meshnet.kernel import bpfbuild, bpfload, netns
from meshnet.kernel.bpf import Objects, Program, SkbContext
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import VethEnd, veth_add

PASS, DROP, REDIRECT = 0, 2, 7  # TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT
UNDERLAY, VXLAN, NODE_PORT = "eth0", "vx0", "mning0"
UNDERLAY_MAC = "02:00:00:00:00:0a"
ARRIVED = Path(__file__).with_name("arrived.c")
PROGRAMS = ("endpoint", "uplink", "overlay")
FLOW_TABLES = ("flows", "ingress_flows", "backend_flows", "moved", "masquerades", "fragments")

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Result:
    """What a program did: its verdict, the frame as it left, and what it counted (names in lower case)."""

    verdict: int
    data: bytes
    drops: Mapping[str, int]
    events: Mapping[str, int]
    mark: int

    @property
    def packet(self) -> Any:
        """The frame as scapy reads it."""
        from scapy.layers.l2 import Ether

        return Ether(self.data)


class PacketNode:
    """A namespace with the devices a plan names, and the packet programs loaded beside it."""

    def __init__(self, plan: Plan, sizes: Mapping[str, int] | None = None) -> None:
        """`sizes`: entries by map name, where a test wants a small one."""
        self.plan = plan
        name = f"{os.getpid()}-{next(_numbers)}"
        self.netns = f"mn-p{name}-packets"  # a lab under test is called t<pid>-<number>: never its namespace
        self.pins = Path(f"/sys/fs/bpf/meshnet_packets_{name}")
        self.ports: dict[str, int] = {}
        self._tunnels: Objects | None = None
        netns.create(self.netns)
        try:
            self._make_devices(UNDERLAY, VXLAN, NODE_PORT)
            paths = [path for path in bpfbuild.objects() if path.stem in PROGRAMS]
            self.objects = bpfload.load(paths, self.pins, sizes)
            self._names = reasons.read(bpfbuild.source_dir())
            self.apply(plan)
        except BaseException:
            self.close()
            raise

    def _make_devices(self, *names: str) -> None:
        with Netlink(self.netns) as link:
            for name in names:
                if name not in self.ports:
                    mac = UNDERLAY_MAC if name == UNDERLAY else None
                    link.send(veth_add(VethEnd(name, mac=mac), VethEnd(f"peer{len(self.ports)}")))
                    self.ports[name] = link.index(name)

    def __enter__(self) -> PacketNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes programs, maps and namespace."""
        if hasattr(self, "objects"):
            self.objects.close()
        if self._tunnels is not None:
            bpfload.unload(self._tunnels.directory)
            self._tunnels.close()
        bpfload.unload(self.pins)
        netns.delete(self.netns)

    def apply(self, plan: Plan) -> None:
        """Brings the maps to another plan, as the data path does."""
        self.plan = plan
        self._make_devices(*(row.port for row in plan.endpoints))
        facts = tables.Facts(
            node_cookie=1,
            underlay=self.ports[UNDERLAY],
            underlay_mac=layout.mac(UNDERLAY_MAC),
            vxlan=self.ports[VXLAN],
            node_port=self.ports[NODE_PORT],
            ports={row.port: self.ports[row.port] for row in plan.endpoints},
        )
        maps = self.objects.maps
        current = {name: maps[name].items() for name in tables.NAMES if name in maps}
        wanted = tables.tables(plan, facts, current)
        report = writer.write(maps, current, {name: wanted.get(name, {}) if name in maps else {} for name in wanted})
        assert report.errors == []

    def forget(self) -> None:
        """Empties what the programs wrote: connections, turns and counters."""
        maps = self.objects.maps
        for name in FLOW_TABLES:
            maps[name].discard(list(maps[name].keys()))
        for name in ("turns", "flow_slots"):
            for key, value in maps[name].items().items():
                if any(value):
                    maps[name].set(key, bytes(len(value)))
        for name in ("drops", "events"):
            for key in list(maps[name].keys()):
                maps[name].set(key, bytes(8 * maps[name].cpus))

    def run(
        self, program: str, packet: Any, *, port: str = "", gso_size: int = 0, tunnel: tuple[int, str] | None = None
    ) -> Result:
        """Runs `endpoint`, `uplink` or `overlay` on a scapy packet or bytes that came in; see `prepared`."""
        entry, context = self.prepared(program, port, gso_size, tunnel)
        before = self._counted()
        data = bytes(packet)
        done = netns.run_in(self.netns, lambda: entry.test_run(data, context))
        drops, events = (after - old for after, old in zip(self._counted(), before, strict=True))
        return Result(done.retval, done.data, dict(drops), dict(events), done.context.mark)

    def prepared(
        self, program: str, port: str = "", gso_size: int = 0, tunnel: tuple[int, str] | None = None
    ) -> tuple[Program, SkbContext]:
        """What to run, and as what kind of frame; to be run in `netns`.

        `port`: the device, by default the underlay's or the VXLAN device. `gso_size`: the frame is a GSO packet,
        to be cut into segments of that size later. `tunnel`: VNI and sender of the tunnel packet that the frame
        came out of, as the kernel's VXLAN device tells `overlay`; MeshnetError if that needs a compiler. ValueError
        names the programs and ports that there are.
        """
        device = port or {"uplink": UNDERLAY, "overlay": VXLAN}.get(program, "")
        if program not in PROGRAMS:
            raise ValueError(f"no packet program is called {program!r}; there are {', '.join(PROGRAMS)}")
        if device not in self.ports:
            raise ValueError(f"{program} runs at a port of the plan, not {device!r}: {', '.join(sorted(self.ports))}")
        segments = 2 if gso_size else 0
        if tunnel is None:
            return self.objects.progs[program], SkbContext(
                ifindex=self.ports[device], gso_size=gso_size, gso_segs=segments
            )
        vni, sender = tunnel
        key = (vni, int.from_bytes(socket.inet_aton(sender), "big"), 0, 0, 0)
        context = SkbContext(ifindex=self.ports[device], cb=key, gso_size=gso_size, gso_segs=segments)
        return self._arrived(self.objects.progs[program]), context

    def _arrived(self, program: Program) -> Program:
        """The program that makes a frame one out of a tunnel, and goes on with `program`."""
        if self._tunnels is None:
            self._tunnels = bpfload.load([bpfbuild.cached(ARRIVED)], self.pins.with_name(f"{self.pins.name}_arrived"))
        self._tunnels.maps["under_test"].set(bytes(4), program.fd.to_bytes(4, sys.byteorder))
        return self._tunnels.progs["arrived"]

    def _counted(self) -> tuple[Counter[str], Counter[str]]:
        return self._read("drops", list(self._names.drops)), self._read("events", list(self._names.events))

    def _read(self, name: str, names: list[str]) -> Counter[str]:
        values = self.objects.maps[name].items()
        step = 8
        return Counter(
            {
                names[int.from_bytes(key, "little")]: sum(
                    int.from_bytes(raw[at : at + step], "little") for at in range(0, len(raw), step)
                )
                for key, raw in values.items()
            }
        )


def tunnel_port(source: str, destination: str, source_port: int = 0, destination_port: int = 0) -> int:
    """The outer UDP source port that the programs derive from an inner packet (see `entropy` in bpf/tunnel.h)."""
    first, second = (int.from_bytes(socket.inet_aton(ip), "little") for ip in (source, destination))

    def swapped(port: int) -> int:
        return int.from_bytes(port.to_bytes(2, "big"), "little")

    mix = _mix(first, second, swapped(source_port) << 16 | swapped(destination_port))
    return 0xC000 | mix >> 18


def tunnel_id(inner_id: int, source: str, destination: str, source_port: int = 0, destination_port: int = 0) -> int:
    """The outer IP id for an inner packet."""
    first, second = (int.from_bytes(socket.inet_aton(ip), "little") for ip in (source, destination))

    def swapped(port: int) -> int:
        return int.from_bytes(port.to_bytes(2, "big"), "little")

    mix = _mix(first, second, swapped(source_port) << 16 | swapped(destination_port)) & 0xFFFF
    return swapped(swapped(inner_id) ^ mix)


def _mix(first: int, second: int, ports: int) -> int:
    return ((first ^ (second * 31 & 0xFFFFFFFF) ^ ports) * 0x9E3779B1) & 0xFFFFFFFF
