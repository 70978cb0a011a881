"""The encoders and decoders of rtnetlink messages, without a kernel."""

from __future__ import annotations

import struct
import subprocess
import sys

from meshnet.kernel import requests as rt
from meshnet.kernel.attributes import attributes
from meshnet.kernel.dumps import Address, Link, Neighbour, Route, Rule


def test_importing_loads_no_more_of_pyroute2_than_messages() -> None:
    """The netlink module loads pyroute2's message classes only, and a later `import pyroute2` gets all of it."""
    code = (
        "import sys, meshnet.kernel.netlink\n"
        "assert 'pyroute2' not in sys.modules and 'pyroute2.ndb' not in sys.modules\n"
        "import pyroute2; pyroute2.IPRoute"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_requests_decode_to_what_was_asked() -> None:
    """A request's message, read back as a dump's, says what went in."""
    link = Link.decode(rt.vxlan_add("vx0", vni=4097, port=4790, mac="02:42:00:00:00:01", mtu=1400).data[16:])
    assert (link.name, link.kind, link.vni, link.port, link.mtu) == ("vx0", "vxlan", 4097, 4790, 1400)
    assert Address.decode(rt.address_add(7, "10.0.0.5", 24).data[16:]) == Address(7, "10.0.0.5", 24)
    route = rt.route_add("10.0.0.5", index=7, table=100, metric=3).data[16:]
    assert Route.decode(route) == Route("10.0.0.5/32", 7, "", 100, 3, 4, 1)
    default = Route.decode(rt.route_add("default", via="10.0.0.1", index=7).data[16:])
    assert (default.destination, default.via, default.table) == ("default", "10.0.0.1", 254)
    marked = Rule(100, 90, iif="lo", mark=0x6D6E, invert=True)
    neighbour = rt.neighbour_add(7, "10.0.0.5", "02:42:0a:00:00:05").data[16:]
    assert Neighbour.decode(neighbour) == Neighbour(7, "10.0.0.5", "02:42:0a:00:00:05", True)
    assert Rule.decode(rt.rule_add(marked).data[16:]) == marked


def test_ipv6_addresses_are_told_from_ipv4() -> None:
    """IPv6 addresses and routes carry their family and full length."""
    assert rt.address_add(7, "fd00::5", 64).data[16] == 10
    route = Route.decode(rt.route_add("fd00::5", index=7).data[16:])
    assert route.destination == "fd00::5/128"


def test_attributes_stop_at_what_does_not_fit() -> None:
    """Truncated or absurd attribute lengths end the walk without an exception."""
    good = struct.pack("=HHI", 8, 4, 1450)
    assert attributes(good) == {4: good[4:]}
    for bad in (good[:6], good + b"\1", good + struct.pack("=HH", 3, 1), good + struct.pack("=HH", 99, 1)):
        assert set(attributes(bad)) <= {4}
