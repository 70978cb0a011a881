"""Published ports, packet by packet: at the node a request came to, at its backend's node, and on the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from world import (
    INGRESS,
    IPVS,
    NODE,
    OTHER,
    OUTSIDE,
    OWN_INGRESS,
    PLAN,
    PORTS,
    WEB,
    WEB_IPVS,
    WEB_REMOTE,
    icmp_error,
    outside,
    received,
    reset_of,
    same,
    taken_out,
    task,
    tunneled,
)

from meshnet.datapath.rows import Plan, PublishedRow, RemovedRow
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, PASS, REDIRECT, UNDERLAY_MAC, PacketNode, Result

pytestmark = pytest.mark.root
RETURN_MAC = "02:42:00:00:00:00"
SYN = TCP(sport=4000, dport=8000, flags="S", seq=1)
FAR = TCP(sport=4000, dport=8001, flags="S", seq=1)


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


def ask(node: PacketNode, payload: Any, **ip: Any) -> Result:
    """A request from an outside client at this node."""
    return node.run("uplink", outside(OUTSIDE, NODE, payload, **ip))


def unchanged(payload: Any, backend: str, **ip: Any) -> Any:
    """What a tunnel carries for a published port: the packet as the client sent it, and the backend's MAC."""
    return Ether(src=mac_of(OWN_INGRESS), dst=mac_of(backend)) / IP(src=OUTSIDE, dst=NODE, **ip) / payload


def from_other(payload: Any, backend: str = WEB, **ip: Any) -> Any:
    """A request that came to the other node, in the tunnel to this one."""
    inner = Ether(src=mac_of("10.0.0.3"), dst=mac_of(backend)) / IP(src=OUTSIDE, dst=OTHER, **ip) / payload
    return received(inner, OTHER, INGRESS)


def returned(payload: Any, source: str = OTHER, **ip: Any) -> Any:
    """A reply on its way back through the node that the request came to."""
    return Ether(src=mac_of(WEB), dst=RETURN_MAC) / IP(src=source, dst=OUTSIDE, **ip) / payload


def answer(node: PacketNode, payload: Any, **ip: Any) -> Result:
    """A reply of the task on this node to the outside client."""
    return node.run("endpoint", task(WEB, OUTSIDE, payload, **ip), port=PORTS[WEB])


def into_task(payload: Any, **ip: Any) -> Any:
    return Ether(src=mac_of(OUTSIDE), dst=mac_of(WEB)) / IP(src=OUTSIDE, dst=WEB, **ip) / payload


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_local_backend(node: PacketNode, kind: Any) -> None:
    """A request for a task of this node goes in with the client's address; the reply has the node's and the port."""
    result = ask(node, kind(sport=4000, dport=8000))
    assert (result.verdict, result.events) == (REDIRECT, {"published_connection": 1, "served_connection": 1})
    same(result, into_task(kind(sport=4000, dport=80)))
    reply = answer(node, kind(sport=80, dport=4000))
    assert (reply.verdict, reply.drops) == (REDIRECT, {})
    same(reply, _macs(task(NODE, OUTSIDE, kind(sport=8000, dport=4000)), mac_of(WEB), mac_of(OUTSIDE)))


def _macs(packet: Any, source: str, destination: str) -> Any:
    packet.src, packet.dst = source, destination
    return packet


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_remote_backend(node: PacketNode, kind: Any) -> None:
    """A request for a task of another node goes there unchanged, the inner MAC names the task."""
    packet = kind(sport=4000, dport=8001)
    result = ask(node, packet)
    assert (result.verdict, result.events) == (REDIRECT, {"published_connection": 1})
    same(result, tunneled(unchanged(packet, WEB_REMOTE), OTHER, INGRESS))
    assert ask(node, packet).events == {}
    assert not node.objects.maps["backend_flows"].items()


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_served_here_and_returned(node: PacketNode, kind: Any) -> None:
    """A request that came to another node goes into the task; the reply returns through that node, marked by its
    MAC."""
    result = node.run("uplink", from_other(kind(sport=4000, dport=8000)))
    assert (result.verdict, result.events) == (REDIRECT, {"served_connection": 1})
    same(result, into_task(kind(sport=4000, dport=80)))
    assert node.run("uplink", from_other(kind(sport=4000, dport=8000))).events == {}
    reply = answer(node, kind(sport=80, dport=4000))
    same(reply, tunneled(returned(kind(sport=8000, dport=4000)), OTHER, INGRESS))
    assert len(node.objects.maps["backend_flows"].items()) == 1


