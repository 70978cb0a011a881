"""A container's resolv.conf and the servers behind its resolver (pure).

On a network the container asks 127.0.0.11, and the name servers that it was given are asked by the node for what no
network knows; without one (`none`, `host`) they are in the file itself. As libnetwork does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from meshnet.containerspec import DNSConfig
from meshnet.dns import RESOLVER_ADDRESS
from meshnet.dns.forward import MAX_UPSTREAMS, Upstream
from meshnet.errors import MeshnetError

PORT = 53
_DOMAIN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_OPTION = re.compile(r"[A-Za-z0-9_:.-]{1,64}")


def check(dns: DNSConfig) -> None:
    """MeshnetError for a server that is no address, a search domain or an option that cannot be one."""
    for server in dns.nameservers:
        try:
            ip_address(server)
        except ValueError:
            raise MeshnetError(f"invalid DNS server: {server!r} is not an IP address") from None
    for domain in dns.search:
        if domain != "." and not _DOMAIN.fullmatch(domain):
            raise MeshnetError(f"invalid DNS search domain: {domain!r}")
    for option in dns.options:
        if not _OPTION.fullmatch(option):
            raise MeshnetError(f"invalid DNS option: {option!r}")


def text(dns: DNSConfig | None = None, embedded: bool = True) -> str:
    """The file's text; with `embedded` the resolver of its networks is the only server named."""
    dns = dns or DNSConfig()
    servers = (RESOLVER_ADDRESS,) if embedded else dns.nameservers
    options = list(dns.options)
    if embedded and not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    if dns.search and dns.search != (".",):
        lines.append(f"search {' '.join(dns.search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join(f"{line}\n" for line in lines)


def upstreams(servers: Iterable[str]) -> tuple[Upstream, ...]:
    """The servers that the resolver asks."""
    return tuple((server, PORT) for server in servers)


def warnings(dns: DNSConfig) -> list[str]:
    """What of it is without effect."""
    if len(dns.nameservers) > MAX_UPSTREAMS:
        return [f"only the first {MAX_UPSTREAMS} DNS servers are asked"]
    return []
