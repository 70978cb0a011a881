"""The program on lo answers like user space: byte for byte, over sockets, each task by its own networks."""

from __future__ import annotations

import os
import random
import select
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from wellformed import broken, lengths

from meshnet.agent.zones import plain_names
from meshnet.datapath.ebpf.names import Names
from meshnet.datapath.rows import ZoneRow
from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT
from meshnet.dns.answer import TTL, Reply, answer
from meshnet.dns.names import wire_name
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone
from meshnet.kernel import netns, tc
from meshnet.kernel.netlink import Netlink
from meshnet.testing.dns_run import KernelNames, query_frame

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]
FUZZ = int(os.environ.get("MESHNET_FUZZ", "200000")) // 8  # see test_fuzz.py: a quarter, for two tests


def tasks(service: str, subnet: str, count: int) -> tuple[EndpointView, ...]:
    return tuple(
        EndpointView(service, service, n, f"{service}{n}", f"{service}.{n}.t{n}", f"{n:012x}", "", f"{subnet}{n}")
        for n in range(11, 11 + count)
    )


NET = NetworkView(
    "net",
    (ServiceView("web", "web", vip="10.0.0.2"), ServiceView("big", "big", vip="10.0.0.3"), ServiceView("o", "off")),
    (*tasks("web", "10.0.0.", 3), *tasks("big", "10.0.1.", 40), *tasks("sixteen", "10.0.2.", 16)),
)
SIX = NetworkView("six", (ServiceView("s", "six", mode="dnsrr"),), tasks("s", "fd00::", 2))
SIXTEEN = NetworkView("many", (ServiceView("m", "sixteen", mode="dnsrr"),), tasks("m", "10.0.3.", 16))
ZONE = build_zone((NET, SIX, SIXTEEN))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelNames]:
    with KernelNames() as found:
        yield found


def question(
    name: str | bytes,
    kind: int = 1,
    klass: int = 1,
    flags: int = 0x0120,
    extra: bytes = b"",
    more: int | None = None,
) -> bytes:
    """A query; `more` is how many additional records it says that `extra` holds, by default one if there is any."""
    wire = name if isinstance(name, bytes) else wire_name(name)
    assert wire
    count = len(extra[:1]) if more is None else more
    return struct.pack("!6H", 4711, flags, 1, 0, 0, count) + wire + struct.pack("!2H", kind, klass) + extra


def opt(options: bytes = b"", payload: int = 1232, version: int = 0, flags: int = 0) -> bytes:
    return b"\0" + struct.pack("!HHBBHH", 41, payload, 0, version, flags, len(options)) + options


