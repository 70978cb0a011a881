"""What a plan asks of the node's stack, and how differences become requests; no kernel."""

from __future__ import annotations

import dataclasses

import pytest

from meshnet.datapath import repairs
from meshnet.datapath.base import NodeContext
from meshnet.datapath.links import TABLE, PortLink, desired, format_ports, masquerade_ports, parse_ports
from meshnet.datapath.repairs import Diff
from meshnet.datapath.rows import EndpointRow, NetworkRow, Plan, PublishedRow
from meshnet.kernel.dumps import Address, Link, Neighbour, Route

CONTEXT = NodeContext("quick", "docker-0", "eth0", "/run/meshnet/quick/docker-0")
INGRESS = NetworkRow(4096, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, ingress=True, node_address="10.0.0.2")
DEMO = NetworkRow(4097, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450)
TASK = EndpointRow(
    4097, "10.0.1.5", "02:42:0a:00:01:05", "task12345678xyz", "/run/netns/t", "eth0", "mnt01", default_route=True
)
FACT = PortLink("mnt01", "mark", "/run/netns/t", "eth0", "inner", "02:42:0a:00:01:05", 1450, "10.0.1.5", 24, "10.0.1.1")
INNER = Link(2, "eth0", FACT.mac, 1450, True, "inner", "veth", 0, 7, True, True)
ADDRESSES = [Address(1, "127.0.0.1", 8), Address(2, "10.0.1.5", 24)]
ROUTES = [Route("default", 2, "10.0.1.1", 254, 0, 4, 1), Route("10.0.1.0/24", 2, "", 254, 0, 2, 1, "10.0.1.5")]


def _what(diff: Diff) -> list[str]:
    return [request.what for request in diff.requests]


def test_desired_names_everything() -> None:
    """An endpoint becomes a port with both marks, its network's MTU, prefix and, if it is the way out, gateway."""
    links = desired(Plan("n", "172.17.0.2", networks=(INGRESS, DEMO), endpoints=(TASK,)), CONTEXT)
    (port,) = links.ports
    assert (port.port, port.netns, port.interface, port.mac, port.mtu) == (
        "mnt01",
        "/run/netns/t",
        "eth0",
        "02:42:0a:00:01:05",
        1450,
    )
    assert (port.ip, port.prefix, port.gateway) == ("10.0.1.5", 24, "10.0.1.1")
    assert port.mark == "meshnet:quick:docker-0:port:task12345678/4097"
    assert port.interface_mark == "meshnet:quick:docker-0:interface:task12345678/4097"
    assert links.node is not None
    assert (links.node.address, links.node.prefix, links.node.mac) == ("10.0.0.2", 24, "02:42:0a:00:00:02")


def test_desired_without_ingress_address_or_network() -> None:
    """Without an ingress address there is no node interface; an endpoint whose network is unknown is left out."""
    links = desired(Plan("n", "172.17.0.2", networks=(), endpoints=(TASK,)), CONTEXT)
    assert links.node is None
    assert links.ports == ()


def test_masquerading_keeps_off_published_ports() -> None:
    """What a task sends never leaves with a published port as its source: its reply would be taken for a request."""
    assert masquerade_ports(set()) == masquerade_ports({80, 30000, 32767, 61000}) == (32768, 60999)
    assert masquerade_ports({40000}) == (40001, 65535)
    assert masquerade_ports({60000, 80}) == (32768, 59999)
    assert masquerade_ports({32768, 40000, 65535}) == (40001, 65534)
    assert masquerade_ports({33000, 60999, 61000}) == (33001, 60998)
    assert masquerade_ports(set(range(65536))) == (32768, 60999)
    plan = Plan("node", "172.17.0.2", published=(PublishedRow("web", "udp", 40000, 80),))
    assert "masquerade to :40001-65535" in desired(plan, CONTEXT).ruleset


def test_published_ports_are_reserved() -> None:
    """The node's own connections never start from a published port, nor from one that meshnet listens on."""
    plan = Plan("n", "172.17.0.2", published=(PublishedRow("s", "tcp", 40000, 80), PublishedRow("s", "udp", 40000, 80)))
    assert desired(plan, CONTEXT).reserved == (2377, 4789, 7946, 40000)
    assert desired(plan, dataclasses.replace(CONTEXT, resolver=33000)).reserved == (2377, 4789, 7946, 33000, 40000)
    assert "masquerade to :40001-65535" in desired(plan, dataclasses.replace(CONTEXT, resolver=33000)).ruleset