def test_direct_return(node: PacketNode) -> None:
    """With direct return the reply leaves this node with the other node's address as its source."""
    node.apply(dataclasses.replace(PLAN, direct_return=True))
    node.run("uplink", from_other(SYN))
    reply = answer(node, TCP(sport=80, dport=4000, flags="SA"))
    assert reply.verdict == REDIRECT
    same(reply, _macs(task(OTHER, OUTSIDE, TCP(sport=8000, dport=4000, flags="SA")), mac_of(WEB), mac_of(OUTSIDE)))


def test_tunnel_return(node: PacketNode) -> None:
    """A returned reply is taken out of its tunnel and sent on, source and ports as they are."""
    inner = returned(TCP(sport=8001, dport=4000, flags="SA"), NODE)
    result = node.run("uplink", received(inner, OTHER, INGRESS))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    assert result.data[14:] == bytes(inner)[14:]


def test_tunnel_return_to_the_node_itself(node: PacketNode) -> None:
    """A reply whose client is this node itself (it masqueraded for a task) comes in from its underlay."""
    inner = returned(TCP(sport=8001, dport=4000, flags="SA"), NODE)
    inner[IP].dst = NODE
    result = node.run("uplink", received(inner, OTHER, INGRESS))
    assert result.verdict == REDIRECT
    assert result.packet.dst == UNDERLAY_MAC
    assert result.data[14:] == bytes(inner)[14:]


def test_tunnel_return_of_a_strangers_address(node: PacketNode) -> None:
    """A node returns only what has one of its own addresses as source."""
    result = node.run("uplink", received(returned(TCP(sport=1, dport=2), "192.0.2.7"), OTHER, INGRESS))
    assert (result.verdict, result.drops) == (DROP, {"not_ours": 1})


def test_turn_by_turn(node: PacketNode) -> None:
    """Consecutive connections take the backends in turn, each connection keeps its own."""
    rows = (PublishedRow("whoami", "tcp", 8000, 80, (WEB, WEB_REMOTE)),)
    node.apply(dataclasses.replace(PLAN, published=rows))
    went = []
    for port in range(4000, 4006):
        first = ask(node, TCP(sport=port, dport=8000, flags="S")).packet[IP].dst
        assert ask(node, TCP(sport=port, dport=8000, flags="A")).packet[IP].dst == first
        went.append(first)
    assert went == went[:2] * 3
    assert set(went) == {WEB, OTHER}


def test_moved_port(node: PacketNode) -> None:
    """Two connections that would be one at the task: the second gets another client port, and its replies the
    right one back."""
    ask(node, SYN)
    result = ask(node, TCP(sport=4000, dport=8003, flags="S", seq=1))
    assert result.events == {"published_connection": 1, "served_connection": 1, "moved_connection": 1}
    port = result.packet[TCP].sport
    assert port != 4000
    same(result, into_task(TCP(sport=port, dport=80, flags="S", seq=1)))
    ack = ask(node, TCP(sport=4000, dport=8003, flags="A"))
    same(ack, into_task(TCP(sport=port, dport=80, flags="A")))
    same(ask(node, TCP(sport=4000, dport=8000, flags="A")), into_task(TCP(sport=4000, dport=80, flags="A")))
    for seen, published in ((4000, 8000), (port, 8003)):
        reply = answer(node, TCP(sport=80, dport=seen, flags="SA"))
        wanted = task(NODE, OUTSIDE, TCP(sport=published, dport=4000, flags="SA"))
        same(reply, _macs(wanted, mac_of(WEB), mac_of(OUTSIDE)))


def test_moved_between_nodes(node: PacketNode) -> None:
    """The same for one client port at two nodes."""
    ask(node, UDP(sport=4000, dport=8000))
    result = node.run("uplink", from_other(UDP(sport=4000, dport=8000)))
    assert "moved_connection" in result.events
    reply = answer(node, UDP(sport=80, dport=result.packet[UDP].sport))
    same(reply, tunneled(returned(UDP(sport=8000, dport=4000)), OTHER, INGRESS))


