"""A VIP, packet by packet: for sockets that the socket programs do not translate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from world import (
    CLIENT,
    DEMO,
    EMPTY,
    GONE,
    GONE_ALONE,
    LOCAL,
    NOBODY,
    OTHER,
    PLAN,
    PORTS,
    REMOTE,
    VIP,
    icmp_error,
    received,
    reset_of,
    same,
    task,
    tunneled,
)

from meshnet.datapath.ebpf import layout
from meshnet.datapath.rows import Plan, RemoteRow, RemovedRow, ServiceRow
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, REDIRECT, PacketNode, Result

pytestmark = pytest.mark.root
SYN = TCP(sport=4000, dport=80, flags="S", seq=1)


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


def services(*rows: ServiceRow, removed: tuple[str, ...] = ()) -> Plan:
    """The plan with other services, and without the remote endpoints that are `removed`."""
    remotes = tuple(row for row in PLAN.remotes if row.ip not in removed)
    gone = tuple(RemovedRow(DEMO, ip, VIP) for ip in removed)
    return dataclasses.replace(PLAN, services=rows, remotes=remotes, removed=(*PLAN.removed, *gone))


def only(*backends: str) -> Plan:
    return services(ServiceRow("whoami", DEMO, VIP, backends))


def send(node: PacketNode, payload: Any, destination: str = VIP, **ip: Any) -> Result:
    return node.run("endpoint", task(CLIENT, destination, payload, **ip), port=PORTS[CLIENT])


@pytest.mark.parametrize(
    "payload",
    [
        TCP(sport=4000, dport=80, flags="S", seq=1, options=[("MSS", 1410)]),
        UDP(sport=4000, dport=80) / b"hello",
        UDP(sport=4000, dport=80, chksum=0) / b"no checksum",
    ],
    ids=["tcp", "udp", "udp without checksum"],
)
def test_out_and_back_remote(node: PacketNode, payload: Any) -> None:
    """A packet to a VIP leaves for a backend, and the backend's reply is shown as the VIP's."""
    node.apply(only(REMOTE))
    result = send(node, payload)
    assert (result.verdict, result.events) == (REDIRECT, {"vip_connection": 1})
    same(result, tunneled(task(CLIENT, REMOTE, payload), OTHER))
    reply = payload.copy()
    reply.sport, reply.dport = payload.dport, payload.sport
    result = node.run("uplink", received(task(REMOTE, CLIENT, reply)))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    answer = task(VIP, CLIENT, reply)
    same(result, answer)


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_out_and_back_local(node: PacketNode, kind: Any) -> None:
    """The same with a backend on this node."""
    node.apply(only(LOCAL))
    same(send(node, kind(sport=4000, dport=80) / b"x"), task(CLIENT, LOCAL, kind(sport=4000, dport=80) / b"x"))
    reply = task(LOCAL, CLIENT, kind(sport=80, dport=4000) / b"y")
    result = node.run("endpoint", reply, port=PORTS[LOCAL])
    same(result, task(VIP, CLIENT, kind(sport=80, dport=4000) / b"y"))


def test_one_connection_keeps_its_backend(node: PacketNode) -> None:
    """Every packet of a connection goes to the backend that its first went to."""
    first = send(node, SYN).packet
    inner = first[IP].dst
    for flags in ("S", "A", "PA", "FA"):
        packet = TCP(sport=4000, dport=80, flags=flags, seq=2)
        assert send(node, packet).packet[IP].dst == inner
    assert len(node.objects.maps["flows"].items()) == 1


def test_turn_by_turn(node: PacketNode) -> None:
    """New connections take the backends in turn."""
    went = []
    for port in range(4000, 4006):
        result = send(node, TCP(sport=port, dport=80, flags="S"))
        went.append(LOCAL if result.packet[IP].dst == LOCAL else REMOTE)
    assert went[:2] * 3 == went
    assert set(went) == {LOCAL, REMOTE}


def test_a_port_used_again(node: PacketNode) -> None:
    """A new connection from the same client port takes its turn: it is not bound to the old one's backend."""
    backends = set()
    for _ in range(2):
        backends.add(send(node, SYN).packet[IP].dst)
        send(node, TCP(sport=4000, dport=80, flags="A"))
        send(node, TCP(sport=4000, dport=80, flags="FA"))
    assert len(backends) == 2


