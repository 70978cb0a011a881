"""127.0.0.11:53 inside a task: the program on lo, byte for byte and with dig."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dnslib import EDNS0, DNSQuestion, DNSRecord
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT
from meshnet.dns.server import Resolver
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone
from meshnet.kernel import bpfbuild, bpfload, netns, tc
from meshnet.kernel.bpf import Program, ensure_bpffs
from meshnet.kernel.netlink import Netlink

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig: apt-get install dnsutils"),
]

R = RESOLVER_PORT
TASKS = 900


def zone(tasks: int) -> Zone:
    """One service of so many tasks."""
    view = ServiceView("s", "web", vip="10.0.0.2")
    endpoints = tuple(
        EndpointView("s", "web", n, f"t{n}", f"web.{n}.t{n}", f"{n:012x}", "", f"10.0.{n >> 8}.{n & 255}")
        for n in range(3, 3 + tasks)
    )
    return build_zone((NetworkView("net", (view,), endpoints),))


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    ensure_bpffs()
    directory = Path(f"/sys/fs/bpf/meshnet_dns_test_{os.getpid()}")
    (source,) = (path for path in bpfbuild.objects() if path.name == "lo.o")
    try:
        with bpfload.load([source], directory) as loaded:
            yield loaded.progs["lo_steer"]
    finally:
        bpfload.unload(directory)


@pytest.fixture
def task(namespaces: Callable[..., str], program: Program) -> str:
    """A task's namespace with the program on lo and an address of its own besides 127.0.0.1."""
    name = namespaces("dns")

    def inside() -> None:
        with Netlink() as netlink:
            tc.attach(socket.if_nametoindex("lo"), tc.EGRESS, program, netlink)
        subprocess.run(["ip", "address", "add", "10.9.9.9/32", "dev", "lo"], check=True)

    netns.run_in(name, inside)
    return name


