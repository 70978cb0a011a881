"""A name server in Python, in a process of its own: `python -m meshnet.bench.dns_server meshnet|dnslib`.

Reads one line of JSON from stdin, {name: [address ...]}, and serves until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from dnslib import QTYPE, RR, A, DNSRecord

from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT
from meshnet.dns.answer import TTL
from meshnet.dns.names import wire_name
from meshnet.dns.server import Resolver
from meshnet.dns.zone import Zone


def main() -> None:
    """Serves what stdin says, as sys.argv[1] says."""
    names: dict[str, list[str]] = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()
    if sys.argv[1] == "meshnet":
        asyncio.run(_meshnet(names))
    else:
        _dnslib(names)


def _follow_parent() -> None:
    sys.stdin.read()
    os._exit(0)


async def _meshnet(names: Mapping[str, Sequence[str]]) -> None:
    """What a task's name server is."""
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for each in (udp, tcp):
        each.bind((RESOLVER_ADDRESS, RESOLVER_PORT))
    addresses = {wire_name(name) or b"": tuple(ip_address(ip).packed for ip in ips) for name, ips in names.items()}
    await Resolver(udp, tcp, Zone(addresses), ()).start()
    await asyncio.Event().wait()


def _dnslib(names: Mapping[str, Sequence[str]]) -> None:
    """The least that a server with dnslib does: read the query, add records, pack, in a loop without a framework."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 53))
    while True:
        message, client = udp.recvfrom(4096)
        reply = (query := DNSRecord.parse(message)).reply(aa=0)
        if query.q.qtype == QTYPE.A:
            for ip in names[str(query.q.qname).rstrip(".").lower()]:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(ip), ttl=TTL))
        udp.sendto(reply.pack(), client)


if __name__ == "__main__":
    main()