def test_two_vips_one_port(node: PacketNode) -> None:
    """Two connections that differ only in the VIP stay apart, both ways."""
    second = "10.0.1.4"
    node.apply(services(ServiceRow("a", DEMO, VIP, (LOCAL,)), ServiceRow("b", DEMO, second, (REMOTE,))))
    same(send(node, SYN), task(CLIENT, LOCAL, SYN))
    same(send(node, SYN, second), tunneled(task(CLIENT, REMOTE, SYN), OTHER))
    ack = TCP(sport=4000, dport=80, flags="A")
    same(send(node, ack), task(CLIENT, LOCAL, ack))
    same(send(node, ack, second), tunneled(task(CLIENT, REMOTE, ack), OTHER))
    reply = TCP(sport=80, dport=4000, flags="SA")
    same(node.run("endpoint", task(LOCAL, CLIENT, reply), port=PORTS[LOCAL]), task(VIP, CLIENT, reply))
    same(node.run("uplink", received(task(REMOTE, CLIENT, reply))), task(second, CLIENT, reply))


def test_two_vips_one_backend(node: PacketNode) -> None:
    """A second connection that would be the same for the backend is not mixed up with the first: it is refused."""
    second = "10.0.1.4"
    node.apply(services(ServiceRow("a", DEMO, VIP, (LOCAL,)), ServiceRow("b", DEMO, second, (LOCAL,))))
    send(node, SYN)
    result = send(node, SYN, second)
    assert (result.verdict, result.drops) == (DROP, {"flow_collision": 1})
    send(node, TCP(sport=4000, dport=80, flags="FA"))
    same(send(node, SYN, second), task(CLIENT, LOCAL, SYN))


def test_two_vips_another_backend(node: PacketNode) -> None:
    """Where there is another backend, the second of two such connections takes it."""
    second = "10.0.1.4"
    node.apply(services(ServiceRow("a", DEMO, VIP, (LOCAL,)), ServiceRow("b", DEMO, second, (LOCAL, REMOTE))))
    send(node, SYN)
    same(send(node, SYN, second), tunneled(task(CLIENT, REMOTE, SYN), OTHER))


def test_direct_after_vip(node: PacketNode) -> None:
    """A connection straight to a backend, with ports that were used through the VIP, gets its replies unchanged."""
    node.apply(only(REMOTE))
    send(node, SYN)
    send(node, SYN, REMOTE)
    reply = task(REMOTE, CLIENT, TCP(sport=80, dport=4000, flags="SA"))
    same(node.run("uplink", received(reply)), reply)


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_hairpin(node: PacketNode, kind: Any) -> None:
    """A backend that asks its own VIP reaches itself, and its answers come back through the VIP."""
    node.apply(only(CLIENT))
    result = send(node, kind(sport=4000, dport=80))
    assert (result.verdict, result.events) == (REDIRECT, {"vip_connection": 1, "hairpin_connection": 1})
    same(result, task(VIP, CLIENT, kind(sport=4000, dport=80)))
    reply = TCP(sport=80, dport=4000, flags="SA") if kind is TCP else UDP(sport=80, dport=4000)
    same(send(node, reply), task(VIP, CLIENT, reply))


@pytest.mark.parametrize("size", [0, 1, 56, 1400])
def test_ping(node: PacketNode, size: int) -> None:
    """A ping of a VIP is answered in place."""
    result = send(node, ICMP(type=8, id=7, seq=1) / bytes(size))
    assert result.events == {"ping_answered": 1}
    same(result, task(VIP, CLIENT, ICMP(type=0, id=7, seq=1) / bytes(size)))


def test_ping_in_fragments(node: PacketNode) -> None:
    """A ping in fragments comes back in fragments, which are together the right answer."""
    whole = IP(src=CLIENT, dst=VIP, id=5) / ICMP(type=8, id=7) / (bytes(range(256)) * 12)
    answers = []
    for piece in fragment(whole, fragsize=1400):
        frame = Ether(src=mac_of(CLIENT), dst=mac_of(VIP)) / piece
        result = node.run("endpoint", frame, port=PORTS[CLIENT])
        assert result.verdict == REDIRECT
        answers.append(result.packet)
    together = b"".join(raw(answer[IP].payload) for answer in answers)
    assert together == raw(ICMP(type=0, id=7) / (bytes(range(256)) * 12))
    assert {(answer[IP].src, answer[IP].dst) for answer in answers} == {(VIP, CLIENT)}