COOKIE = struct.pack("!HH", 10, 8) + b"12345678"
TAKEN = {
    "A": question("web"),
    "A of tasks": question("tasks.web"),
    "A of one task": question("web.11"),
    "sixteen addresses": question("sixteen"),
    "with the network": question("web.net"),
    "any case": question("TaSkS.WEB.Net"),
    "AAAA": question("web", 28),
    "no recursion desired": question("web", flags=0),
    "other flags": question("web", flags=0x07F5 & ~0x7800),
    "EDNS": question("web", extra=opt()),
    "EDNS for AAAA": question("tasks.web", 28, extra=opt()),
    "EDNS with a cookie": question("tasks.web", extra=opt(COOKIE)),
    "EDNS with DO": question("web", extra=opt(flags=0x8000)),
    "EDNS with a tiny size": question("sixteen", extra=opt(payload=1)),
}
LEFT = {
    "unknown name": question("nowhere"),
    "unknown but longer": question("web.net.x"),
    "no prefix of a name": question("we"),
    "withheld": question("off"),
    "more than sixteen": question("tasks.big"),
    "IPv6": question("six"),
    "AAAA of IPv6": question("six", 28),
    "MX": question("web", 15),
    "ANY": question("web", 255),
    "SRV": question("_80._tcp.web", 33),
    "PTR": question(ip_address("10.0.0.2").reverse_pointer, 12),
    "class ANY": question("web", klass=255),
    "class CHAOS": question("web", klass=3),
    "response": question("web", flags=0x8120),
    "opcode": question("web", flags=0x2000),
    "no question": question("web")[:5] + b"\0" + question("web")[6:],
    "two questions": question("web")[:5] + b"\2" + question("web")[6:] + question("web")[12:],
    "answer section": question("web")[:7] + b"\1" + question("web")[8:],
    "authority section": question("web")[:9] + b"\1" + question("web")[10:],
    "two additionals": question("web", extra=2 * opt(), more=2),
    "trailing": question("web") + b"x",
    "OPT missing": question("web", more=1),
    "OPT cut": question("web", extra=opt()[:-1]),
    "OPT version": question("web", extra=opt(version=1)),
    "two options": question("web", extra=opt(COOKIE + COOKIE)),
    "option too long": question("web", extra=opt(COOKIE[:-1])),
    "option cut": question("web", extra=opt(COOKIE[:3])),
    "TSIG": question("web", extra=b"\0" + struct.pack("!HHIH", 250, 255, 0, 0)),
    "name without end": question("web")[:14],
    "label beyond the end": question(b"\x3fweb\0"),
    "zero in a label": question(b"\3we\0\0"),
    "dot in a label": question(b"\x09tasks.web\0"),
    "pointer": question(b"\xc0\x0c"),
    "root": question(b"\0"),
    "long name": question(b"\x3f" + b"x" * 63 + b"\x3f" + b"y" * 63 + b"\0"),
    "header only": question("web")[:12],
    "cut header": question("web")[:11],
    "empty": b"",
    "cut question": question("web")[:-1],
}


def parts(message: bytes) -> tuple[bytes, list[bytes]]:
    """An answer without its records, and the records (a pointer to the question, and 14 bytes), sorted."""
    end = message.index(b"\0", 12) + 5
    size = 16 * int.from_bytes(message[6:8], "big")
    records = message[end : end + size]
    return message[:end] + message[end + size :], sorted(records[at : at + 16] for at in range(0, size, 16))


def check(kernel: KernelNames, message: bytes) -> bool:
    """Whether the program takes the query; then its answer is that of user space, in any order."""
    found = kernel.ask(message, ZONE)
    if found is None:
        return False
    wanted = answer(message, ZONE, "udp", random.Random(0))
    assert isinstance(wanted, Reply), message.hex()
    assert parts(found) == parts(wanted.data), message.hex()
    return True


@pytest.mark.parametrize("name", TAKEN)
def test_common_questions_are_taken(kernel: KernelNames, name: str) -> None:
    """They are answered in place, with every byte as user space has it but the order of the addresses."""
    for _ in range(4):
        assert check(kernel, TAKEN[name])


@pytest.mark.parametrize("name", LEFT)
def test_others_are_left_to_user_space(kernel: KernelNames, name: str) -> None:
    """Whatever the program is not sure of goes to user space as it came."""
    assert not check(kernel, LEFT[name])


@pytest.mark.parametrize("length", range(1, 125))
def test_names_of_every_length(kernel: KernelNames, length: int) -> None:
    """Names of one label or more, of any length, are folded, found and answered; those of 120 bytes are the longest."""
    labels = [length] if length <= 63 else [63, length - 64] if length > 64 else [31, 32]
    text = ".".join("ab[@z`{Z-"[n % 9] * size for n, size in enumerate(labels, length))
    name = wire_name(text.lower())
    assert name
    zone = Zone(addresses={name: (bytes((10, 0, 0, 1)),), name[:-1] + b"\1x\0": (bytes((10, 0, 0, 2)),)})
    for asked in (text.upper(), text.lower(), text.title()):
        for extra in (b"", opt(), opt(COOKIE)):
            found = kernel.ask(question(asked, extra=extra), zone)
            assert (found is not None) == (len(name) <= 120)
            if found:
                wanted = answer(question(asked, extra=extra), zone, "udp", random.Random(0))
                assert isinstance(wanted, Reply)
                assert found == wanted.data


