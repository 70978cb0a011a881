"""`meshnet trace drops`: what the kernel and meshnet drop in a lab, as it happens, of one task or service, or all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import NODES, at, box, vip
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from meshnet.cli.trace_scope import scope
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import mac_of
from meshnet.observe.drops import Drop, DropTrace
from meshnet.testing import interface, send, send_from
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def services(lab: LabUnderTest) -> None:
    """whoami on docker-1, two boxes to send from on docker-0; skipped where bcc cannot work."""
    try:
        DropTrace(scope(lab.spec)).__enter__().close()
    except MeshnetError as error:
        pytest.skip(str(error))
    lab.network("demo")
    lab.service("whoami", networks=["demo"], constraints=at("docker-1"))
    box(lab, "box", "docker-0", "demo")
    box(lab, "bystander", "docker-0", "demo")


class Traced:
    """A trace that runs, and what it has shown."""

    def __init__(self, trace: DropTrace) -> None:
        self.trace = trace
        self.drops: list[Drop] = []

    def until(self, lab: LabUnderTest, wanted: Callable[[Drop], bool]) -> Drop:
        """Reads until a drop is the wanted one."""

        def look() -> list[Drop]:
            self.drops += self.trace.read(0.05)
            return [drop for drop in self.drops if wanted(drop)]

        try:
            return lab.wait_until(look)[0]
        except AssertionError:
            raise AssertionError("\n".join(["not traced; seen:", *map(str, self.drops)])) from None


@contextmanager
def tracing(lab: LabUnderTest, everything: bool = False, **what: str) -> Iterator[Traced]:
    with DropTrace(scope(lab.spec, **what), everything) as trace:
        yield Traced(trace)


def lie(lab: LabUnderTest, name: str, port: int) -> None:
    """A datagram of a task's in the name of another address."""
    here = interface(lab, name, "demo")
    to = interface(lab, "whoami.1", "demo").ip
    send(here, Ether(src=here.mac, dst=mac_of(to)) / IP(src="10.0.1.250", dst=to) / UDP(sport=1, dport=port) / b"x")


def stray(lab: LabUnderTest, name: str, port: int) -> None:
    """A datagram of a task's to an address that nobody has."""
    here = interface(lab, name, "demo")
    to = "10.0.1.254"
    send(here, Ether(src=here.mac, dst=mac_of(to)) / IP(src=here.ip, dst=to) / UDP(sport=1, dport=port) / b"x")


def test_own_reasons(lab: LabUnderTest) -> None:
    """What a packet program drops is shown with meshnet's reason, the node, the interface and the packet."""
    to = interface(lab, "whoami.1", "demo").ip
    with tracing(lab) as traced:
        lie(lab, "box.1", 4001)
        drop = traced.until(lab, lambda drop: ":4001" in drop.packet)
    assert (drop.where, drop.reason, drop.own) == ("docker-0", "spoofed_ip", True)
    assert drop.meaning == "the sender's address is not the endpoint's"
    assert drop.device.startswith("mnt")
    assert drop.packet == f"10.0.1.250:1 > {to}:4001 UDP"


def test_the_kernels_reasons(lab: LabUnderTest) -> None:
    """What the kernel drops in a task is shown with its reason and function, under the task's name."""
    target = interface(lab, "whoami.1", "demo")
    with tracing(lab) as traced:
        send_from(lab.task("box.1"), IP(dst=target.ip) / UDP(sport=1, dport=4002) / b"x")
        drop = traced.until(lab, lambda drop: ":4002" in drop.packet)
    assert (drop.where, drop.device, drop.reason, drop.own) == ("whoami.1", target.device, "no_socket", False)
    assert drop.meaning.startswith("in ")


def test_connections_that_end(lab: LabUnderTest) -> None:
    """What the kernel clears away of connections that were closed in order is shown only with everything; a connection
    that is refused is a drop in any case."""
    to = interface(lab, "whoami.1", "demo").ip
    with tracing(lab, everything=True) as everything, tracing(lab) as traced:
        lab.task("box.1").out(f"for n in $(seq 5); do curl -sS -m 2 {to}:8000 || exit 1; done")
        lab.task("box.1").run(f"curl -s -m 2 {to}:4010")
        everything.until(lab, lambda drop: ":8000" in drop.packet and drop.packet.endswith("TCP FA"))
        refused = traced.until(lab, lambda drop: ":4010" in drop.packet)
    assert (refused.reason, refused.packet.endswith("TCP S")) == ("no_socket", True)
    assert not [drop for drop in traced.drops if ":8000" in drop.packet]


