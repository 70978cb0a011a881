"""A container's resolv.conf, and what it may say there."""

from __future__ import annotations

import pytest

from meshnet.agent import resolvconf
from meshnet.containerspec import DNSConfig
from meshnet.errors import MeshnetError


def test_on_a_network() -> None:
    """The only server is the network's; those that were given stand behind it, and ndots is 0 unless it was given."""
    assert resolvconf.text() == "nameserver 127.0.0.11\noptions ndots:0\n"
    dns = DNSConfig(("8.8.8.8",), ("a.b", "c"), ("timeout:1",))
    assert resolvconf.text(dns) == "nameserver 127.0.0.11\nsearch a.b c\noptions timeout:1 ndots:0\n"
    assert "ndots:0" not in resolvconf.text(DNSConfig(options=("ndots:2",)))
    assert "search" not in resolvconf.text(DNSConfig(search=(".",)))
    assert resolvconf.upstreams(dns.nameservers) == (("8.8.8.8", 53),)


def test_on_none() -> None:
    """Without a network the servers are in the file itself."""
    assert resolvconf.text(embedded=False) == ""
    assert resolvconf.text(DNSConfig(("8.8.8.8", "::1")), embedded=False) == "nameserver 8.8.8.8\nnameserver ::1\n"


@pytest.mark.parametrize(
    "dns", [DNSConfig(("dns.example",)), DNSConfig(search=("a b",)), DNSConfig(options=("x\nnameserver 1.1.1.1",))]
)
def test_what_cannot_be(dns: DNSConfig) -> None:
    """A server that is no address, and words that would break the file, are refused."""
    with pytest.raises(MeshnetError, match="invalid DNS"):
        resolvconf.check(dns)
