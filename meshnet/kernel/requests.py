"""rtnetlink requests as values, named like iproute2's commands. Building one does no I/O; `Netlink.send` does.

A link is named by its index or, where the kernel can look it up, by its name; addresses, routes, neighbours and
filters want the index. Addresses are text, MACs `02:42:0a:00:00:05`. References: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshnet.kernel.channel import NLM_F_ACK, NLM_F_REQUEST, Request
from meshnet.kernel.dumps import Rule
from meshnet.kernel.messages import fibmsg, ifaddrmsg, ifinfmsg, ndmsg, rtmsg, tcmsg

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_NEW = NLM_F_CREATE | NLM_F_EXCL
_REPLACE = NLM_F_CREATE | NLM_F_REPLACE

RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK = 16, 17, 19
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
RTM_NEWRULE, RTM_DELRULE = 32, 33
RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER = 44, 45

IFF_UP = 1
MAIN_TABLE = 254
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
PROTOCOL_STATIC = 4
RTNH_F_ONLINK = 4
FIB_RULE_INVERT = 2
NUD_PERMANENT, NTF_SELF = 0x80, 2
CLSACT, INGRESS, EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
FILTER_PRIORITY, FILTER_HANDLE = 1, 1  # the place of meshnet's program at each side of a device
_ETH_P_ALL = socket.htons(3)
_HAS_IPV6 = os.path.exists("/proc/sys/net/ipv6")

GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
EXISTS = frozenset({errno.EEXIST})
_NONE: frozenset[int] = frozenset()


def _request(
    cls: Any,
    kind: int,
    flags: int,
    what: str,
    fields: dict[str, int],
    attributes: Sequence[tuple[str, Any]],
    tolerated: frozenset[int] = _NONE,
) -> Request:
    message = cls()
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = list(attributes)
    message.encode()
    return Request(bytes(message.data), what, tolerated)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _common(
    name: str | None, mac: str | None, mtu: int | None, netns: int | None, master: int | None = None
) -> list[tuple[str, Any]]:
    wanted = (
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", mac),
        ("IFLA_MTU", mtu),
        ("IFLA_MASTER", master),
        ("IFLA_NET_NS_FD", netns),
    )
    return [(key, value) for key, value in wanted if value is not None]


def _link_info(kind: str, data: Sequence[tuple[str, Any]]) -> tuple[str, Any]:
    return (
        "IFLA_LINKINFO",
        {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(data)})]},
    )


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a pair: `netns` is a descriptor of the namespace it is made in, None that of the socket."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    netns: int | None = None
    master: int | None = None  # index of a bridge in the namespace of the socket


def veth_add(one: VethEnd, other: VethEnd, *, exist_ok: bool = False) -> Request:
    """A pair of connected devices, both down, each made in its namespace."""
    peer = {"attrs": _common(other.name, other.mac, other.mtu, other.netns)}
    attributes = _common(one.name, one.mac, one.mtu, one.netns, one.master)
    attributes.append(_link_info("veth", [("VETH_INFO_PEER", peer)]))
    what = f"add veth {one.name} peer {other.name}"
    return _request(ifinfmsg, RTM_NEWLINK, _NEW, what, {}, attributes, EXISTS if exist_ok else _NONE)


def bridge_add(name: str, *, mac: str | None = None, mtu: int | None = None) -> Request:
    """A bridge without spanning tree and multicast snooping (which would make it speak), down."""
    data = [("IFLA_BR_STP_STATE", 0), ("IFLA_BR_FORWARD_DELAY", 0), ("IFLA_BR_MCAST_SNOOPING", 0)]
    attributes = [*_common(name, mac, mtu, None), _link_info("bridge", data)]
    return _request(ifinfmsg, RTM_NEWLINK, _NEW, f"add bridge {name}", {}, attributes)


def vxlan_add(
    name: str,
    *,
    vni: int | None = None,
    port: int = 4789,
    local: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
) -> Request:
    """A VXLAN device without learning, down. Without `vni` it is external (collect_md): BPF names VNI and peer."""
    data: list[tuple[str, Any]] = [("IFLA_VXLAN_PORT", port), ("IFLA_VXLAN_LEARNING", 0)]
    if vni is None:
        data.append(("IFLA_VXLAN_COLLECT_METADATA", 1))
    else:
        data.append(("IFLA_VXLAN_ID", vni))
    if local is not None:
        data.append(("IFLA_VXLAN_LOCAL6" if ":" in local else "IFLA_VXLAN_LOCAL", local))
    attributes = [*_common(name, mac, mtu, None), _link_info("vxlan", data)]
    return _request(ifinfmsg, RTM_NEWLINK, _NEW, f"add vxlan {name} port {port}", {}, attributes)


def link_set(
    link: int | str,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    alias: str | None = None,
    name: str | None = None,
    master: int | None = None,
    netns: int | None = None,
    group: int | None = None,
    quiet: bool = False,
) -> Request:
    """Changes what is given. `master` 0 releases from a bridge; `name` renames (give `link` as an index then).

    `quiet`: no IPv6 link-local address will be made, hence no router solicitation and no MLD. The kernel takes
    `up` before `quiet` within one message, so a new device gets them in two.
    """
    attributes = _common(name, mac, mtu, netns, master)
    fields = {"index": link} if isinstance(link, int) else {}
    if isinstance(link, str):
        attributes.insert(0, ("IFLA_IFNAME", link))
    if group is not None:
        attributes.append(("IFLA_GROUP", group))
    if alias is not None:
        attributes.append(("IFLA_IFALIAS", alias))
    if quiet and _HAS_IPV6:
        no_link_local = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]}
        attributes.append(("IFLA_AF_SPEC", {"attrs": [("AF_INET6", no_link_local)]}))
    if up is not None:
        fields |= {"flags": IFF_UP if up else 0, "change": IFF_UP}
    return _request(ifinfmsg, RTM_SETLINK, 0, f"set link {link}", fields, attributes)


def link_del(link: int | str, *, missing_ok: bool = False) -> Request:
    """Removes a device; a veth takes its other end along."""
    fields = {"index": link} if isinstance(link, int) else {}
    attributes = [] if isinstance(link, int) else [("IFLA_IFNAME", link)]
    return _request(ifinfmsg, RTM_DELLINK, 0, f"delete link {link}", fields, attributes, GONE if missing_ok else _NONE)


def group_del(group: int) -> Request:
    """Removes every device of a group at once; an error (ENODEV) when it is empty."""
    return _request(ifinfmsg, RTM_DELLINK, 0, f"delete links of group {group}", {}, [("IFLA_GROUP", group)])


def address_add(index: int, address: str, prefix: int) -> Request:
    """Adds or confirms an address; no error when it is there."""
    family = _family(address)
    attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if family == socket.AF_INET and prefix < 31:
        network = ipaddress.IPv4Network(f"{address}/{prefix}", strict=False)
        attributes.append(("IFA_BROADCAST", str(network.broadcast_address)))
    fields = {"family": family, "prefixlen": prefix, "index": index}
    return _request(ifaddrmsg, RTM_NEWADDR, _REPLACE, f"add address {address}/{prefix} dev {index}", fields, attributes)


def address_del(index: int, address: str, prefix: int, *, missing_ok: bool = False) -> Request:
    """Removes an address, and with it the route of its subnet."""
    return _request(
        ifaddrmsg,
        RTM_DELADDR,
        0,
        f"delete address {address}/{prefix} dev {index}",
        {"family": _family(address), "prefixlen": prefix, "index": index},
        [("IFA_LOCAL", address)],
        GONE if missing_ok else _NONE,
    )


def _route(
    kind: int,
    flags: int,
    what: str,
    destination: str,
    index: int | None,
    via: str | None,
    table: int,
    metric: int | None,
    source: str | None,
    onlink: bool,
    tolerated: frozenset[int],
) -> Request:
    address, _, length = destination.partition("/")
    family = _family(via or address)
    fields = {
        "family": family,
        "dst_len": 0 if destination == "default" else int(length or (128 if ":" in address else 32)),
        "table": table if table < 256 else 0,
        "proto": 0 if kind == RTM_DELROUTE else PROTOCOL_STATIC,
        "scope": SCOPE_LINK if via is None and kind != RTM_DELROUTE else SCOPE_UNIVERSE,
        "type": 0 if kind == RTM_DELROUTE else 1,
        "flags": RTNH_F_ONLINK if onlink else 0,
    }
    if kind == RTM_DELROUTE:
        fields["scope"] = 255  # RT_SCOPE_NOWHERE: any
    wanted = (
        ("RTA_DST", None if destination == "default" else address),
        ("RTA_OIF", index),
        ("RTA_GATEWAY", via),
        ("RTA_TABLE", table),
        ("RTA_PRIORITY", metric),
        ("RTA_PREFSRC", source),
    )
    attributes = [(key, value) for key, value in wanted if value is not None]
    text = f"{what} {destination}" + (f" via {via}" if via else "") + (f" dev {index}" if index else "")
    return _request(rtmsg, kind, flags, f"{text} table {table}", fields, attributes, tolerated)


def route_add(
    destination: str,
    *,
    index: int | None = None,
    via: str | None = None,
    table: int = MAIN_TABLE,
    metric: int | None = None,
    source: str | None = None,
    onlink: bool = False,
    replace: bool = True,
) -> Request:
    """A route for `destination` (`10.0.0.0/24`, an address, or `default`); by default it replaces one in place."""
    flags = _REPLACE if replace else _NEW
    return _route(RTM_NEWROUTE, flags, "add route", destination, index, via, table, metric, source, onlink, _NONE)


def route_del(
    destination: str,
    *,
    index: int | None = None,
    via: str | None = None,
    table: int = MAIN_TABLE,
    metric: int | None = None,
    missing_ok: bool = False,
) -> Request:
    """Removes the first route that fits what is given."""
    tolerated = GONE if missing_ok else _NONE
    return _route(RTM_DELROUTE, 0, "delete route", destination, index, via, table, metric, None, False, tolerated)


def _rule(kind: int, flags: int, rule: Rule, tolerated: frozenset[int]) -> Request:
    fields = {
        "family": socket.AF_INET,
        "table": rule.table if rule.table < 256 else 0,
        "action": 1,  # FR_ACT_TO_TBL
        "flags": FIB_RULE_INVERT if rule.invert else 0,
    }
    attributes: list[tuple[str, Any]] = [("FRA_TABLE", rule.table), ("FRA_PRIORITY", rule.priority)]
    if rule.iif:
        attributes.append(("FRA_IIFNAME", rule.iif))
    if rule.mark:
        attributes.append(("FRA_FWMARK", rule.mark))
    what = f"{'add' if kind == RTM_NEWRULE else 'delete'} {rule}"
    return _request(fibmsg, kind, flags, what, fields, attributes, tolerated)


def rule_add(rule: Rule) -> Request:
    """An IPv4 rule; no error when it is there."""
    return _rule(RTM_NEWRULE, _NEW, rule, EXISTS)


def rule_del(rule: Rule, *, missing_ok: bool = False) -> Request:
    """Removes an IPv4 rule."""
    return _rule(RTM_DELRULE, 0, rule, GONE if missing_ok else _NONE)


def neighbour_add(index: int, address: str, mac: str) -> Request:
    """A permanent neighbour, in place of whatever was known about the address."""
    fields = {"family": _family(address), "ifindex": index, "state": NUD_PERMANENT, "ndm_type": 1}
    return _request(
        ndmsg,
        RTM_NEWNEIGH,
        _REPLACE,
        f"add neighbour {address} lladdr {mac} dev {index}",
        fields,
        [("NDA_DST", address), ("NDA_LLADDR", mac)],
    )


def neighbour_del(index: int, address: str, *, missing_ok: bool = False) -> Request:
    """Removes a neighbour."""
    return _request(
        ndmsg,
        RTM_DELNEIGH,
        0,
        f"delete neighbour {address} dev {index}",
        {"family": _family(address), "ifindex": index},
        [("NDA_DST", address)],
        GONE if missing_ok else _NONE,
    )


def fdb_add(index: int, mac: str, remote: str) -> Request:
    """A VXLAN device's static entry: frames for `mac` go to the VTEP at `remote`."""
    fields = {"family": socket.AF_BRIDGE, "ifindex": index, "state": NUD_PERMANENT, "flags": NTF_SELF}
    return _request(
        ndmsg,
        RTM_NEWNEIGH,
        _REPLACE,
        f"add fdb {mac} dst {remote} dev {index}",
        fields,
        [("NDA_LLADDR", mac), ("NDA_DST", remote)],
    )


