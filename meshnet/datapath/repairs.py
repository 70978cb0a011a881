"""Comparing links as they are with links as they should be: the requests that make up the difference.

Pure: dumps in, requests out. Each function looks at one thing and adds to a `Diff`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from meshnet.datapath.links import TABLE, PortLink
from meshnet.kernel import requests as rt
from meshnet.kernel.channel import Request
from meshnet.kernel.dumps import Address, Link, Neighbour, Route

_IPV6_LEAST_MTU = 1280  # RFC 8200


@dataclass(slots=True)
class Diff:
    """Requests in order, and how many of each table they add (or put right) and remove."""

    requests: list[Request] = field(default_factory=list)
    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)

    def add(self, table: str, *requests: Request) -> None:
        self.requests += requests
        self.added[table] += 1

    def remove(self, table: str, request: Request) -> None:
        self.requests.append(request)
        self.removed[table] += 1

    def include(self, other: Diff) -> None:
        """Counts what another diff did."""
        self.added += other.added
        self.removed += other.removed


def device(diff: Diff, link: Link, *, mark: str, mtu: int, mac: str = "") -> None:
    """Mark, MTU, MAC, silence and being up."""
    quiet = link.quiet
    if link.mtu < _IPV6_LEAST_MTU <= mtu:
        # Only with a larger MTU does the device get its IPv6 part (back), which is not quiet then.
        quiet = False
    if link.mtu != mtu:
        diff.add("links", rt.link_set(link.index, mtu=mtu))
    wrong_mac = bool(mac) and link.mac != mac
    if link.alias != mark or wrong_mac or not quiet:
        alias = mark if link.alias != mark else None
        diff.add("links", rt.link_set(link.index, alias=alias, mac=mac if wrong_mac else None, quiet=not quiet))
    if not link.up:
        diff.add("links", rt.link_set(link.index, up=True))


def address(
    diff: Diff, link: Link, ip: str, prefix: int, addresses: Iterable[Address], routes: Iterable[Route]
) -> None:
    """Exactly one address, and the route of its subnet, which goes when someone deletes it alone."""
    found = {(each.address, each.prefix) for each in addresses if each.index == link.index}
    for other, length in sorted(found - {(ip, prefix)}):
        diff.remove("addresses", rt.address_del(link.index, other, length, missing_ok=True))
    if (ip, prefix) not in found:
        diff.add("addresses", rt.address_add(link.index, ip, prefix))
        return
    subnet = str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False))
    if link.up and not any(route.destination == subnet and route.index == link.index for route in routes):
        diff.add("routes", rt.route_add(subnet, index=link.index, source=ip))


def inside(diff: Diff, fact: PortLink, link: Link, addresses: Sequence[Address], routes: Sequence[Route]) -> None:
    """A task's interface in its sandbox: device, address, default route."""
    device(diff, link, mark=fact.interface_mark, mtu=fact.mtu, mac=fact.mac)
    address(diff, link, fact.ip, fact.prefix, addresses, routes)
    here = [route for route in routes if route.destination == "default" and route.index == link.index]
    for route in here:
        if route.via != fact.gateway:
            request = rt.route_del(
                "default", index=link.index, via=route.via or None, metric=route.metric or None, missing_ok=True
            )
            diff.remove("routes", request)
    if fact.gateway and not any(route.via == fact.gateway for route in here):
        diff.add("routes", rt.route_add("default", index=link.index, via=fact.gateway))


def way_back(
    diff: Diff,
    ports: Mapping[int, PortLink],
    routes: Iterable[Route],
    neighbours: Iterable[Neighbour],
) -> None:
    """Table TABLE and the permanent neighbours of the ports, by which forwarded packets reach tasks.

    `ports` maps the index of a node-side end to its fact; `routes` are those of the table. What others put into the
    table for their own devices and destinations is left alone.
    """
    wanted_routes = {(f"{fact.ip}/32", index) for index, fact in ports.items()}
    mine = {destination for destination, _ in wanted_routes}
    found_routes = {(route.destination, route.index) for route in routes}
    for destination, index in sorted(wanted_routes - found_routes):
        diff.add("routes", rt.route_add(destination, index=index, table=TABLE))
    for destination, index in sorted(found_routes - wanted_routes):
        if index in ports and destination not in mine:
            diff.remove("routes", rt.route_del(destination, index=index, table=TABLE, missing_ok=True))

    wanted = {(index, fact.ip, fact.mac) for index, fact in ports.items()}
    found = {(each.index, each.address, each.mac) for each in neighbours if each.permanent and each.index in ports}
    kept = {(index, ip) for index, ip, _ in wanted}
    for index, ip, mac in sorted(wanted - found):
        diff.add("neighbours", rt.neighbour_add(index, ip, mac))
    for index, ip, _ in sorted(found - wanted):
        if (index, ip) not in kept:
            diff.remove("neighbours", rt.neighbour_del(index, ip, missing_ok=True))


def joined(port: Link | None, interface: Link | None) -> bool:
    """Whether two devices in different namespaces are the two ends of one pair."""
    return (
        port is not None
        and interface is not None
        and port.kind == interface.kind == "veth"
        and port.peer_elsewhere
        and (port.peer, interface.peer) == (interface.index, port.index)
    )