def test_fragments(node: PacketNode) -> None:
    """All pieces of a datagram go the way of the first: out, in, and back."""
    for port, wanted in ((8001, None), (8000, into_task)):
        payload = UDP(sport=4000, dport=port) / bytes(3000)
        pieces = fragment(Ether() / IP(src=OUTSIDE, dst=NODE, id=port) / payload, fragsize=1400)
        inside = UDP(sport=4000, dport=80) / bytes(3000)
        translated = fragment(Ether() / IP(src=OUTSIDE, dst=WEB, id=port) / inside, fragsize=1400)
        for piece, whole in zip(pieces, translated, strict=True):
            piece.src, piece.dst = "02:00:00:00:00:50", UNDERLAY_MAC
            result = node.run("uplink", piece)
            assert (result.verdict, result.drops) == (REDIRECT, {})
            if wanted:
                same(result, _macs(whole, mac_of(OUTSIDE), mac_of(WEB)))
            else:
                same(result, tunneled(_macs(piece.copy(), mac_of(OWN_INGRESS), mac_of(WEB_REMOTE)), OTHER, INGRESS))
    reply = UDP(sport=80, dport=4000) / bytes(3000)
    pieces = fragment(Ether() / IP(src=WEB, dst=OUTSIDE, id=9) / reply, fragsize=1400)
    wanted_reply = UDP(sport=8000, dport=4000) / bytes(3000)
    translated = fragment(Ether() / IP(src=NODE, dst=OUTSIDE, id=9) / wanted_reply, fragsize=1400)
    for piece, whole in zip(pieces, translated, strict=True):
        _macs(piece, mac_of(WEB), mac_of(OUTSIDE))
        result = node.run("endpoint", piece, port=PORTS[WEB])
        same(result, _macs(whole, mac_of(WEB), mac_of(OUTSIDE)))


def test_a_later_fragment_first(node: PacketNode) -> None:
    """A later piece whose first was not seen cannot be known to be for a published port: it is the stack's."""
    pieces = fragment(Ether() / IP(src=OUTSIDE, dst=NODE) / UDP(sport=1, dport=8000) / bytes(3000), fragsize=1400)
    assert node.run("uplink", _macs(pieces[1], "02:00:00:00:00:50", UNDERLAY_MAC)).verdict == PASS


@pytest.mark.parametrize("port", [8000, 8001])
def test_too_big(node: PacketNode, port: int) -> None:
    """A datagram too big for the overlay that may not be cut is answered from the address the client used."""
    packet = outside(OUTSIDE, NODE, UDP(sport=4000, dport=port) / bytes(1440), flags="DF")
    result = node.run("uplink", packet)
    assert (result.drops, result.events.get("too_big_sent")) == ({"too_big": 1}, 1)
    same(result, icmp_error(packet, 4, 1450))


def test_too_big_without_df(node: PacketNode) -> None:
    """One that may be cut goes through the kernel's device, its MACs in place."""
    packet = UDP(sport=4000, dport=8001) / bytes(1440)
    result = ask(node, packet)
    assert (result.verdict, result.drops, result.events["fallback"]) == (REDIRECT, {}, 1)
    same(result, unchanged(packet, WEB_REMOTE))


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_backend_behind_ipvs(node: PacketNode, kind: Any) -> None:
    """Such a backend is asked in the node's own name, and its reply goes to the client as the node's."""
    result = ask(node, kind(sport=4000, dport=8004) / b"question")
    assert (result.verdict, result.events) == (REDIRECT, {"published_connection": 1, "masqueraded_connection": 1})
    port = result.packet[VXLAN][kind].sport
    assert port >= 61000
    inner = task(OWN_INGRESS, WEB_IPVS, kind(sport=port, dport=84) / b"question")
    same(result, tunneled(inner, IPVS, INGRESS))
    assert ask(node, kind(sport=4000, dport=8004)).packet[VXLAN][kind].sport == port
    reply = task(WEB_IPVS, OWN_INGRESS, kind(sport=84, dport=port) / b"answer")
    result = node.run("uplink", received(reply, IPVS, INGRESS))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    assert result.data[14:] == bytes(IP(src=NODE, dst=OUTSIDE) / kind(sport=8004, dport=4000) / b"answer")


def test_the_nodes_own_question_to_ipvs(node: PacketNode) -> None:
    """What the node itself asked a backend behind IPVS comes to the node itself."""
    reply = task(WEB_IPVS, OWN_INGRESS, TCP(sport=84, dport=40000) / b"answer")
    same(node.run("uplink", received(reply, IPVS, INGRESS)), reply)


