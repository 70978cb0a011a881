"""A task that asks a published port of its own node: the node asks in its own name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from world import (
    CLIENT,
    GATEWAY,
    INGRESS,
    NODE,
    OTHER,
    OTHER_INGRESS,
    OUTSIDE,
    OWN_INGRESS,
    PLAN,
    PORTS,
    WEB,
    WEB_REMOTE,
    icmp_error,
    received,
    reset_of,
    same,
    task,
    tunneled,
)

from meshnet.datapath.ebpf import layout
from meshnet.datapath.rows import Plan
from meshnet.model import mac_of
from meshnet.testing.bpf_run import DROP, PASS, REDIRECT, PacketNode, Result

pytestmark = pytest.mark.root


@pytest.fixture
def node(packet_node: Callable[[Plan], PacketNode]) -> PacketNode:
    return packet_node(PLAN)


def ask_own_node(node: PacketNode, payload: Any, source: str = CLIENT, **ip: Any) -> Result:
    """A request of a task to the address of its own node."""
    return node.run("endpoint", task(source, NODE, payload, **ip), port=PORTS[source])


@pytest.mark.parametrize("kind", [TCP, UDP])
def test_a_task_asks_its_own_node(node: PacketNode, kind: Any) -> None:
    """A published port of the task's own node: the node asks in its own name, the task hears from whom it asked."""
    result = ask_own_node(node, kind(sport=4000, dport=8000) / b"question")
    assert (result.verdict, result.drops) == (REDIRECT, {})
    assert result.events == {"published_connection": 1, "masqueraded_connection": 1}
    port = result.packet[kind].sport
    assert port >= 61000
    same(result, task(OWN_INGRESS, WEB, kind(sport=port, dport=80) / b"question"))
    reply = task(WEB, OWN_INGRESS, kind(sport=80, dport=port) / b"answer")
    result = node.run("endpoint", reply, port=PORTS[WEB])
    assert (result.verdict, result.drops, result.events) == (REDIRECT, {}, {})
    same(result, task(NODE, CLIENT, kind(sport=8000, dport=4000) / b"answer"))
    again = ask_own_node(node, kind(sport=4000, dport=8000))
    assert (again.packet[kind].sport, again.events) == (port, {})


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_a_task_asks_its_own_node_for_a_task_elsewhere(node: PacketNode, kind: Any, direct: bool) -> None:
    """The same with a backend on another node, whose reply returns by the overlay however others' replies do."""
    node.apply(dataclasses.replace(PLAN, direct_return=direct))
    result = ask_own_node(node, kind(sport=4000, dport=8001))
    port = result.packet[VXLAN][kind].sport
    same(result, tunneled(task(OWN_INGRESS, WEB_REMOTE, kind(sport=port, dport=81)), OTHER, INGRESS))
    reply = task(WEB_REMOTE, OWN_INGRESS, kind(sport=81, dport=port) / b"answer")
    result = node.run("uplink", received(reply, OTHER, INGRESS))
    assert (result.verdict, result.drops) == (REDIRECT, {})
    same(result, task(NODE, CLIENT, kind(sport=8001, dport=4000) / b"answer"))


@pytest.mark.parametrize("direct", [False, True])
def test_another_nodes_task_asks_in_that_nodes_name(node: PacketNode, direct: bool) -> None:
    """What another node asks for its task gets its reply through the overlay, also with direct return."""
    node.apply(dataclasses.replace(PLAN, direct_return=direct))
    question = task(OTHER_INGRESS, WEB, TCP(sport=61001, dport=80, flags="S"))
    same(node.run("uplink", received(question, OTHER, INGRESS)), question)
    reply = task(WEB, OTHER_INGRESS, TCP(sport=80, dport=61001, flags="SA"))
    same(node.run("endpoint", reply, port=PORTS[WEB]), tunneled(reply, OTHER, INGRESS))


def test_a_task_reaches_itself_through_its_node(node: PacketNode) -> None:
    """A task that is the only backend of the port it asks hears its own answer."""
    result = ask_own_node(node, TCP(sport=4000, dport=8000, flags="S"), WEB)
    port = result.packet[TCP].sport
    same(result, task(OWN_INGRESS, WEB, TCP(sport=port, dport=80, flags="S")))
    reply = node.run("endpoint", task(WEB, OWN_INGRESS, TCP(sport=80, dport=port, flags="SA")), port=PORTS[WEB])
    same(reply, task(NODE, WEB, TCP(sport=8000, dport=4000, flags="SA")))