def fdb_del(index: int, mac: str, *, missing_ok: bool = False) -> Request:
    """Removes a VXLAN device's entry for `mac`."""
    return _request(
        ndmsg,
        RTM_DELNEIGH,
        0,
        f"delete fdb {mac} dev {index}",
        {"family": socket.AF_BRIDGE, "ifindex": index, "flags": NTF_SELF},
        [("NDA_LLADDR", mac)],
        GONE if missing_ok else _NONE,
    )


def clsact_add(index: int) -> Request:
    """The qdisc that holds BPF programs at a device's ingress and egress; no error when it is there."""
    fields = {"index": index, "handle": 0xFFFF0000, "parent": CLSACT}
    return _request(tcmsg, RTM_NEWQDISC, _NEW, f"add clsact dev {index}", fields, [("TCA_KIND", "clsact")], EXISTS)


def clsact_del(index: int, *, missing_ok: bool = False) -> Request:
    """Removes the qdisc and every program on it."""
    tolerated = GONE | {errno.EINVAL} if missing_ok else _NONE  # EINVAL: the device has no such qdisc
    fields = {"index": index, "handle": 0xFFFF0000, "parent": CLSACT}
    return _request(tcmsg, RTM_DELQDISC, 0, f"delete clsact dev {index}", fields, [("TCA_KIND", "clsact")], tolerated)