@pytest.mark.parametrize("text", ["", "80", "1-3", "2377,4789-4790,30000-32767"])
def test_reserved_ports_round_trip(text: str) -> None:
    """The kernel's notation for port lists is read and written."""
    assert format_ports(parse_ports(text)) == text


def test_what_is_right_is_left_alone() -> None:
    """An interface that is as it should be costs no request."""
    diff = Diff()
    repairs.inside(diff, FACT, INNER, ADDRESSES, ROUTES)
    port = Link(7, "mnt01", "", 1450, True, "mark", "veth", 0, 2, True, True)
    repairs.device(diff, port, mark="mark", mtu=1450)
    way = [Route("10.0.1.5/32", 7, "", TABLE, 0, 4, 1)]
    repairs.way_back(diff, {7: FACT}, way, [Neighbour(7, "10.0.1.5", FACT.mac, True)])
    assert _what(diff) == []
    assert repairs.joined(port, INNER)


def test_what_is_wrong_inside_is_repaired() -> None:
    """A missing address, a foreign one, a missing route and a default route to elsewhere are each put right."""
    diff = Diff()
    repairs.inside(diff, FACT, INNER, [Address(2, "10.9.9.9", 24)], [Route("default", 2, "10.0.1.9", 254, 0, 4, 1)])
    assert _what(diff) == [
        "delete address 10.9.9.9/24 dev 2",
        "add address 10.0.1.5/24 dev 2",
        "delete route default via 10.0.1.9 dev 2 table 254",
        "add route default via 10.0.1.1 dev 2 table 254",
    ]
    diff = Diff()
    repairs.inside(diff, FACT, INNER, ADDRESSES, ROUTES[:1])
    assert _what(diff) == ["add route 10.0.1.0/24 dev 2 table 254"]
    assert diff.added == {"routes": 1}


def test_an_interface_that_is_no_way_out_has_no_default_route() -> None:
    """The default route of an endpoint that is no longer the way out goes; other devices' routes stay."""
    diff = Diff()
    fact = PortLink("mnt01", "mark", "/n", "eth0", "inner", FACT.mac, 1450, "10.0.1.5", 24)
    elsewhere = Route("default", 3, "10.0.2.1", 254, 5, 4, 1)
    repairs.inside(diff, fact, INNER, ADDRESSES, [*ROUTES, elsewhere])
    assert _what(diff) == ["delete route default via 10.0.1.1 dev 2 table 254"]


def test_stale_ways_back_go_and_foreign_ones_stay() -> None:
    """Routes and neighbours on our ports that no endpoint claims are removed; other people's in table 100 are not."""
    diff = Diff()
    routes = [Route("10.0.1.99/32", 7, "", TABLE, 0, 4, 1), Route("192.0.2.0/24", 4, "", TABLE, 0, 4, 1)]
    neighbours = [
        Neighbour(7, "10.0.1.99", "02:42:0a:00:01:63", True),
        Neighbour(7, "10.0.1.77", "02:42:0a:00:01:4d", False),
        Neighbour(4, "192.0.2.1", "02:42:0a:00:01:4d", True),
    ]
    repairs.way_back(diff, {7: FACT}, routes, neighbours)
    assert _what(diff) == [
        "add route 10.0.1.5/32 dev 7 table 100",
        "delete route 10.0.1.99/32 dev 7 table 100",
        "add neighbour 10.0.1.5 lladdr 02:42:0a:00:01:05 dev 7",
        "delete neighbour 10.0.1.99 dev 7",
    ]


def test_pairs_are_recognised_by_both_ends() -> None:
    """Two devices are a pair only when each names the other: an index alone may be another sandbox's."""
    port = Link(7, "mnt01", "", 1450, True, "mark", "veth", 0, 2, True, True)
    other = Link(2, "eth0", FACT.mac, 1450, True, "inner", "veth", 0, 8, True, True)
    assert not repairs.joined(port, other)
    assert not repairs.joined(port, None)
    assert not repairs.joined(None, other)