def test_a_task_is_refused_by_its_own_node(node: PacketNode) -> None:
    """Without backends, or when the backend refuses, the task is told so as by any published port."""
    packet = task(CLIENT, NODE, TCP(sport=4000, dport=8002, flags="S", seq=7))
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.verdict, result.drops) == (REDIRECT, {"no_backend": 1})
    same(result, reset_of(packet))
    packet = task(CLIENT, NODE, UDP(sport=4000, dport=8002) / b"x")
    same(node.run("endpoint", packet, port=PORTS[CLIENT]), icmp_error(packet, 3))
    asked = ask_own_node(node, UDP(sport=4000, dport=8000) / b"x").packet
    result = node.run("endpoint", icmp_error(asked, 3), port=PORTS[WEB])
    assert (result.verdict, result.events) == (REDIRECT, {"icmp_translated": 1})
    wanted = icmp_error(task(CLIENT, NODE, UDP(sport=4000, dport=8000) / b"x"), 3)
    assert (result.packet[IP].src, result.packet[IP].dst) == (NODE, CLIENT)
    assert bytes(result.packet[ICMP])[8:36] == bytes(wanted[ICMP])[8:34] + bytes(result.packet[ICMP])[34:36]
    assert ICMP(bytes(result.packet[ICMP])).chksum == ICMP(_without_sum(result.packet[ICMP])).chksum


def _without_sum(icmp: Any) -> bytes:
    copy = icmp.copy()
    del copy.chksum
    return bytes(copy)


def test_too_big_for_a_task_behind_its_own_node(node: PacketNode) -> None:
    """A task that sends more than the ingress network carries hears it from the address it asked."""
    packet = task(CLIENT, NODE, UDP(sport=4000, dport=8001) / bytes(1440), flags="DF")
    result = node.run("endpoint", packet, port=PORTS[CLIENT])
    assert (result.drops, result.events.get("too_big_sent")) == ({"too_big": 1}, 1)
    same(result, icmp_error(packet, 4, 1450))


def test_other_ports_of_the_own_node(node: PacketNode) -> None:
    """What is not published at the task's own node is the node's, and so is the middle of a connection that is not
    known; a task without a way out reaches neither."""
    for payload in (TCP(sport=4000, dport=22, flags="S"), TCP(sport=4000, dport=8000, flags="A"), ICMP()):
        result = ask_own_node(node, payload)
        assert (result.verdict, result.events) == (PASS, {"outside": 1})
    shut = dataclasses.replace(
        PLAN, endpoints=tuple(dataclasses.replace(r, default_route=False) for r in PLAN.endpoints)
    )
    node.apply(shut)
    assert ask_own_node(node, TCP(sport=4000, dport=8000, flags="S")).drops == {"not_outside": 1}


def test_fragments_to_the_own_node(node: PacketNode) -> None:
    """All pieces of a task's datagram go the way of the first."""
    pieces = fragment(
        Ether(src=mac_of(CLIENT), dst=mac_of(GATEWAY))
        / IP(src=CLIENT, dst=NODE, id=7)
        / UDP(sport=4000, dport=8000)
        / bytes(3000),
        fragsize=1400,
    )
    for piece in pieces:
        result = node.run("endpoint", bytes(piece), port=PORTS[CLIENT])
        assert (result.verdict, result.drops) == (REDIRECT, {})
        assert (result.packet[IP].src, result.packet[IP].dst) == (OWN_INGRESS, WEB)


@pytest.fixture
def crowded() -> Iterator[Callable[[int, int | None], PacketNode]]:
    """A node whose own ports are all taken towards one backend, by connections with these flags (None: forgotten)."""
    with PacketNode(PLAN, {"masquerades": 16384, "ingress_flows": 16384}) as node:

        def fill(protocol: int, flags: int | None) -> PacketNode:
            client, own, web = (layout.address(ip) for ip in (OUTSIDE, NODE, WEB))
            for port in range(61000, 65536):
                number = port.to_bytes(2, "big")
                asked = client + own, number + (8000).to_bytes(2, "big")
                key = web + (80).to_bytes(2, "big") + number + bytes([protocol, 0, 0, 0])
                node.objects.maps["masquerades"].set(key, asked[0] + bytes(4) + asked[1])
                if flags is not None:
                    flow = web + flags.to_bytes(4, "little") + number + bytes(2)
                    node.objects.maps["ingress_flows"].set(b"".join(asked) + bytes([protocol, 0, 0, 0]), flow)
            return node

        yield fill


@pytest.mark.parametrize(
    ("kind", "flags", "drops"),
    [(TCP, None, {}), (TCP, 1, {}), (TCP, 2, {"flow_collision": 1}), (UDP, None, {}), (UDP, 0, {})],
    ids=["forgotten", "closing", "alive", "datagrams forgotten", "datagrams"],
)
def test_no_free_port_of_the_node(
    crowded: Callable[[int, int | None], PacketNode], kind: Any, flags: int | None, drops: dict[str, int]
) -> None:
    """When all ports of the node are taken a connection gets that of one which is over, never of one that is alive;
    among datagrams the newest wins."""
    result = ask_own_node(crowded(17 if kind is UDP else 6, flags), kind(sport=4000, dport=8000))
    assert (result.verdict, result.drops) == (DROP if drops else REDIRECT, drops)
    if not drops:
        assert result.packet[kind].sport >= 61000
