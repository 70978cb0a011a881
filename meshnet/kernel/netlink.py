"""rtnetlink: what a namespace holds, as values; changes are made by `send` of what `requests` builds."""

from __future__ import annotations

import errno
import socket
import struct

from meshnet.kernel.channel import Channel, NetlinkError
from meshnet.kernel.dumps import Address, Filter, Link, Neighbour, Route, Rule
from meshnet.kernel.requests import EGRESS, INGRESS

__all__ = ["Netlink", "NetlinkError"]
_NETLINK_ROUTE = 0
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETRULE, _RTM_GETTFILTER = 18, 22, 26, 30, 34, 46
_NAME_SIZE = 16  # IFNAMSIZ
_SKIP_STATISTICS = struct.pack("=HHI", 8, 29, 8)  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS


class Netlink(Channel):
    """An rtnetlink socket in a namespace (name, path or descriptor; None: that of the calling thread)."""

    def __init__(self, netns: str | int | None = None) -> None:
        super().__init__(_NETLINK_ROUTE, netns)

    def links(self) -> list[Link]:
        """Every device of the namespace."""
        return self.dump(_RTM_GETLINK, bytes(16) + _SKIP_STATISTICS, "links", Link.decode)

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        raw = name.encode()
        if not 0 < len(raw) < _NAME_SIZE:
            return None
        attribute = struct.pack("=HH", 5 + len(raw), 3) + raw + bytes(4 - len(raw) % 4)  # IFLA_IFNAME
        try:
            return self.get(_RTM_GETLINK, bytes(16) + attribute + _SKIP_STATISTICS, f"get link {name}", Link.decode)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def index(self, name: str) -> int:
        """Index of the device of that name. Raises NetlinkError (ENODEV)."""
        link = self.link(name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"no link {name}")
        return link.index

    def addresses(self, family: int = socket.AF_INET) -> list[Address]:
        """Every address of a family."""
        return self.dump(_RTM_GETADDR, struct.pack("=BBBBI", family, 0, 0, 0, 0), "addresses", Address.decode)

    def routes(self, table: int | None = None, family: int = socket.AF_INET) -> list[Route]:
        """The unicast routes of a table, or of all."""
        body = bytes([family]) + bytes(11)
        if table is not None:
            body += struct.pack("=HHI", 8, 15, table)
        try:
            found = self.dump(_RTM_GETROUTE, body, "routes", Route.decode)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # nobody has put a route into this table yet
                return []
            raise
        return [route for route in found if route.kind == 1 and table in (None, route.table)]

    def neighbours(self, index: int = 0, family: int = socket.AF_INET) -> list[Neighbour]:
        """The neighbours of one device, or of all; with AF_BRIDGE the entries of VXLAN devices."""
        body = bytes([family]) + bytes(11)
        if index:
            body += struct.pack("=HHI", 8, 8, index)  # NDA_IFINDEX
        found = self.dump(_RTM_GETNEIGH, body, "neighbours", Neighbour.decode)
        return [neighbour for neighbour in found if index in (0, neighbour.index)]

    def rules(self) -> list[Rule]:
        """The IPv4 rules in the order of their priority."""
        return self.dump(_RTM_GETRULE, bytes([socket.AF_INET]) + bytes(11), "rules", Rule.decode)

    def filters(self, index: int) -> list[Filter]:
        """The BPF programs at ingress and egress of a device; none when it has no clsact."""
        found: list[Filter] = []
        for parent in (INGRESS, EGRESS):
            body = struct.pack("=B3xiIII", 0, index, 0, parent, 0)
            try:
                found += self.dump(_RTM_GETTFILTER, body, f"filters of dev {index}", Filter.decode)
            except NetlinkError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
        return found