def test_what_is_no_packet(lab: LabUnderTest) -> None:
    """What processes of a task say to one another, and to the kernel, is not shown, also when nobody read it."""
    unread = "a, b = socket.socketpair(); a.send(b'x'); b.close(); a.close()"
    question = "struct.pack('=IHHIIB', 17, 18, 0x301, 1, 0, 0)"  # which links are there?
    asked = f"n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.send({question}); n.close()"
    to = interface(lab, "whoami.1", "demo").ip
    with tracing(lab) as traced:
        lab.task("box.1").out(f'/usr/bin/python3 -c "import socket, struct; {unread}; {asked}"')
        send_from(lab.task("box.1"), IP(dst=to) / UDP(sport=1, dport=4011) / b"x")
        traced.until(lab, lambda drop: ":4011" in drop.packet)
    assert not [drop for drop in traced.drops if drop.packet.startswith("type 0x0000")], traced.drops


def test_a_tunnel(lab: LabUnderTest) -> None:
    """A tunnel packet from a stranger is shown with its VNI and what is inside."""
    from scapy.layers.vxlan import VXLAN

    inner = Ether() / IP(src="10.0.1.250", dst="10.0.1.99") / TCP(dport=4003)
    with tracing(lab) as traced:
        packet = IP(dst=NODES["docker-1"]) / UDP(sport=9, dport=4789, chksum=0) / VXLAN(vni=4097, flags=8) / inner
        send_from(lab.client(), packet)
        drop = traced.until(lab, lambda drop: ":4003" in drop.packet)
    assert (drop.where, drop.device, drop.reason) == ("docker-1", "eth0", "unknown_member")
    assert drop.packet.endswith("VXLAN 4097 | 10.0.1.250:20 > 10.0.1.99:4003 TCP S")


def test_one_tasks_packets(lab: LabUnderTest) -> None:
    """With a task, only its packets are shown, wherever they are dropped."""
    own, other = interface(lab, "box.1", "demo"), interface(lab, "bystander.1", "demo")
    with tracing(lab, task="box.1") as traced:
        stray(lab, "bystander.1", 4004)
        stray(lab, "box.1", 4004)
        send_from(lab.task("whoami.1"), IP(dst=own.ip) / UDP(sport=1, dport=4005) / b"x")
        traced.until(lab, lambda drop: ":4004" in drop.packet)
        traced.until(lab, lambda drop: ":4005" in drop.packet and drop.where == "box.1")
    assert all(own.ip in drop.packet or drop.where == "box.1" for drop in traced.drops), traced.drops
    assert not [drop for drop in traced.drops if other.ip in drop.packet]


def test_one_services_packets(lab: LabUnderTest) -> None:
    """With a service, packets for its VIP count as its own, also those of others that are dropped on the way."""
    address = vip(lab)
    with tracing(lab, service="whoami") as traced:
        here = interface(lab, "box.1", "demo")
        send(here, Ether(src="02:42:0a:00:01:fa", dst=mac_of(address)) / IP(src=here.ip, dst=address) / UDP(dport=4006))
        lie(lab, "bystander.1", 4007)
        assert traced.until(lab, lambda drop: ":4006" in drop.packet).reason == "spoofed_mac"
        assert traced.until(lab, lambda drop: ":4007" in drop.packet).reason == "spoofed_ip"
    with pytest.raises(NotFoundError, match="no service nobody"):
        scope(lab.spec, service="nobody")


def test_a_task_that_comes_later(lab: LabUnderTest) -> None:
    """What is looked at can change while the trace runs."""
    with tracing(lab, service="whoami") as traced:
        traced.trace.look_at(scope(lab.spec, task="bystander.1"))
        stray(lab, "bystander.1", 4008)
        assert traced.until(lab, lambda drop: ":4008" in drop.packet).reason == "unknown_endpoint"


def test_the_command(lab: LabUnderTest) -> None:
    """The verb prints a line, or a JSON object, per drop, ends after as many as were asked for, and leaves nothing."""
    for form in ([], ["--json"]):
        words = [sys.executable, "-m", "meshnet.cli", "trace", "drops", "--lab", lab.name, "--task", "box.1"]
        with subprocess.Popen(
            [*words, "--count", "1", *form], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            assert "tracing drops" in process.stderr.readline()
            stray(lab, "box.1", 4009)
            line = process.stdout.readline()
            assert process.wait(20) == 0
        if not form:
            assert "unknown_endpoint" in line
            assert "10.0.1.254:4009 UDP" in line
        else:
            found: dict[str, Any] = json.loads(line)
            assert (found["Where"], found["Reason"], found["Own"]) == ("docker-0", "unknown_endpoint", True)


def test_without_bcc(lab: LabUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where bcc is missing, one line says so with the fix."""
    without = tmp_path / "python3"
    without.write_text('#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n')
    without.chmod(0o755)
    monkeypatch.setattr("meshnet.observe.drops.PYTHON", str(without))
    with pytest.raises(MeshnetError, match=r"bcc is not installed for .*: apt-get install python3-bpfcc"):
        DropTrace(scope(lab.spec)).__enter__()
