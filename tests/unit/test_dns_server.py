"""The resolver on loopback sockets, with upstream servers that do as they are told."""

import asyncio
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord

from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT, server
from meshnet.dns.server import Resolver
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone

Handler = Callable[[bytes], list[bytes]]


def zone(vip: str = "10.0.0.2", tasks: int = 3) -> Zone:
    endpoints = tuple(
        EndpointView("s", "web", n, f"t{n}", f"web.{n}.t{n}", f"{n:012x}", f"{n:012x}", f"10.0.{n >> 8}.{n & 255}")
        for n in range(3, 3 + tasks)
    )
    return build_zone((NetworkView("net", (ServiceView("s", "web", vip=vip),), endpoints),))


def query(name: str, udp: int | None = None, identifier: int = 77) -> bytes:
    record = DNSRecord(DNSHeader(id=identifier, rd=1), q=DNSQuestion(name, QTYPE.A))
    if udp:
        record.add_ar(EDNS0(udp_len=udp))
    return bytes(record.pack())


def reply_to(message: bytes, rcode: int = 0, count: int = 1) -> bytes:
    reply = DNSRecord.parse(message).reply()
    reply.header.rcode = rcode
    for n in range(count if rcode == 0 else 0):
        reply.add_answer(RR(reply.q.qname, QTYPE.A, ttl=300, rdata=A(f"192.0.{n >> 8}.{n & 255}")))
    return bytes(reply.pack())


