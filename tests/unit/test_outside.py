"""The names that nodes tell clients outside: who is named for which port, and what else may be asked there."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord

from meshnet.agent.outside import OutsideNames
from meshnet.agent.resolver import OutsideResolver
from meshnet.datapath.plan import Located, Peer
from meshnet.dns.query import MAX_QUERY
from meshnet.dns.share import Target, key_of
from meshnet.dns.zone import Zone, listing
from meshnet.errors import MeshnetError
from meshnet.model import Assignments, Endpoint, Network, NetworkSpec, PortConfig, Service, ServiceEndpoint, ServiceSpec

INGRESS, SHOP = "ing", "shop"
OWN = Peer("n1", "172.17.0.2", hostname="docker-0")
TWO = Peer("n2", "172.17.0.3", hostname="Docker-1")
THREE = Peer("n3", "172.17.0.4", hostname="docker-2")
PEERS = (OWN, TWO, THREE)
WEB, ADMIN, LOG = (
    PortConfig("http", "tcp", 80, 8080),
    PortConfig("", "tcp", 9000, 9090, "host"),
    PortConfig("", "udp", 514, 514, "host"),
)
NODES = [("docker-0", "A", "172.17.0.2"), ("docker-1", "A", "172.17.0.3"), ("docker-2", "A", "172.17.0.4")]


def service(name: str, *ports: PortConfig) -> Service:
    return Service(id=f"id-{name}", spec=ServiceSpec(name), endpoint=ServiceEndpoint(ports=ports))


def task(owner: str, name: str, state: str = "ready", network: str = INGRESS) -> Located:
    return Located(owner, network, Endpoint(owner, f"t{owner}", 1, f"id-{name}", "10.0.0.5", state=state))


def zone(
    services: list[Service],
    records: list[Located],
    peers: tuple[Peer, ...] = PEERS,
    own: Peer = OWN,
    names: OutsideNames | None = None,
) -> Zone:
    networks = {INGRESS: Network(INGRESS, spec=NetworkSpec("ingress", ingress=True)), SHOP: Network(SHOP)}
    assignments = Assignments(networks=networks, services={one.id: one for one in services})
    return (names or OutsideNames()).zone(own, assignments, records, peers)


def a(found: Zone, name: str) -> list[str]:
    return [str(IPv4Address(packed)) for packed in found.addresses.get(key_of(name) or b"", ())]


def srv(found: Zone, name: str) -> list[str]:
    key = key_of(name) or b""
    return [value for kind, value in ((k, v) for n, k, v in listing(found) if key_of(n) == key) if kind == "SRV"]


def test_ports_of_the_mesh_are_on_every_node() -> None:
    """In ingress mode a service is every live node, wherever its tasks are; `tasks.` says where these are. SRV records
    tell the published port, by its number, its name and the tasks' number."""
    found = zone(
        [service("web", WEB)], [task("n2", "web"), task("n3", "web", "draining"), task("n1", "web", "starting")]
    )
    assert a(found, "web") == ["172.17.0.2", "172.17.0.3", "172.17.0.4"]
    assert a(found, "tasks.web") == ["172.17.0.3"]
    for label in ("_8080", "_http", "_80"):
        assert srv(found, f"{label}._tcp.web") == ["Docker-1:8080", "docker-0:8080", "docker-2:8080"]
    assert srv(found, "_8080._tcp.tasks.web") == ["Docker-1:8080"]
    assert srv(found, "_8080._udp.web") == []


def test_ports_in_host_mode_are_where_the_tasks_are() -> None:
    """In host mode only nodes with a ready task are named, for each protocol; also where another port is the mesh's,
    whose own SRV records name all."""
    found = zone([service("web", ADMIN, LOG)], [task("n2", "web"), task("n3", "web", "draining")])
    assert a(found, "web") == a(found, "tasks.web") == ["172.17.0.3"]
    assert srv(found, "_9090._tcp.web") == srv(found, "_9000._tcp.web") == ["Docker-1:9090"]
    assert srv(found, "_514._udp.web") == ["Docker-1:514"]
    found = zone([service("web", WEB, ADMIN)], [task("n2", "web")])
    assert a(found, "web") == ["172.17.0.3"]
    assert (len(srv(found, "_8080._tcp.web")), srv(found, "_9090._tcp.web")) == (3, ["Docker-1:9090"])


@pytest.mark.parametrize("port", [WEB, ADMIN])
def test_the_suspected_and_the_dead(port: PortConfig) -> None:
    """Suspected members are left out while there are others; the dead, and draining tasks, at all events."""
    peers = (OWN, replace(TWO, state="suspect"), replace(THREE, state="dead"))
    records = [task("n1", "web"), task("n2", "web"), task("n3", "web")]
    found = zone([service("web", port)], records, peers)
    assert a(found, "web") == a(found, "tasks.web") == ["172.17.0.2"]
    assert a(found, "docker-1") == ["172.17.0.3"]
    assert a(found, "docker-2") == []
    found = zone([service("web", port)], [task("n2", "web"), task("n1", "web", "draining")], peers)
    assert a(found, "tasks.web") == ["172.17.0.3"]