def test_every_octet_of_a_name(kernel: KernelNames) -> None:
    """Only A to Z have another case: no other octet is taken for one that is 32 away."""
    for octet in range(1, 256):
        name = b"\1" + bytes((octet,)) + b"\0"
        zone = Zone(addresses={name.lower(): (bytes((10, 0, 0, 1)),)})
        for other in {octet, octet ^ 0x20} - {0}:
            asked = question(b"\1" + bytes((other,)) + b"\0")
            assert (kernel.ask(asked, zone) is not None) == (asked[12:15].lower() == name.lower()), (octet, other)


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
def test_broken_queries(kernel: KernelNames) -> None:
    """Of queries that were broken on purpose, the program answers only what user space answers, and the same."""
    rng = random.Random("meshnet names")
    whole = [*TAKEN.values(), *LEFT.values()]
    taken = 0
    for _ in range(FUZZ):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(3)):
            if data:
                at = rng.randrange(len(data))
                data[at] = rng.choice((0, 1, 0x20, 0x29, 0xC0, 0xFF, data[at] ^ 0x20, rng.randrange(256)))
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data) + 1)]
        elif rng.random() < 0.1:
            data += bytes(rng.randrange(600))
        taken += check(kernel, bytes(data))
    assert taken > FUZZ // 20


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
def test_broken_frames(kernel: KernelNames) -> None:
    """Of frames whose headers were broken on purpose, those are answered that are still whole, and steered or left as
    they are the others: no checksum gets wrong, and no length."""
    rng = random.Random("meshnet lo")
    kernel.ask(TAKEN["A"], ZONE)
    whole = [query_frame(TAKEN[name]) for name in ("A", "A of tasks", "AAAA", "EDNS with a cookie")]
    whole += [raw(Ether(query_frame(b"")) / b"x"), *_tcp_frames()]
    changed = 0
    for number in range(FUZZ):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            at = 12 + rng.randrange(min(42, len(data) - 12))
            data[at] = rng.choice((0, 0x45, 0x46, 0x80, 0xFF, 0x35, 11, rng.randrange(256), data[at] ^ 1))
        if rng.random() < 0.1:
            data = data[: rng.randrange(34, len(data) + 1)]
        done = kernel.program.test_run(bytes(data))
        assert done.retval == 0
        if done.data != data:
            changed += 1
            wrong = broken(done.data) and not broken(bytes(data))
            assert not wrong, f"frame {number}: {broken(done.data)}\n{data.hex()}\n{done.data.hex()}"
            if len(done.data) != len(data):
                assert not lengths(done.data), f"frame {number}\n{data.hex()}\n{done.data.hex()}"
    assert FUZZ // 20 < changed < FUZZ


def _tcp_frames() -> list[bytes]:
    """TCP to the resolver and back from it, which is steered and never answered."""
    there = IP(src="127.0.0.1", dst=RESOLVER_ADDRESS) / TCP(sport=4000, dport=53, flags="S")
    back = IP(src=RESOLVER_ADDRESS, dst="127.0.0.1") / TCP(sport=RESOLVER_PORT, dport=4000, flags="SA")
    return [raw(Ether(src=bytes(6), dst=bytes(6)) / packet) for packet in (there, back)]


def test_addresses_take_turns(kernel: KernelNames) -> None:
    """Each of a name's addresses is first about equally often."""
    firsts = [kernel.ask(TAKEN["sixteen addresses"], ZONE) or b"" for _ in range(1600)]
    counts = {first: [f[38:41] for f in firsts].count(first) for first in {f[38:41] for f in firsts}}
    assert len({f[12 + 9 + 4 + 15] for f in firsts}) == 16, counts


