"""What the hostile tests share: a swarm with two networks, a bad task in one of them, and ears everywhere."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from functools import partial
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from meshnet.control.allocator import VNI_OPTION
from meshnet.lab import converge
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until
from meshnet.testing.wires import Interface, Wire, drops, host, interface

_numbers = itertools.count(1)
PATIENCE = 30.0
HOSTS = ("docker-0", "docker-1", "docker-2", "client")
TASKS = (
    ("mallory", "red", "docker-0"),
    ("near", "red", "docker-0"),
    ("far", "red", "docker-1"),
    ("other", "blue", "docker-0"),
    ("beyond", "blue", "docker-1"),
)
PORTS = {"mallory": ["8001:8000"], "far": ["8002:8000"]}


def marker() -> bytes:
    """Bytes that no other packet of this run carries."""
    return f"<hostile {next(_numbers):06d}>".encode()


class World:
    """Mallory sits on network `red` (and ingress) on docker-0; `near` is red there too, `far` on docker-1.

    `other` and `beyond` are on `blue`, on docker-0 and docker-1. Each listens on 8000, TCP and UDP. `at` has their
    interfaces, those of the hosts, and as `ingress` and `far-ingress` those on the ingress network; `wires` has an
    ear and a mouth on each.
    """

    def __init__(self, lab: LabUnderTest, stack: ExitStack) -> None:
        self.lab = lab
        for network in ("red", "blue"):
            lab.network(network)
        for name, network, node in TASKS:
            lab.service(
                name,
                networks=[network],
                ports=PORTS.get(name, []),
                constraints=[f"node.hostname=={node}"],
                wait=False,
            )
        converge.wait(lab.engine, [name for name, _, _ in TASKS], lambda _: None, PATIENCE)
        self.at: dict[str, Interface] = {name: interface(lab, f"{name}.1", network) for name, network, _ in TASKS}
        self.at["ingress"] = interface(lab, "mallory.1", "ingress")
        self.at["far-ingress"] = interface(lab, "far.1", "ingress")
        self.at |= {name: host(lab, name) for name in HOSTS}
        self.wires = {name: stack.enter_context(Wire(at.netns, at.device)) for name, at in self.at.items()}
        self._wait_acquainted()

    def _wait_acquainted(self) -> None:
        """Until every node that runs one of the tasks knows where the others are."""
        wanted = {self.at[name].ip for name, _, _ in TASKS}
        for node in ("docker-0", "docker-1"):
            self.lab.wait_until(partial(self._knows, node, wanted))

    def _knows(self, node: str, addresses: set[str]) -> bool:
        return addresses <= {row["IP"] for row in self.lab.inspect(node, "endpoints")}

    def vni(self, network: str) -> int:
        """The VXLAN network identifier of a network."""
        return int(self.lab.engine.network(network)["Options"][VNI_OPTION])

    def gateway(self, network: str) -> str:
        """The gateway's address on a network."""
        gateway: str = self.lab.engine.network(network)["IPAM"]["Config"][0]["Gateway"]
        return gateway

    def node_ingress(self, node: str) -> str:
        """A node's own address on the ingress network."""
        ident = self.lab.engine.node(node).id
        rows = self.lab.inspect(node, "endpoints")
        (found,) = (row["IP"] for row in rows if row["Owner"] == ident and not row["Task"])
        return str(found)

    def frame(self, to: str, payload: Packet, source: str = "mallory", **fields: Any) -> Packet:
        """A frame from a task, honest unless `fields` of IP say otherwise."""
        here = self.at[source]
        mac = "02:42:" + ":".join(f"{int(octet):02x}" for octet in to.split("."))
        return Ether(src=here.mac, dst=mac) / IP(**{"src": here.ip, "dst": to, **fields}) / payload

    def dropped(
        self, frame: Packet, reason: str, source: str = "mallory", node: str = "docker-0", but: tuple[str, ...] = ()
    ) -> None:
        """Sends a frame and asserts that `node` drops it, counts it under `reason`, and that nobody hears it.

        The frame carries a marker in its payload, which is how it would be recognized. `but` are those on whose
        devices it must come by.
        """
        mark = marker()
        for wire in self.wires.values():
            wire.heard()
        before = drops(self.lab, node)
        self.wires[source].send(bytes(frame / Raw(mark)))
        try:
            wait_until(lambda: drops(self.lab, node)[reason] > before[reason], what=f"drop.{reason}")
        except AssertionError:
            after = drops(self.lab, node)
            changed = {key: after[key] - before[key] for key in after if after[key] != before[key]}
            heard = [name for name, wire in self.wires.items() if wire.heard(mark)]
            raise AssertionError(f"no drop.{reason}; counted {changed}; heard by {heard}: {frame!r}") from None
        assert drops(self.lab, node)[reason] == before[reason] + 1
        self.silent(mark, (source, *but))

    def delivered(self, frame: Packet, to: str, source: str = "mallory") -> bytes:
        """Sends a frame that must arrive at `to`, and returns it as it was heard there."""
        mark = marker()
        self.wires[to].heard()
        self.wires[source].send(bytes(frame / Raw(mark)))
        found: list[bytes] = wait_until(lambda: self.wires[to].heard(mark), what=f"the frame at {to}: {frame!r}")
        return found[0]

    def ignored(self, frame: Packet, fence: Packet, fence_to: str, source: str = "mallory") -> None:
        """Sends a frame and asserts that nobody hears it, where a frame sent after it on the same way is heard."""
        mark = marker()
        for wire in self.wires.values():
            wire.heard()
        self.wires[source].send(bytes(frame / Raw(mark)))
        heard = {name: wire.heard(mark) for name, wire in self.wires.items() if name != source}
        self.delivered(fence, fence_to, source)
        for name, wire in self.wires.items():
            assert name == source or not heard[name] + wire.heard(mark), f"{name} heard {frame!r}"

    def silent(self, mark: bytes, but: tuple[str, ...] = ()) -> None:
        """Asserts that nobody has heard the mark since the wires were last listened to."""
        heard = {name: wire.heard(mark) for name, wire in self.wires.items() if name not in but}
        loud = {name: Ether(frames[0]) for name, frames in heard.items() if frames}
        assert not loud, loud


def vxlan(outer: Interface, to: Interface, vni: int, inner: Packet, source: str = "") -> Packet:
    """A VXLAN packet from one underlay host to another, `source` if the sender lies about its address."""
    link = Ether(src=outer.mac, dst=to.mac) / IP(src=source or outer.ip, dst=to.ip)
    return link / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=vni, flags=8) / inner
