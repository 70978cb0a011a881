"""Garbage at every door of a node: counted, dropped, and nobody else notices."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from meshnet import names
from meshnet.control.trust.tls import unverified_context
from meshnet.kernel import netns
from meshnet.lab import daemons, processes
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until
from meshnet.testing.wires import Interface, Wire, host, interface

pytestmark = pytest.mark.root
NODES = ("docker-0", "docker-1", "docker-2")
VICTIM = "docker-0"
GOSSIP, MANAGER = 7946, 2377


@pytest.fixture(autouse=True)
def unharmed(lab: LabUnderTest) -> Iterator[None]:
    """After each test the same processes run, and every member is alive for every other."""
    before = running(lab)
    yield
    assert running(lab) == before
    for node in NODES:
        lab.wait_until(partial(all_alive, lab, node), what=f"all members alive for {node}")
        for role in roles(node):
            log = processes.log_path(lab.name, node, role).read_text()
            assert "Traceback" not in log, log[-3000:]


def running(lab: LabUnderTest) -> dict[tuple[str, str], int]:
    """The process of each agent and manager: the oldest, since a child is called the same until it is a command."""
    return {(node, role): min(processes.pids(lab.name, node, role)) for node in NODES for role in roles(node)}


def roles(node: str) -> tuple[str, ...]:
    return (daemons.MANAGER, daemons.AGENT) if node == "docker-0" else (daemons.AGENT,)


def all_alive(lab: LabUnderTest, node: str) -> bool:
    return {m["Node"] for m in lab.inspect(node, "members") if m["State"] == "alive"} == set(NODES)


@pytest.fixture
def client(lab: LabUnderTest) -> Interface:
    return host(lab, "client")


@pytest.fixture
def victim(lab: LabUnderTest) -> Interface:
    return host(lab, VICTIM)


def refused(lab: LabUnderTest) -> int:
    """Gossip that the victim has dropped, for whatever reason."""
    counters: dict[str, int] = lab.inspect(VICTIM, "statistics")["Gossip"]
    return sum(value for key, value in counters.items() if key.startswith("dropped_"))


def overheard(lab: LabUnderTest, victim: Interface) -> bytes:
    """A real gossip datagram to the victim, as somebody on the underlay could record it."""
    with Wire(names.underlay_netns(lab.name)) as wire:

        def real() -> bytes:
            for frame in wire.heard():
                packet = Ether(frame)
                if UDP in packet and packet[UDP].dport == GOSSIP and packet[IP].dst == victim.ip:
                    return bytes(packet[UDP].payload)
            return b""

        return wait_until(real, what="gossip on the underlay")


def garbage() -> list[bytes]:
    """Datagrams of every first byte, of many lengths, and some that are almost something."""
    rng = random.Random(1)
    found = [bytes((first,)) + rng.randbytes(rng.choice((0, 1, 2, 3, 10, 100, 1400))) for first in range(256)]
    found += [bytes(size) for size in (1, 2, 28, 29, 64, 1399, 8000, 65507)]
    found += [b"\xff" * size for size in (1, 28, 29, 65507)]
    found += [b"\x00\x84\xa5SeqNo\x01\xa4Node\xa8docker-0", b"\x07\xff" + b"\x00" * 510, b"\x09" * 1000]
    found += [bytes((kind,)) + b"\xdf\xff\xff\xff\xff" * 20 for kind in range(14)]
    return found


def test_datagrams_that_are_nothing(lab: LabUnderTest, client: Interface, victim: Interface) -> None:
    """Every datagram that is no gossip is counted as dropped, whatever its first byte and its length."""
    with netns.socket_in(client.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        before = refused(lab)
        for index, data in enumerate(garbage(), 1):
            mouth.sendto(data, (victim.ip, GOSSIP))
            if index % 32 == 0:  # no faster than they are read: a lost one is not counted here
                wait_until(lambda seen=before + index: refused(lab) >= seen)  # type: ignore[misc]
        wait_until(lambda: refused(lab) >= before + len(garbage()), what="all counted")


def test_datagrams_that_were_something(lab: LabUnderTest, client: Interface, victim: Interface) -> None:
    """A real datagram cut at any length, or with any byte changed, is counted as dropped."""
    real = overheard(lab, victim)
    broken = [real[:size] for size in range(1, len(real))]
    broken += [real[:at] + bytes((real[at] ^ 1,)) + real[at + 1 :] for at in range(len(real))]
    broken = broken[:: max(1, len(broken) // 200)]
    with netns.socket_in(client.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        before = refused(lab)
        for index, data in enumerate(broken, 1):
            mouth.sendto(data, (victim.ip, GOSSIP))
            if index % 32 == 0:
                wait_until(lambda seen=before + index: refused(lab) >= seen)  # type: ignore[misc]
        wait_until(lambda: refused(lab) >= before + len(broken), what="all counted")


def test_a_replayed_datagram(lab: LabUnderTest, client: Interface, victim: Interface) -> None:
    """A recorded datagram played back by a stranger does no harm: no member appears, none is lost."""
    real = overheard(lab, victim)
    with netns.socket_in(client.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        received = lab.inspect(VICTIM, "statistics")["Gossip"]["datagrams_received"]
        for _ in range(50):
            mouth.sendto(real, (victim.ip, GOSSIP))
        wait_until(lambda: lab.inspect(VICTIM, "statistics")["Gossip"]["datagrams_received"] >= received + 50)
    assert {m["Node"] for m in lab.inspect(VICTIM, "members")} == set(NODES)


def connected(client: Interface, to: tuple[str, int]) -> socket.socket:
    found = netns.socket_in(client.netns, socket.AF_INET, socket.SOCK_STREAM)
    found.settimeout(5)
    found.connect(to)
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x0a\xff\xff\xff\xff" + b"x" * 1000,
        b"\x0a\x00\x00\x00\x10" + b"x" * 16,
        b"\x0a\x00\x00\x00\x00",
        b"\x0c\xff" + b"x" * 300,
        b"\x06\x84\xdf\xff\xff\xff\xff",
        os.urandom(100_000),
    ],
    ids=lambda data: f"{data[:6].hex()}x{len(data)}",
)
@pytest.mark.parametrize("half_closed", [False, True])
def test_streams_that_are_nothing(
    lab: LabUnderTest, client: Interface, victim: Interface, data: bytes, half_closed: bool
) -> None:
    """A stream that is no gossip is ended and counted, closed or half closed by the stranger."""

    def failed() -> int:
        counters: dict[str, int] = lab.inspect(VICTIM, "statistics")["Gossip"]
        return refused(lab) + counters.get("streams_failed", 0)

    before, accepted = failed(), lab.inspect(VICTIM, "statistics")["Gossip"].get("streams_accepted", 0)
    with connected(client, (victim.ip, GOSSIP)) as mouth:
        try:
            mouth.sendall(data)
            if half_closed:
                mouth.shutdown(socket.SHUT_WR)
                while mouth.recv(65536):
                    pass
        except OSError:
            assert data  # it was told to go before it was done
    wait_until(lambda: lab.inspect(VICTIM, "statistics")["Gossip"].get("streams_accepted", 0) > accepted)
    if data:
        wait_until(lambda: failed() > before, what="the stream counted")


def test_streams_that_say_nothing(lab: LabUnderTest, client: Interface, victim: Interface) -> None:
    """Hundreds of silent connections to the gossip port keep no member from being one."""
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(client, (victim.ip, GOSSIP)))
        lab.service("meanwhile", replicas=3)
        assert all_alive(lab, VICTIM)
        lab.remove("meanwhile")


@pytest.fixture(scope="module")
def asker(lab: LabUnderTest) -> Interface:
    """A task's interface, and in its namespace the resolver."""
    lab.network("dns")
    lab.service("asker", "alpine", "sleep", "1000000", networks=["dns"], constraints=[f"node.hostname=={VICTIM}"])
    return interface(lab, "asker.1", "dns")