@pytest.mark.parametrize(
    "change",
    [
        {14: 0x46},  # IP options
        {20: 0x20},  # more fragments
        {21: 0x01},  # a later fragment
        {17: 0x20},  # another total length
        {39: 0x09},  # another UDP length
    ],
    ids=["options", "first fragment", "later fragment", "IP length", "UDP length"],
)
def test_odd_packets_are_left_alone(kernel: KernelNames, change: dict[int, int]) -> None:
    """A query in a packet that is not plain is no query to the program."""
    kernel.ask(TAKEN["A"], ZONE)
    frame = bytearray(query_frame(TAKEN["A"]))
    for at, octet in change.items():
        frame[at] = octet
    done = kernel.program.test_run(bytes(frame))
    assert done.data[42:] == frame[42:]
    assert done.data[34:36] == frame[34:36]


@dataclass(frozen=True)
class Task:
    """A namespace with the program on its lo."""

    name: str

    def attach(self, kernel: KernelNames, zone: int) -> None:
        with Netlink(self.name) as netlink:
            tc.attach(1, tc.EGRESS, kernel.program, netlink, zone)
            found = tc.attached(1, tc.EGRESS, netlink)
        assert found is not None
        assert found.classid == zone

    def ask(self, message: bytes, connected: bool = True) -> bytes | None:
        """What 127.0.0.11:53 answers, None when the query comes to where user space listens."""
        clients = [netns.socket_in(self.name, socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        with clients[0] as client, clients[1] as server:
            server.bind((RESOLVER_ADDRESS, RESOLVER_PORT))
            if connected:
                client.connect((RESOLVER_ADDRESS, 53))
                client.send(message)
            else:
                client.sendto(message, (RESOLVER_ADDRESS, 53))
            ready, _, _ = select.select([client, server], [], [], 5)
            (found,) = ready
            data, sender = found.recvfrom(4096)
            if found is server:
                assert data == message
                return None
            assert sender == (RESOLVER_ADDRESS, 53)
            return data


@pytest.fixture
def pair(namespaces: Callable[..., str], kernel: KernelNames) -> Iterator[tuple[Task, Task]]:
    """Two tasks, on different networks, whose names are written as the data path writes them."""
    kernel.ask(b"", Zone())
    names = Names()
    rows = (
        ZoneRow(("one",), ("a",), TTL, plain_names(build_zone((NET,)))),
        ZoneRow(("two",), ("b",), TTL, plain_names(build_zone((SIXTEEN,)))),
    )
    names.withdraw(rows, kernel.objects.maps)
    names.publish(kernel.objects.maps)
    found = Task(namespaces("dns-a")), Task(namespaces("dns-b"))
    for task, zone in zip(found, ("a", "b"), strict=True):
        task.attach(kernel, names.zone_numbers()[zone])
    yield found
    names.withdraw((), kernel.objects.maps)


def test_sockets_get_answers(pair: tuple[Task, Task]) -> None:
    """Connected and unconnected sockets take the answer for one of 127.0.0.11:53, though no server runs."""
    for connected in (True, False):
        for message in (TAKEN["A"], TAKEN["A of tasks"], TAKEN["AAAA"], TAKEN["EDNS with a cookie"]):
            found = pair[0].ask(message, connected=connected)
            wanted = answer(message, ZONE, "udp", random.Random(0))
            assert isinstance(wanted, Reply)
            assert found is not None
            assert parts(found) == parts(wanted.data)


def test_each_task_sees_its_own_networks(pair: tuple[Task, Task], kernel: KernelNames) -> None:
    """One program serves two tasks: each finds the names of its networks and not the other's, also after a change."""
    one, two = pair
    assert one.ask(question("web"))
    assert two.ask(question("web")) is None
    assert one.ask(question("sixteen")) is None
    assert two.ask(question("sixteen"))
    one.attach(kernel, 0)
    assert one.ask(question("web")) is None