def test_fragments(node: PacketNode) -> None:
    """All pieces of a datagram go to the backend of the first, and replies in pieces come back as the VIP's."""
    node.apply(only(REMOTE))
    payload = UDP(sport=4000, dport=80) / bytes(3000)
    sent = fragment(Ether() / IP(src=CLIENT, dst=VIP, id=5) / payload, fragsize=1400)
    wanted = fragment(Ether() / IP(src=CLIENT, dst=REMOTE, id=5) / payload, fragsize=1400)
    for piece, whole in zip(sent, wanted, strict=True):
        piece.src, piece.dst = mac_of(CLIENT), mac_of(VIP)
        whole.src, whole.dst = mac_of(CLIENT), mac_of(REMOTE)
        same(node.run("endpoint", piece, port=PORTS[CLIENT]), tunneled(whole, OTHER))
    reply = UDP(sport=80, dport=4000) / bytes(3000)
    sent = fragment(Ether() / IP(src=REMOTE, dst=CLIENT, id=6) / reply, fragsize=1400)
    wanted = fragment(Ether() / IP(src=VIP, dst=CLIENT, id=6) / reply, fragsize=1400)
    for piece, whole in zip(sent, wanted, strict=True):
        piece.src, piece.dst = mac_of(REMOTE), mac_of(CLIENT)
        whole.src, whole.dst = mac_of(VIP), mac_of(CLIENT)
        same(node.run("uplink", received(piece)), whole)


def test_a_later_fragment_first(node: PacketNode) -> None:
    """A later piece whose first was not seen is dropped and counted."""
    pieces = fragment(Ether() / IP(src=CLIENT, dst=VIP, id=5) / UDP(sport=1, dport=80) / bytes(3000), fragsize=1400)
    pieces[1].src = mac_of(CLIENT)
    result = node.run("endpoint", pieces[1], port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (DROP, {"no_ports": 1})


def test_no_backends_tcp(node: PacketNode) -> None:
    """A connection to a VIP without backends is refused at once."""
    result = send(node, SYN, EMPTY)
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {"no_backend": 1}, {"reset_sent": 1})
    same(result, reset_of(task(CLIENT, EMPTY, SYN)))


def test_no_backends_udp(node: PacketNode) -> None:
    """A datagram to a VIP without backends is answered with port unreachable, from the VIP."""
    payload = UDP(sport=4000, dport=80) / b"hello"
    result = send(node, payload, EMPTY)
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {"no_backend": 1}, {"unreachable_sent": 1})
    same(result, icmp_error(task(CLIENT, EMPTY, payload), 3))


def test_other_protocols(node: PacketNode) -> None:
    """A VIP carries TCP and UDP."""
    assert send(node, b"sctp", proto=132).drops == {"unsupported": 1}
    assert send(node, ICMP(type=13)).drops == {"unsupported": 1}


def test_too_big(node: PacketNode) -> None:
    """Fragmentation-needed comes from the VIP and quotes what the client sent: else its socket would ignore it."""
    payload = UDP(sport=4000, dport=80) / bytes(1440)
    result = send(node, payload, flags="DF")
    assert result.events == {"too_big_sent": 1}
    same(result, icmp_error(task(CLIENT, VIP, payload, flags="DF"), 4, 1450))
    assert not node.objects.maps["flows"].items()


def test_in_the_middle_of_nothing(node: PacketNode) -> None:
    """A segment of a connection that is not known gets RST; a RST gets nothing."""
    packet = TCP(sport=4000, dport=80, flags="PA", seq=10, ack=20) / b"data"
    result = send(node, packet)
    assert result.drops == {"no_flow": 1}
    same(result, reset_of(task(CLIENT, VIP, packet)))
    result = send(node, TCP(sport=4000, dport=80, flags="R"))
    assert (result.verdict, result.drops) == (DROP, {"no_flow": 1})