def bpf_attach(index: int, fd: int, name: str, *, parent: int = INGRESS, classid: int = 0) -> Request:
    """Puts a program (direct action) at `parent` (INGRESS or EGRESS) of a device that has clsact.

    The program finds the lower 16 bits of `classid` in tc_classid: a number of this place's own.
    One that was put there before is swapped in place: no packet misses both.
    """
    side = "ingress" if parent == INGRESS else "egress"
    attributes = [("TCA_BPF_FD", fd), ("TCA_BPF_NAME", name), ("TCA_BPF_FLAGS", 1)]
    if classid:
        attributes.append(("TCA_BPF_CLASSID", classid))
    options = {"attrs": attributes}
    return _request(
        tcmsg,
        RTM_NEWTFILTER,
        NLM_F_CREATE,
        f"attach program {name} at {side} of dev {index}",
        {"index": index, "handle": FILTER_HANDLE, "parent": parent, "info": FILTER_PRIORITY << 16 | _ETH_P_ALL},
        [("TCA_KIND", "bpf"), ("TCA_OPTIONS", options)],
    )


def bpf_detach(index: int, *, parent: int = INGRESS, missing_ok: bool = False) -> Request:
    """Takes the program at this place away."""
    side = "ingress" if parent == INGRESS else "egress"
    return _request(
        tcmsg,
        RTM_DELTFILTER,
        0,
        f"detach program at {side} of dev {index}",
        {"index": index, "handle": FILTER_HANDLE, "parent": parent, "info": FILTER_PRIORITY << 16 | _ETH_P_ALL},
        [("TCA_KIND", "bpf")],
        GONE | {errno.EINVAL} if missing_ok else _NONE,
    )