def test_no_backends(node: PacketNode) -> None:
    """A published port without backends refuses at once, as a closed port would."""
    packet = outside(OUTSIDE, NODE, TCP(sport=4000, dport=8002, flags="S", seq=7))
    result = node.run("uplink", packet)
    assert (result.verdict, result.drops) == (REDIRECT, {"no_backend": 1})
    same(result, reset_of(packet))
    packet = outside(OUTSIDE, NODE, UDP(sport=4000, dport=8002) / b"x")
    same(node.run("uplink", packet), icmp_error(packet, 3))


def test_in_the_middle_of_nothing(node: PacketNode) -> None:
    """A segment of a connection that is not known is the stack's: it may be a task's that it masquerades, and if it
    is not, the stack answers with RST."""
    packet = outside(OUTSIDE, NODE, TCP(sport=4000, dport=8000, flags="A", seq=3, ack=4))
    result = node.run("uplink", packet)
    assert (result.verdict, result.drops) == (PASS, {})
    same(result, packet)


def test_only_own_addresses(node: PacketNode) -> None:
    """A packet to a published port of an address that is not this node's is not touched."""
    packet = outside(OUTSIDE, "192.0.2.9", SYN)
    result = node.run("uplink", packet)
    assert (result.verdict, result.drops) == (PASS, {})
    same(result, packet)
    assert node.run("uplink", outside(OUTSIDE, NODE, ICMP())).verdict == PASS


def without(*gone: str, removed: bool = True, backends: tuple[str, ...] = (WEB,)) -> Plan:
    """Some remote endpoints are removed (or merely not known), and port 8001 has other backends."""
    remotes = tuple(row for row in PLAN.remotes if row.ip not in gone)
    rows = tuple(RemovedRow(INGRESS, ip) for ip in gone) if removed else ()
    published = (PublishedRow("far", "tcp", 8001, 80, backends), PublishedRow("far", "udp", 8001, 80, backends))
    return dataclasses.replace(PLAN, remotes=remotes, removed=rows, published=published)


def test_removed_backend(node: PacketNode) -> None:
    """When its backend is removed a connection gets RST; a SYN and datagrams go to another backend."""
    ask(node, FAR)
    ask(node, UDP(sport=4000, dport=8001))
    ask(node, TCP(sport=4001, dport=8001, flags="S"))
    node.apply(without(WEB_REMOTE))
    packet = outside(OUTSIDE, NODE, TCP(sport=4000, dport=8001, flags="PA", seq=10, ack=20) / b"data")
    result = node.run("uplink", packet)
    assert result.drops == {"removed_backend": 1}
    same(result, reset_of(packet))
    result = ask(node, UDP(sport=4000, dport=8001))
    assert result.events["repicked"] == 1
    same(result, into_task(UDP(sport=4000, dport=80)))
    same(ask(node, TCP(sport=4001, dport=8001, flags="S")), into_task(TCP(sport=4001, dport=80, flags="S")))


def test_unknown_backend(node: PacketNode) -> None:
    """A backend that is merely not known causes no RST: dropped and counted."""
    ask(node, FAR)
    node.apply(without(WEB_REMOTE, removed=False))
    result = ask(node, TCP(sport=4000, dport=8001, flags="A"))
    assert (result.verdict, result.drops) == (DROP, {"unknown_backend": 1})


def test_a_repeated_syn_leaves_a_dead_node(node: PacketNode) -> None:
    """A SYN that nobody answered, to a backend that is not known any more, goes to another one when it is repeated."""
    ask(node, FAR)
    node.apply(without(WEB_REMOTE, removed=False))
    result = ask(node, FAR)
    assert result.events["repicked"] == 1
    same(result, into_task(TCP(sport=4000, dport=80, flags="S", seq=1)))


def test_a_repeated_syn_leaves_a_backend_that_leaves(node: PacketNode) -> None:
    """Nor does it wait for one that drains or whose node is silent; what got further, and datagrams, stay there."""
    known = [TCP(sport=4001, dport=8001, flags="A"), UDP(sport=4002, dport=8001)]
    for packet in (FAR, TCP(sport=4001, dport=8001, flags="S"), *known):
        ask(node, packet)
    leaving = tuple(dataclasses.replace(row, leaving=row.ip == WEB_REMOTE) for row in PLAN.remotes)
    node.apply(dataclasses.replace(without(), remotes=leaving))
    for packet in known:
        assert ask(node, packet).packet[VXLAN][IP].dst == NODE
    result = ask(node, FAR)
    assert result.events["repicked"] == 1
    same(result, into_task(TCP(sport=4000, dport=80, flags="S", seq=1)))
    assert "repicked" not in ask(node, FAR).events