def test_removed_backend(node: PacketNode) -> None:
    """When its backend is removed a connection gets RST from the VIP; a SYN and datagrams go to another backend."""
    node.apply(only(REMOTE))
    send(node, SYN)
    send(node, UDP(sport=4000, dport=80))
    send(node, TCP(sport=4001, dport=80, flags="S"))
    node.apply(services(ServiceRow("whoami", DEMO, VIP, (LOCAL,)), removed=(REMOTE,)))
    data = TCP(sport=4000, dport=80, flags="PA", seq=10, ack=20) / b"data"
    result = send(node, data)
    assert (result.drops, result.events) == ({"removed_backend": 1}, {"reset_sent": 1})
    same(result, reset_of(task(CLIENT, VIP, data)))
    result = send(node, UDP(sport=4000, dport=80))
    assert result.events == {"repicked": 1, "vip_connection": 1}
    same(result, task(CLIENT, LOCAL, UDP(sport=4000, dport=80)))
    again = TCP(sport=4001, dport=80, flags="S")
    same(send(node, again), task(CLIENT, LOCAL, again))


def test_unknown_backend(node: PacketNode) -> None:
    """A backend that is merely not known (yet) causes no RST: packets are dropped and counted."""
    node.apply(only(REMOTE))
    send(node, SYN)
    without = tuple(row for row in PLAN.remotes if row.ip != REMOTE)
    node.apply(dataclasses.replace(PLAN, remotes=without))
    result = send(node, TCP(sport=4000, dport=80, flags="A"))
    assert (result.verdict, result.drops, result.events) == (DROP, {"unknown_backend": 1}, {})


def test_a_repeated_syn_leaves_a_dead_node(node: PacketNode) -> None:
    """A SYN that nobody answered, to a backend that is not known any more, goes to another one when it is repeated."""
    node.apply(only(REMOTE))
    send(node, SYN)
    without = tuple(row for row in PLAN.remotes if row.ip != REMOTE)
    node.apply(dataclasses.replace(only(LOCAL), remotes=without))
    result = send(node, SYN)
    assert result.events == {"repicked": 1, "vip_connection": 1}
    same(result, task(CLIENT, LOCAL, SYN))


def test_a_repeated_syn_leaves_a_backend_that_leaves(node: PacketNode) -> None:
    """Nor does it wait for one that drains or whose node is silent; what got further, and datagrams, stay there."""
    node.apply(only(REMOTE))
    known = [TCP(sport=4001, dport=80, flags="A"), UDP(sport=4002, dport=80)]
    for packet in (SYN, TCP(sport=4001, dport=80, flags="S"), *known):
        send(node, packet)
    leaving = tuple(dataclasses.replace(row, leaving=row.ip == REMOTE) for row in PLAN.remotes)
    node.apply(dataclasses.replace(only(LOCAL), remotes=leaving))
    for packet in known:
        assert send(node, packet).packet[IP:2].dst == REMOTE
    result = send(node, SYN)
    assert result.events == {"repicked": 1, "vip_connection": 1}
    same(result, task(CLIENT, LOCAL, SYN))
    assert send(node, SYN).events == {}


def test_a_repeated_syn_leaves_a_task_that_is_closed(node: PacketNode) -> None:
    """A task here that is about to be stopped would refuse the SYN: it goes to another instead."""
    node.apply(only(LOCAL))
    send(node, SYN)
    node.apply(dataclasses.replace(only(REMOTE), closed=(f"task{LOCAL}",)))
    result = send(node, SYN)
    assert result.events["repicked"] == 1
    assert result.packet[IP:2].dst == REMOTE


def test_backends_without_a_record(node: PacketNode) -> None:
    """New connections pass over backends that no record tells how to reach; with none left they are dropped."""
    node.apply(only(NOBODY, LOCAL))
    for port in (4000, 4001):
        packet = TCP(sport=port, dport=80, flags="S")
        same(send(node, packet), task(CLIENT, LOCAL, packet))
    node.apply(only(NOBODY))
    result = send(node, TCP(sport=4002, dport=80, flags="S"))
    assert (result.verdict, result.drops) == (DROP, {"unknown_backend": 1})


def test_a_draining_backend_keeps_what_it_has(node: PacketNode) -> None:
    """A backend that left its service keeps its connections and gets no new ones, not even from the same port."""
    node.apply(only(REMOTE))
    send(node, SYN)
    ack = TCP(sport=4000, dport=80, flags="A")
    send(node, ack)
    node.apply(only(LOCAL))
    same(send(node, ack), tunneled(task(CLIENT, REMOTE, ack), OTHER))
    same(send(node, SYN), task(CLIENT, LOCAL, SYN))