def test_nobody_is_ready() -> None:
    """A service without a ready task is withheld, all its names; one that publishes nothing has none."""
    for port in (WEB, ADMIN):
        found = zone([service("web", port)], [task("n2", "web", "draining"), task("n1", "web", network=SHOP)])
        assert found.withheld == {key_of("web"), key_of("tasks.web")}
        assert listing(found) == tuple(sorted([*NODES, *((one, "A", f"172.17.0.{n}") for n, one in IDS)]))
    found = zone([service("db"), service("free", PortConfig("", "tcp", 80))], [task("n1", "db"), task("n1", "free")])
    assert not found.knows(key_of("db") or b"")
    assert not found.knows(key_of("free") or b"")


IDS = [(2, "n1"), (3, "n2"), (4, "n3")]


def test_names_that_clash() -> None:
    """A service's name beats a node's; SRV records then call that node by its id, and so nodes of one name."""
    peers = (replace(OWN, hostname="web"), TWO, replace(THREE, hostname="docker-1"))
    found = zone([service("web", WEB)], [task("n2", "web")], peers, peers[0])
    assert len(a(found, "web")) == 3
    assert srv(found, "_8080._tcp.web") == ["n1:8080", "n2:8080", "n3:8080"]
    assert [a(found, name) for _, name in IDS] == [["172.17.0.2"], ["172.17.0.3"], ["172.17.0.4"]]


def test_names_that_follow() -> None:
    """After any change they are what they would be if they were made from nothing; what has not changed is kept."""
    web, own, names = service("web", WEB), service("own", ADMIN), OutsideNames()
    doubted = (OWN, replace(TWO, state="suspect"), THREE)
    worlds = [
        ([web], [task("n2", "web")], PEERS),
        ([web, own], [task("n2", "web"), task("n3", "own")], PEERS),
        ([web, own], [task("n2", "web"), task("n3", "own"), task("n2", "own")], PEERS),
        ([web, own], [task("n2", "web"), task("n3", "own"), task("n2", "own")], doubted),
        ([web, own], [task("n2", "web", "draining"), task("n2", "own")], doubted),
        ([service("web", ADMIN)], [task("n1", "web")], PEERS),
        ([service("docker-2", WEB)], [task("n1", "docker-2")], PEERS[:2]),
        ([], [], PEERS),
    ]
    for services, records, peers in worlds:
        assert zone(services, records, peers, names=names) == zone(services, records, peers)
    first = zone([web, own], [task("n2", "web"), task("n3", "own")], names=names)
    then = zone([web, own], [task("n2", "web"), task("n1", "own")], names=names)
    key = key_of("_8080._tcp.web") or b""
    assert then.services[key] is first.services[key]


def query(name: str, kind: int = QTYPE.A) -> bytes:
    record = DNSRecord(DNSHeader(id=7, rd=1), q=DNSQuestion(name, kind))
    record.add_ar(EDNS0(udp_len=65000))
    return bytes(record.pack())


def many(count: int) -> Zone:
    targets = tuple(Target(key_of(f"n{n}") or b"", IPv4Address(n).packed, 80) for n in range(count))
    return Zone({}, {}, {key_of("_80._tcp.web") or b"": targets}, frozenset({key_of("gone") or b""}))


def test_strangers_get_no_more_than_the_zone() -> None:
    """Other names are refused and asked of nobody, services that are down do not exist, and a datagram is answered with
    4096 bytes at most, whatever it asks for; a port that somebody has is told at once."""

    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            taken = OutsideResolver("127.0.0.1", port)
            with pytest.raises(
                MeshnetError, match=f"cannot have port {port} of 127.0.0.1: Address already in use; end"
            ):
                taken.open()
        served = OutsideResolver("127.0.0.1", port)
        served.open()
        served.set_zone(many(500))
        await served.start()
        loop = asyncio.get_running_loop()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect(("127.0.0.1", port))

                async def ask(message: bytes) -> bytes:
                    await loop.sock_sendall(client, message)
                    async with asyncio.timeout(5):
                        return await loop.sock_recv(client, 65535)

                assert DNSRecord.parse(await ask(query("example.com"))).header.rcode == RCODE.REFUSED
                assert DNSRecord.parse(await ask(query("gone"))).header.rcode == RCODE.NXDOMAIN
                cut = await ask(query("_80._tcp.web", QTYPE.SRV))
                assert DNSRecord.parse(cut).header.tc == 1
                assert 3000 < len(cut) <= MAX_QUERY
            assert served.statistics()["reply_refused"] == 1
        finally:
            await served.stop()

    asyncio.run(scenario())


def test_none_by_default() -> None:
    """Without a port nothing is opened."""

    async def scenario() -> None:
        resolver = OutsideResolver("127.0.0.1", 0)
        resolver.open()
        await resolver.start()
        assert resolver.statistics() == {}
        await resolver.stop()

    asyncio.run(scenario())