def test_a_repeated_syn_leaves_a_task_that_is_closed(node: PacketNode) -> None:
    """A task here that is about to be stopped would refuse the SYN: it goes to another instead."""
    node.apply(without())
    ask(node, FAR)
    node.apply(dataclasses.replace(PLAN, closed=(f"task{WEB}",)))
    result = ask(node, FAR)
    assert result.events["repicked"] == 1
    assert VXLAN in result.packet


def test_draining_backend(node: PacketNode) -> None:
    """A backend that left its service keeps its connections and gets no new ones, not even from the same port."""
    ask(node, FAR)
    data = TCP(sport=4000, dport=8001, flags="A")
    ask(node, data)
    node.apply(without(backends=(WEB,)))
    same(ask(node, data), tunneled(unchanged(data, WEB_REMOTE), OTHER, INGRESS))
    same(ask(node, FAR), into_task(TCP(sport=4000, dport=80, flags="S", seq=1)))


def test_served_task_is_removed(node: PacketNode) -> None:
    """The ingress node may not know yet that a task is gone: its node sends the RST, by the way of replies. SYNs
    and datagrams wait for the ingress node to pick another."""
    gone = "10.0.0.30"
    node.apply(dataclasses.replace(PLAN, removed=(RemovedRow(INGRESS, gone),)))
    segment = TCP(sport=4000, dport=8000, flags="PA", seq=10, ack=20) / b"data"
    result = taken_out(node, from_other(segment, gone))
    assert (result.verdict, result.drops) == (REDIRECT, {"removed_backend": 1})
    inner = reset_of(Ether(bytes(Ether() / IP(src=OUTSIDE, dst=OTHER) / segment)))
    same(result, tunneled(_macs(inner, mac_of(gone), RETURN_MAC), OTHER, INGRESS))
    for payload in (SYN, UDP(sport=4000, dport=8000)):
        result = node.run("uplink", from_other(payload, gone))
        assert (result.verdict, result.drops) == (DROP, {"removed_backend": 1})


def test_served_task_is_unknown(node: PacketNode) -> None:
    """A packet for a task that this node does not have is dropped and counted."""
    for backend in ("10.0.0.31", WEB_REMOTE):
        result = node.run("uplink", from_other(SYN, backend))
        assert (result.verdict, result.drops) == (DROP, {"unknown_backend": 1})


def test_served_port_is_unknown(node: PacketNode) -> None:
    """So is one for a port that is not published here."""
    result = node.run("uplink", from_other(TCP(sport=1, dport=9999, flags="S")))
    assert (result.verdict, result.drops) == (DROP, {"unpublished": 1})
    assert node.run("uplink", from_other(ICMP())).drops == {"unsupported": 1}


def test_a_flow_forgotten_at_the_backend(node: PacketNode) -> None:
    """A connection that the backend's table forgot is entered again by its next packet, not reset."""
    node.run("uplink", from_other(SYN))
    flows = node.objects.maps["backend_flows"]
    flows.discard(list(flows.keys()))
    segment = TCP(sport=4000, dport=8000, flags="A")
    same(node.run("uplink", from_other(segment)), into_task(TCP(sport=4000, dport=80, flags="A")))
    assert len(flows.items()) == 1


def test_more_connections_than_the_tables_hold(node: PacketNode) -> None:
    """Full tables forget the oldest connection rather than refuse a new one."""
    for number in range(6000):
        result = ask(node, TCP(sport=1024 + number, dport=8000, flags="S"))
        assert (result.verdict, result.drops) == (REDIRECT, {}), number


def test_what_a_published_task_says_itself(node: PacketNode) -> None:
    """A task on the ingress network that speaks first is no reply: it goes outside through its node."""
    result = answer(node, TCP(sport=80, dport=4000, flags="S"))
    assert (result.verdict, result.events) == (PASS, {"outside": 1})


def test_a_task_elsewhere_is_not_touched(node: PacketNode) -> None:
    """Ordinary overlay traffic on the ingress network stays what it is."""
    packet = task(WEB_REMOTE, WEB, UDP(sport=1, dport=2))
    same(node.run("uplink", received(packet, OTHER, INGRESS)), packet)
    back = task(WEB, WEB_REMOTE, UDP(sport=2, dport=1))
    same(node.run("endpoint", back, port=PORTS[WEB]), tunneled(back, OTHER, INGRESS))