def malformed(lab: LabUnderTest) -> int:
    (row,) = (row for row in lab.inspect(VICTIM, "dns") if row["Task"].startswith("asker."))
    return sum(value for key, value in row["Statistics"].items() if key.startswith("malformed_"))


NAMES_GARBAGE = [
    b"\x00",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00",
    b"\x12\x34\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3fshort\x00\x00\x01\x00\x01",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + b"\x3f" + b"a" * 300,
    b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x05asker\x00\x00\x01\x00\x01",
    b"\xff" * 512,
    bytes(65507),
    os.urandom(4096),
]


@pytest.mark.parametrize("data", NAMES_GARBAGE, ids=lambda data: f"{data[:14].hex()}x{len(data)}")
def test_names_garbage(lab: LabUnderTest, asker: Interface, data: bytes) -> None:
    """What is no DNS query is counted at 127.0.0.11, over UDP and TCP; the next question is answered."""
    before = malformed(lab)
    with netns.socket_in(asker.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.sendto(data, ("127.0.0.11", 53))
        wait_until(lambda: malformed(lab) > before, what="the datagram counted")
    before = malformed(lab)
    with netns.socket_in(asker.netns, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        stream.connect(("127.0.0.11", 53))
        stream.sendall(len(data).to_bytes(2, "big") + data)
        wait_until(lambda: malformed(lab) > before, what="the stream's query counted")
    assert lab.task("asker.1").out("dig +short +tries=1 tasks.asker") == asker.ip


def test_names_streams_that_say_nothing(lab: LabUnderTest, asker: Interface) -> None:
    """More silent connections to a resolver than it takes keep nobody from asking."""
    with ExitStack() as stack:
        for _ in range(200):
            stream = stack.enter_context(netns.socket_in(asker.netns, socket.AF_INET, socket.SOCK_STREAM))
            stream.settimeout(5)
            stream.connect(("127.0.0.11", 53))
            stream.sendall(b"\x00")
        assert lab.task("asker.1").out("dig +short +tries=1 tasks.asker") == asker.ip


REQUESTS = {
    "garbage": os.urandom(5000),
    "nothing": b"\r\n" * 1000,
    "endless-line": b"GET /" + b"a" * 1_000_000,
    "endless-header": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000,
    "many-headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000,
    "no-body": b"POST /v1/nodes/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{",
    "bad-length": b"POST /v1/nodes/join HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    "bad-chunks": b"POST /v1/nodes/join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "deep-json": b"POST /v1/nodes/join HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
    "wrong-json": b'POST /v1/nodes/join HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n{"Role": 1}',
    "slow": b"GET /v1/nodes/x/assignments",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
}


@pytest.mark.parametrize("kind", list(REQUESTS))
def test_manager_garbage(lab: LabUnderTest, client: Interface, victim: Interface, kind: str) -> None:
    """Broken, oversized, slow and half-closed requests at 2377 keep the manager from nothing."""
    data = REQUESTS[kind]
    before = len(lab.engine.nodes())
    with ExitStack() as stack:
        for half_closed in (False, True):
            mouth = stack.enter_context(connected(client, (victim.ip, MANAGER)))
            try:
                mouth.sendall(data)
                if half_closed:
                    mouth.shutdown(socket.SHUT_WR)
            except OSError:
                assert len(data) > 1000  # it was told to go before it was done
            assert len(lab.engine.nodes()) == before


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if kind != "tls"])
def test_manager_garbage_in_tls(lab: LabUnderTest, client: Interface, victim: Interface, kind: str) -> None:
    """The same behind a handshake, which a stranger gets through without a certificate."""
    data = REQUESTS[kind]
    before = len(lab.engine.nodes())
    with ExitStack() as stack:
        plain = stack.enter_context(connected(client, (victim.ip, MANAGER)))
        mouth = stack.enter_context(unverified_context().wrap_socket(plain))
        try:
            mouth.sendall(data)
        except OSError:
            assert len(data) > 1000  # it was told to go before it was done
        assert len(lab.engine.nodes()) == before


def test_a_crowd_at_the_manager(lab: LabUnderTest, client: Interface, victim: Interface) -> None:
    """While hundreds of requests hang half sent, a service is created, runs and goes."""
    with ExitStack() as stack:
        for index in range(400):
            mouth = stack.enter_context(connected(client, (victim.ip, MANAGER)))
            mouth.sendall(
                list(REQUESTS.values())[index % len(REQUESTS)][:500]
                if index % 2
                else b"POST /v1/nodes/join HTTP/1.1\r\n"
            )
        lab.service("meanwhile", replicas=3)
        lab.remove("meanwhile")