@asynccontextmanager
async def resolver(task: str, tasks: int = TASKS) -> AsyncIterator[Resolver]:
    """The resolver, served by this process in its own namespace, on sockets of the task's namespace."""
    udp, tcp = (netns.socket_in(task, socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
    for sock in (udp, tcp):
        sock.bind((RESOLVER_ADDRESS, RESOLVER_PORT))
    serving = Resolver(udp, tcp, zone(tasks), ())
    await serving.start()
    try:
        yield serving
    finally:
        await serving.stop()


def dig(task: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """dig inside the task; it takes an answer only from the address and port that it asked."""
    command = ["dig", "-r", "+tries=1", "+time=20", *arguments]
    return netns.run_in(task, lambda: subprocess.run(command, capture_output=True, text=True, check=False))


def in_task(task: str, *digs: tuple[str, ...]) -> list[subprocess.CompletedProcess[str]]:
    """Runs several digs one after the other while the resolver serves."""

    async def scenario() -> list[subprocess.CompletedProcess[str]]:
        async with resolver(task):
            return [await asyncio.to_thread(dig, task, *arguments) for arguments in digs]

    return asyncio.run(scenario())


def test_dig_gets_answers_over_udp_and_tcp(task: str) -> None:
    """An ordinary client asks 127.0.0.11 port 53, from either of its addresses, and takes what comes for the answer."""
    at = f"@{RESOLVER_ADDRESS}"
    digs = [
        (at, "+short", transport, "-b", source, "web")
        for transport in ("+notcp", "+tcp")
        for source in ("127.0.0.1", "10.9.9.9", "0.0.0.0")
    ]
    for done in in_task(task, *digs):
        assert (done.returncode, done.stdout, done.stderr) == (0, "10.0.0.2\n", ""), done.args
    (unknown,) = in_task(task, (at, "nowhere.example"))
    assert "status: SERVFAIL" in unknown.stdout


def test_dig_gets_large_answers(task: str) -> None:
    """A 14 kB answer arrives whole by UDP with a large EDNS size, by TCP, and by TCP after a truncated one."""
    at = f"@{RESOLVER_ADDRESS}"
    large, tcp, retried = in_task(
        task,
        (at, "+short", "+bufsize=32000", "+ignore", "tasks.web"),
        (at, "+short", "+tcp", "tasks.web"),
        (at, "+short", "+noedns", "tasks.web"),
    )
    for done in (large, tcp, retried):
        assert len(done.stdout.split()) == TASKS, done.stdout[:500] + done.stderr


def test_the_longest_datagram(task: str) -> None:
    """An answer of 64 kB comes whole in one datagram to whoever says that it takes it, as HAProxy does."""
    query = DNSRecord(q=DNSQuestion("tasks.web"))
    query.add_ar(EDNS0(udp_len=65507))

    async def scenario() -> bytes:
        async with resolver(task, 4000):
            with netns.socket_in(task, socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect((RESOLVER_ADDRESS, 53))
                client.send(query.pack())
                async with asyncio.timeout(30):
                    return await asyncio.get_running_loop().sock_recv(client, 65535)

    data = asyncio.run(scenario())
    reply = DNSRecord.parse(data)
    assert len(data) > 64000
    assert (reply.header.tc, len(reply.rr)) == (0, 4000)


def test_dig_without_the_program_finds_nobody(namespaces: Callable[..., str]) -> None:
    """It is the program that steers: without it nobody answers on 127.0.0.11:53."""
    (done,) = in_task(namespaces("bare"), (f"@{RESOLVER_ADDRESS}", "+time=1", "+short", "web"))
    assert done.returncode != 0
    assert "10.0.0.2" not in done.stdout


def echo(udp: socket.socket, tcp: socket.socket, stop: threading.Event) -> None:
    """A task's own server on port 53: answers each datagram and each connection with "own:" and what came."""
    for sock in (udp, tcp):
        sock.settimeout(0.05)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            data, client = udp.recvfrom(100)
            udp.sendto(b"own:" + data, client)
        with contextlib.suppress(TimeoutError):
            connection, _ = tcp.accept()
            with connection:
                connection.sendall(b"own:" + connection.recv(100))


def test_a_task_may_bind_port_53_itself(task: str) -> None:
    """A server on *:53 (UDP and TCP) is reached on the task's addresses; 127.0.0.11 is the resolver's."""
    kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    udp, tcp = (netns.socket_in(task, socket.AF_INET, kind) for kind in kinds)
    stop = threading.Event()
    server = threading.Thread(target=echo, args=(udp, tcp, stop))
    with udp, tcp:
        for sock in (udp, tcp):
            sock.bind(("0.0.0.0", 53))
        tcp.listen()
        server.start()
        try:
            for address in ("127.0.0.1", "10.9.9.9"):
                for kind in kinds:
                    with netns.socket_in(task, socket.AF_INET, kind) as client:
                        client.settimeout(20)
                        client.connect((address, 53))
                        client.sendall(b"hello")
                        assert client.recv(100) == b"own:hello"
            at = f"@{RESOLVER_ADDRESS}"
            for done in in_task(task, (at, "+short", "web"), (at, "+short", "+tcp", "web")):
                assert done.stdout == "10.0.0.2\n"
        finally:
            stop.set()
            server.join()


QUERY = Raw(b"any payload, odd length")
OPTIONS = [("NOP", None), ("Timestamp", (1, 2))]
STEERED = {
    "UDP query": (
        IP(src="127.0.0.1", dst="127.0.0.11") / UDP(sport=4000, dport=53) / QUERY,
        IP(src="127.0.0.1", dst="127.0.0.11") / UDP(sport=4000, dport=R) / QUERY,
    ),
    "UDP answer": (
        IP(src="127.0.0.11", dst="10.9.9.9") / UDP(sport=R, dport=4000) / QUERY,
        IP(src="127.0.0.11", dst="10.9.9.9") / UDP(sport=53, dport=4000) / QUERY,
    ),
    "UDP without checksum": (
        IP(src="127.0.0.1", dst="127.0.0.11") / UDP(sport=4000, dport=53, chksum=0) / QUERY,
        IP(src="127.0.0.1", dst="127.0.0.11") / UDP(sport=4000, dport=R, chksum=0) / QUERY,
    ),
    "TCP SYN": (
        IP(src="10.9.9.9", dst="127.0.0.11") / TCP(sport=4000, dport=53, flags="S", options=OPTIONS),
        IP(src="10.9.9.9", dst="127.0.0.11") / TCP(sport=4000, dport=R, flags="S", options=OPTIONS),
    ),
    "TCP answer": (
        IP(src="127.0.0.11", dst="127.0.0.1") / TCP(sport=R, dport=4000, flags="PA") / QUERY,
        IP(src="127.0.0.11", dst="127.0.0.1") / TCP(sport=53, dport=4000, flags="PA") / QUERY,
    ),
    "IP options": (
        IP(src="127.0.0.1", dst="127.0.0.11", options=b"\x94\x04\0\0") / UDP(sport=4000, dport=53) / QUERY,
        IP(src="127.0.0.1", dst="127.0.0.11", options=b"\x94\x04\0\0") / UDP(sport=4000, dport=R) / QUERY,
    ),
}
UNTOUCHED = {
    "another loopback address": IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=4000, dport=53) / QUERY,
    "its own server's answer": IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=R, dport=4000) / QUERY,
    "another port": IP(src="127.0.0.1", dst="127.0.0.11") / TCP(sport=4000, dport=80),
    "the resolver's port itself": IP(src="127.0.0.1", dst="127.0.0.11") / UDP(sport=4000, dport=R) / QUERY,
    "another port's answer": IP(src="127.0.0.11", dst="127.0.0.1") / TCP(sport=80, dport=4000),
    "a later fragment": IP(src="127.0.0.1", dst="127.0.0.11", frag=9, proto=17) / UDP(dport=53) / QUERY,
    "ICMP": IP(src="127.0.0.1", dst="127.0.0.11") / ICMP() / Raw(b"\0\x35\0\x35"),
    "IPv6": IPv6(src="::1", dst="::1") / UDP(sport=4000, dport=53) / QUERY,
    "ARP": ARP(psrc="127.0.0.1", pdst="127.0.0.11"),
    "cut before the ports": IP(src="127.0.0.1", dst="127.0.0.11", proto=17) / Raw(b"\0\x35"),
    "cut before the checksum": IP(src="127.0.0.1", dst="127.0.0.11", proto=17) / Raw(b"\x0f\xa0\0\x35\0"),
    "header length beyond the end": IP(src="127.0.0.1", dst="127.0.0.11", ihl=15, proto=17) / UDP(dport=53),
}


@pytest.mark.parametrize("name", STEERED)
def test_steered_packets(program: Program, name: str) -> None:
    """The port is swapped, the checksum is right, nothing else changes, and the packet goes on."""
    before, after = STEERED[name]
    result = program.test_run(bytes(Ether(dst="0:0:0:0:0:0", src="0:0:0:0:0:0") / before))
    wanted = Ether(bytes(Ether(dst="0:0:0:0:0:0", src="0:0:0:0:0:0") / after))
    assert result.retval == 0
    assert Ether(result.data).show(dump=True) == wanted.show(dump=True)
    assert result.data == bytes(wanted)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_other_packets_are_left_alone(program: Program, name: str) -> None:
    """Whatever is not between a client and the resolver passes unchanged, however malformed."""
    packet = bytes(Ether(dst="0:0:0:0:0:0", src="0:0:0:0:0:0") / UNTOUCHED[name])
    result = program.test_run(packet)
    assert (result.retval, result.data) == (0, packet)
