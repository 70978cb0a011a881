"""What a plan says about names."""

from __future__ import annotations

from meshnet.agent.zones import Zones, plain_names
from meshnet.dns.answer import TTL
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone
from meshnet.model import Assignments

WEB = NetworkView(
    "net",
    (ServiceView("s", "web", vip="10.0.0.2", ports=(("", "tcp", 80),)),),
    (EndpointView("s", "web", 1, "t1", "web.1.t1", "c" * 12, "", "10.0.0.3"),),
)


def test_sandboxes_on_the_same_networks_share_a_row() -> None:
    """One row for each order of networks, with all its sandboxes, whatever order they are told in."""
    zones = Zones(Assignments(), ())
    rows = zones.rows({"/b": ["n1"], "/a": ["n1"], "/c": ["n2", "n1"], "/d": ["n1", "n2"]})
    assert [(row.networks, row.sandboxes, row.ttl) for row in rows] == [
        (("n1",), ("/a", "/b"), TTL),
        (("n1", "n2"), ("/d",), TTL),
        (("n2", "n1"), ("/c",), TTL),
    ]
    assert rows == zones.rows({"/d": ["n1", "n2"], "/c": ["n2", "n1"], "/a": ["n1"], "/b": ["n1"]})


def test_names_are_in_order() -> None:
    """Every name that has addresses, the shortest first."""
    found = plain_names(build_zone((WEB,)))
    assert found[0] == (b"\3web\0", (bytes((10, 0, 0, 2)),))
    assert [len(name) for name, _ in found] == sorted(len(name) for name, _ in found)
    assert dict(found)[b"\5tasks\3web\0"] == (bytes((10, 0, 0, 3)),)
    assert len(found) == 10


def test_names_with_more_than_addresses_are_left_out() -> None:
    """An answer that would have additional records is user space's."""
    name = b"\3_80\4_tcp\3web\0"
    zone = Zone(addresses={name: (bytes(4),)}, services={name: ()})
    assert plain_names(zone) == ()