def bound(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    return sock


class Upstream:
    """A server on 127.0.0.1, UDP and TCP on one port, that sends what `handler` makes of each query."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.seen: list[tuple[str, bytes, object]] = []
        self.arrived = asyncio.Event()

    async def start(self) -> tuple[str, int]:
        tcp = bound(socket.SOCK_STREAM)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(tcp.getsockname())
        self.udp.setblocking(False)
        asyncio.get_running_loop().add_reader(self.udp, self._on_datagram)
        self.server = await asyncio.start_server(self._on_client, sock=tcp)
        address: tuple[str, int] = tcp.getsockname()
        return address

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        self.server.close()

    def _note(self, transport: str, message: bytes, client: object) -> list[bytes]:
        self.seen.append((transport, message, client))
        self.arrived.set()
        return self.handler(message)

    def _on_datagram(self) -> None:
        message, client = self.udp.recvfrom(65535)
        for data in self._note("udp", message, client):
            self.udp.sendto(data, client)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        message = await reader.readexactly(length)
        for data in self._note("tcp", message, writer.get_extra_info("peername")):
            writer.write(struct.pack("!H", len(data)) + data)
        try:
            await reader.read()
        finally:
            writer.close()


class Bench:
    """A resolver, its upstream servers, and a client's two ways of asking."""

    def __init__(self, resolver: Resolver, address: tuple[str, int], upstreams: Sequence[Upstream]) -> None:
        self.resolver = resolver
        self.address = address
        self.upstreams = upstreams

    @property
    def count(self) -> dict[str, int]:
        return self.resolver.statistics()

    async def udp(self, message: bytes) -> DNSRecord:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(self.address)
            await loop.sock_sendall(sock, message)
            async with asyncio.timeout(10):
                return DNSRecord.parse(await loop.sock_recv(sock, 65535))

    async def tcp(self, *messages: bytes, half_close: bool = False) -> list[DNSRecord]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(b"".join(struct.pack("!H", len(each)) + each for each in messages))
            if half_close:
                writer.write_eof()
            replies = []
            async with asyncio.timeout(10):
                for _ in messages:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    replies.append(DNSRecord.parse(await reader.readexactly(length)))
            return replies
        finally:
            writer.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Lets the loop run until `condition` holds, ten seconds at most."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - counters have no event
                await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(*handlers: Handler, **options: Any) -> AsyncIterator[Bench]:
    upstreams = [Upstream(handler) for handler in handlers]
    addresses = [await upstream.start() for upstream in upstreams]
    tcp, udp = bound(socket.SOCK_STREAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    resolver = Resolver(udp, tcp, zone(), addresses, **options)
    await resolver.start()
    try:
        yield Bench(resolver, tcp.getsockname(), upstreams)
    finally:
        await resolver.stop()
        for upstream in upstreams:
            upstream.stop()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


def good(message: bytes) -> list[bytes]:
    return [reply_to(message)]


def silent(message: bytes) -> list[bytes]:
    return []


def test_known_names_over_udp_and_tcp() -> None:
    """Both transports answer from the zone, and a zone that is swapped in counts from the next query on."""

    async def scenario() -> None:
        async with bench(good) as b:
            assert str((await b.udp(query("web"))).rr[0].rdata) == "10.0.0.2"
            assert str((await b.tcp(query("web")))[0].rr[0].rdata) == "10.0.0.2"
            b.resolver.set_zone(zone("10.0.0.99"))
            assert str((await b.udp(query("web"))).rr[0].rdata) == "10.0.0.99"
            assert b.upstreams[0].seen == []
            assert (b.count["queries_udp"], b.count["queries_tcp"], b.count["reply_noerror"]) == (2, 1, 3)

    run(scenario)


def test_truncated_udp_answer_is_whole_over_tcp() -> None:
    """What UDP cuts with TC, TCP gives in full on the same port."""

    async def scenario() -> None:
        async with bench() as b:
            b.resolver.set_zone(zone(tasks=200))
            cut = await b.udp(query("tasks.web"))
            (whole,) = await b.tcp(query("tasks.web"))
            assert (cut.header.tc, whole.header.tc, len(whole.rr)) == (1, 0, 200)
            assert 0 < len(cut.rr) < 200

    run(scenario)


def test_several_queries_on_one_connection() -> None:
    """A TCP client may send queries back to back; each gets its answer, and one that waits holds up none."""

    async def scenario() -> None:
        async with bench(silent, upstream_timeout=0.2) as b:
            replies = await b.tcp(*(query(name, identifier=n) for n, name in enumerate(("far", "web", "tasks.web"))))
            assert [reply.header.id for reply in replies] == [1, 2, 0]
            assert [reply.header.rcode for reply in replies] == [0, 0, RCODE.SERVFAIL]

    run(scenario)


def test_client_that_stops_sending_still_gets_its_answers() -> None:
    """A TCP client that half-closes after its queries gets all answers before the connection ends."""

    async def scenario() -> None:
        async with bench(good) as b:
            replies = await b.tcp(query("far.example", identifier=1), query("web", identifier=2), half_close=True)
            assert {reply.header.id for reply in replies} == {1, 2}

    run(scenario)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_unknown_names_are_asked_upstream_over_the_same_transport(transport: str) -> None:
    """The question goes out with the client's EDNS and a new identifier; the answer comes back with the client's."""

    async def scenario() -> None:
        async with bench(good) as b:
            message = query("Far.Example", udp=1400)
            reply = await b.udp(message) if transport == "udp" else (await b.tcp(message))[0]
            assert (reply.header.id, str(reply.rr[0].rdata), reply.rr[0].ttl) == (77, "192.0.0.0", 300)
            ((used, sent, _),) = b.upstreams[0].seen
            assert (used, sent[2:]) == (transport, message[2:])
            assert (b.count["forwarded"], b.count["forwarding"]) == (1, 0)

    run(scenario)


def test_every_upstream_query_has_its_own_port_and_identifier() -> None:
    """Ports and identifiers are not reused or counted up, so that answers cannot be guessed."""

    async def scenario() -> None:
        async with bench(good) as b:
            for n in range(20):
                await b.udp(query(f"far{n}.example"))
            ports = [client[1] for _, _, client in b.upstreams[0].seen]  # type: ignore[index]
            identifiers = [int.from_bytes(message[:2]) for _, message, _ in b.upstreams[0].seen]
            for values in (ports, identifiers):
                assert len(set(values)) > 15
                assert values != sorted(values)

    run(scenario)


def test_no_upstreams_means_servfail_at_once() -> None:
    """Without configured resolvers an unknown name is SERVFAIL, and nothing waits."""

    async def scenario() -> None:
        async with bench() as b:
            assert (await b.udp(query("far.example"))).header.rcode == RCODE.SERVFAIL
            assert (await b.tcp(query("far.example")))[0].header.rcode == RCODE.SERVFAIL
            assert (b.count["reply_servfail"], b.count.get("forwarded")) == (2, None)

    run(scenario)


def fails(rcode: int) -> Handler:
    return lambda message: [reply_to(message, rcode)]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("first", [silent, fails(RCODE.SERVFAIL), fails(RCODE.REFUSED)])
def test_next_upstream_is_asked(first: Handler, transport: str) -> None:
    """A server that is silent, fails or refuses gives way to the next one."""

    async def scenario() -> None:
        async with bench(first, good, upstream_timeout=1.0) as b:
            message = query("far.example")
            reply = await b.udp(message) if transport == "udp" else (await b.tcp(message))[0]
            assert str(reply.rr[0].rdata) == "192.0.0.0"

    run(scenario)


def test_closed_upstream_port_is_passed_over_at_once() -> None:
    """A server that is not there (ICMP port unreachable) costs no timeout."""

    async def scenario() -> None:
        gone = Upstream(good)
        address = await gone.start()
        gone.stop()
        async with bench(good, upstream_timeout=30) as b:
            b.resolver._upstreams = (address, *b.resolver._upstreams)
            assert str((await b.udp(query("far.example"))).rr[0].rdata) == "192.0.0.0"
            assert b.count["upstream_error"] == 1

    run(scenario)


def test_three_upstreams_at_most() -> None:
    """When three servers are silent the client gets SERVFAIL; a fourth is not asked."""

    async def scenario() -> None:
        async with bench(silent, silent, silent, good, upstream_timeout=0.05) as b:
            assert (await b.udp(query("far.example"))).header.rcode == RCODE.SERVFAIL
            assert [len(upstream.seen) for upstream in b.upstreams] == [1, 1, 1, 0]
            assert b.count["upstream_timeout"] == 3

    run(scenario)


@pytest.mark.parametrize("rcode", [RCODE.NXDOMAIN, RCODE.FORMERR, RCODE.NOTIMP])
def test_other_upstream_verdicts_are_passed_on(rcode: int) -> None:
    """NXDOMAIN and the like are answers: they are passed on and no other server is asked."""

    async def scenario() -> None:
        async with bench(fails(rcode), good) as b:
            assert (await b.udp(query("far.example"))).header.rcode == rcode
            assert b.upstreams[1].seen == []

    run(scenario)


def forgeries(message: bytes) -> list[bytes]:
    """Another identifier, another question, no response, cut, empty, no question; then the right answer."""
    right = reply_to(message)
    other = bytes([message[0] ^ 1]) + right[1:]
    elsewhere = message[:2] + reply_to(query("far.exampla"))[2:]
    return [other, elsewhere, message, right[:11], b"", message[:2] + b"\x81\x80" + bytes(8), right]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_forged_answers_are_counted_and_waited_past(transport: str) -> None:
    """Only a response with the query's identifier and question is taken, from the server that was asked."""

    async def scenario() -> None:
        async with bench(forgeries) as b:
            message = query("far.example")
            reply = await b.udp(message) if transport == "udp" else (await b.tcp(message))[0]
            assert str(reply.q.qname) == "far.example."
            assert str(reply.rr[0].rdata) == "192.0.0.0"
            assert b.count["upstream_mismatch"] == 6

    run(scenario)


def test_upstream_answer_larger_than_the_client_takes() -> None:
    """A server that ignores the client's size does not make us do so: TC and no records."""

    async def scenario() -> None:
        async with bench(lambda message: [reply_to(message, count=100)]) as b:
            reply = await b.udp(query("far.example"))
            assert (reply.header.tc, reply.rr) == (1, [])
            assert len((await b.udp(query("far.example", udp=4096))).rr) == 100

    run(scenario)


def test_forwards_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit of waiting queries reached, another unknown name is REFUSED at once; known names still work."""
    monkeypatch.setattr(server, "MAX_FORWARDS", 2)

    async def scenario() -> None:
        async with bench(silent, upstream_timeout=30) as b:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
                for n in range(2):
                    waiting.sendto(query(f"far{n}.example"), b.address)
                await b.until(lambda: b.count["forwarding"] == 2)
                assert (await b.udp(query("far.example"))).header.rcode == RCODE.REFUSED
                assert (await b.tcp(query("far.example")))[0].header.rcode == RCODE.REFUSED
                assert (await b.udp(query("web"))).header.rcode == RCODE.NOERROR

    run(scenario)


def test_tcp_clients_are_bounded_and_idle_ones_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a connection is closed at once; a client that sends no whole query is closed when it idles."""
    monkeypatch.setattr(server, "MAX_CLIENTS", 1)

    async def scenario() -> None:
        async with bench(idle_timeout=1.0) as b:
            reader, writer = await asyncio.open_connection(*b.address)
            writer.write(b"\0\x20half a query")
            await b.until(lambda: b.count["clients"] == 1)
            second, other = await asyncio.open_connection(*b.address)
            async with asyncio.timeout(10):
                assert await second.read() == b""
                assert b.count["clients_refused"] == 1
                assert await reader.read() == b""
            await b.until(lambda: b.count["clients"] == 0)
            for each in (writer, other):
                each.close()

    run(scenario)


def test_client_that_does_not_read_is_let_go() -> None:
    """A TCP client that asks and never reads is closed after the idle time, with what it did not take."""

    async def scenario() -> None:
        async with bench(idle_timeout=0.2) as b:
            b.resolver.set_zone(zone(tasks=500))
            b.resolver._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            message = query("tasks.web")
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(b.address)
                sock.sendall((struct.pack("!H", len(message)) + message) * 40)
                await b.until(lambda: b.count["clients"] == 1)
                await b.until(lambda: b.count["clients"] == 0)
                assert b.count["clients_lost"] == 1

    run(scenario)


def test_malformed_messages_are_counted() -> None:
    """Bad datagrams are counted by fault and harm nothing; a bad TCP message ends its connection."""

    async def scenario() -> None:
        async with bench(good) as b:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for message in (b"", b"x", query("web") + bytes(5000), query("web")[:2] + b"\x80" + query("web")[3:]):
                    sock.sendto(message, b.address)
            rng = random.Random(1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for _ in range(200):
                    sock.sendto(rng.randbytes(rng.randint(0, 40)), b.address)
            reader, writer = await asyncio.open_connection(*b.address)
            writer.write(b"\xff\xff" + b"x" * 10)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
            assert (await b.udp(query("web"))).header.rcode == RCODE.NOERROR
            assert b.count["malformed_oversized"] == 2
            assert b.count["malformed_short"] > 2
            assert b.count["malformed_response"] >= 1
            assert b.count["queries_udp"] == 205

    run(scenario)


def test_stop_closes_everything() -> None:
    """After `stop` both sockets are closed, waiting queries are given up, and no task is left."""

    async def scenario() -> None:
        async with bench(silent, upstream_timeout=30) as b:
            _, writer = await asyncio.open_connection(*b.address)
            writer.write(struct.pack("!H", len(query("far.example"))) + query("far.example"))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(query("far.example"), b.address)
                await b.until(lambda: b.count["forwarding"] == 2)
                await b.resolver.stop()
            assert b.count["forwarding"] == b.count["clients"] == 0
            assert (b.resolver._udp.fileno(), b.resolver._tcp.fileno()) == (-1, -1)
            ours = [task for task in asyncio.all_tasks() if "meshnet" in repr(task.get_coro())]
            assert ours == []
            writer.close()

    run(scenario)


def test_a_client_that_comes_as_it_stops_is_not_served() -> None:
    """A connection that is accepted in the turn in which `stop` is called is closed, not answered for ever."""

    async def scenario() -> None:
        async with bench() as b:
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                made = asyncio.StreamReaderProtocol.connection_made

                def accepted(self: asyncio.StreamReaderProtocol, transport: asyncio.BaseTransport) -> None:
                    stopping.append(asyncio.ensure_future(b.resolver.stop()))  # its turn is before the client's
                    made(self, transport)

                stopping: list[asyncio.Future[None]] = []
                with mock.patch.object(asyncio.StreamReaderProtocol, "connection_made", accepted):
                    await loop.sock_connect(client, b.address)
                    await b.until(lambda: bool(stopping))
                await stopping[0]
                message = query("web")
                async with asyncio.timeout(5):
                    await loop.sock_sendall(client, struct.pack("!H", len(message)) + message)
                    assert await loop.sock_recv(client, 65536) == b""

    run(scenario)


def test_bad_upstream_address_is_refused() -> None:
    """An upstream that is no address is an error when the resolver is made, not when it is asked."""
    with socket.socket() as sock, pytest.raises(ValueError, match=r"dns\.example"):
        Resolver(sock, sock, zone(), [("dns.example", 53)])


def test_the_steering_program_has_the_same_address_and_port() -> None:
    """bpf/lo.c steers to the port, and for the address, that the Python side binds."""
    source = (Path(__file__).parents[2] / "bpf" / "lo.c").read_text()
    defined = dict(re.findall(r"#define (RESOLVER_\w+)\s+(\w+)", source))
    assert int(defined["RESOLVER_PORT"], 0) == RESOLVER_PORT
    assert int(defined["RESOLVER_ADDRESS"], 0).to_bytes(4) == socket.inet_aton(RESOLVER_ADDRESS)
