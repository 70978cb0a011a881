"""What a plan says about names."""

from __future__ import annotations

import ipaddress

import pytest

from meshnet.agent.zones import Zones, plain_names
from meshnet.dns.answer import TTL
from meshnet.dns.names import joined, reverse_name, wire_name
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone

WEB = NetworkView(
    "net",
    (ServiceView("s", "web", vip="10.0.0.2", ports=(("", "tcp", 80),)),),
    (EndpointView("s", "web", 1, "t1", "web.1.t1", "c" * 12, "", "10.0.0.3"),),
)


@pytest.mark.parametrize("address", ["10.0.1.2", "255.0.255.9", "fd00::1:a", "::ffff:1.2.3.4"])
def test_reverse_names_are_the_standards(address: str) -> None:
    """The name of a pointer is the one that the RFCs give an address."""
    found = ipaddress.ip_address(address)
    assert reverse_name(found.packed) == wire_name(found.reverse_pointer)


def test_names_that_together_are_too_long_are_none() -> None:
    """A name of 255 octets is one, and one more octet is too many (RFC 1035 §3.1)."""
    name = wire_name(".".join(["x" * 63] * 3))
    assert name is not None
    assert joined(name, wire_name("y" * 61) or b"") == wire_name(".".join(["x" * 63] * 3 + ["y" * 61]))
    assert joined(name, wire_name("y" * 62) or b"") is None
    assert wire_name(".".join(["x" * 63] * 3 + ["y" * 62])) is None


def test_sandboxes_on_the_same_networks_share_a_row() -> None:
    """One row for each order of networks, with all its sandboxes, whatever order they are told in."""
    zones = Zones()
    rows = zones.rows({"/b": ["n1"], "/a": ["n1"], "/c": ["n2", "n1"], "/d": ["n1", "n2"]})
    assert [(row.networks, row.sandboxes, row.ttl) for row in rows] == [
        (("n1",), ("/a", "/b"), TTL),
        (("n1", "n2"), ("/d",), TTL),
        (("n2", "n1"), ("/c",), TTL),
    ]
    assert rows == zones.rows({"/d": ["n1", "n2"], "/c": ["n2", "n1"], "/a": ["n1"], "/b": ["n1"]})


def test_names_have_addresses() -> None:
    """Every name that has addresses is there with them."""
    found = plain_names(build_zone((WEB,)))
    assert found[b"\3web\0"] == (bytes((10, 0, 0, 2)),)
    assert found[b"\5tasks\3web\0"] == (bytes((10, 0, 0, 3)),)
    assert len(found) == 10


def test_names_with_more_than_addresses_are_left_out() -> None:
    """An answer that would have additional records is user space's."""
    name = b"\3_80\4_tcp\3web\0"
    zone = Zone(addresses={name: (bytes(4),)}, services={name: ()})
    assert plain_names(zone) == {}