def test_removed_address_is_its_services_vip(node: PacketNode) -> None:
    """A connected UDP socket of a removed address moves on to another backend, and sees the old address answer."""
    node.apply(dataclasses.replace(PLAN, services=(ServiceRow("whoami", DEMO, VIP, (LOCAL,)),)))
    hello = UDP(sport=4000, dport=80) / b"hello"
    same(send(node, hello, GONE), task(CLIENT, LOCAL, hello))
    reply = UDP(sport=80, dport=4000) / b"hello"
    same(node.run("endpoint", task(LOCAL, CLIENT, reply), port=PORTS[LOCAL]), task(GONE, CLIENT, reply))


@pytest.mark.parametrize("flags", ["S", "A"])
def test_removed_address_resets_tcp(node: PacketNode, flags: str) -> None:
    """TCP to a removed address gets RST."""
    packet = TCP(sport=4000, dport=80, flags=flags, seq=4, ack=9)
    result = send(node, packet, GONE)
    assert result.drops == {"removed_backend": 1}
    same(result, reset_of(task(CLIENT, GONE, packet)))


def test_removed_address_without_service(node: PacketNode) -> None:
    """A datagram to a removed address whose service has nobody left is answered with port unreachable."""
    hello = UDP(sport=4000, dport=80) / b"hello"
    same(send(node, hello, GONE_ALONE), icmp_error(task(CLIENT, GONE_ALONE, hello), 3))


def test_many_connections_more_than_the_table_holds() -> None:
    """A full flow table forgets the oldest connection rather than refuse a new one."""
    node = PacketNode(only(LOCAL), {"flows": 1024})
    try:
        for port in range(1, 2001):
            result = send(node, TCP(sport=port, dport=80, flags="S"))
            assert (result.verdict, result.drops) == (REDIRECT, {}), port
        assert len(node.objects.maps["flows"].items()) <= 1024
    finally:
        node.close()


def test_slots_run_out(node: PacketNode) -> None:
    """When all places that connections alike may have are taken, another one is counted, not mixed up."""
    vips = [f"10.0.1.{number}" for number in range(40, 45)]
    rows = tuple(ServiceRow(vip, DEMO, vip, (LOCAL, REMOTE)) for vip in vips)
    node.apply(services(*rows))
    results = [send(node, SYN, vip) for vip in vips]
    assert [result.verdict for result in results] == [REDIRECT, REDIRECT, DROP, DROP, DROP]
    assert results[-1].drops == {"flow_collision": 1}


def test_backends_exchanged(node: PacketNode) -> None:
    """Exchanging the backends leaves no gap: the next connection goes to a new one, no set is left over."""
    many = (LOCAL, REMOTE) * layout.FEW_BACKENDS
    for backends in ((LOCAL,), (REMOTE,), (LOCAL, REMOTE), many, many[1:], (REMOTE,), many[::-1], (LOCAL,)) * 2:
        node.apply(only(*backends))
        assert send(node, TCP(sport=4000, dport=80, flags="S")).drops == {}
        held = len(node.objects.maps["backends"].items())
        assert held == (len(backends) if len(backends) > layout.FEW_BACKENDS else 0)


@pytest.mark.parametrize("count", [1, 2, layout.FEW_BACKENDS, layout.FEW_BACKENDS + 1, 40])
def test_however_many_backends_all_have_their_turn(node: PacketNode, count: int) -> None:
    """Consecutive connections take the ready backends in turn, whether a service has few of them or many."""
    backends = [f"10.0.1.{100 + number}" for number in range(count)]
    plan = only(*backends)
    rows = tuple(RemoteRow(DEMO, ip, mac_of(ip), OTHER) for ip in backends)
    node.apply(dataclasses.replace(plan, remotes=(*plan.remotes, *rows)))
    results = [send(node, TCP(sport=4000 + turn, dport=80, flags="S")) for turn in range(2 * count)]
    chosen = [result.packet[IP:2].dst for result in results]
    assert chosen[count:] == chosen[:count]
    assert sorted(chosen[:count]) == sorted(backends)
