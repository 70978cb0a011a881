"""A lab's underlay: one namespace with a bridge, one namespace per node and client, and a cable to each.

All of it is made in a few netlink batches, and every link carries the lab's mark.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack

from meshnet import names
from meshnet.kernel import netns, sysctl
from meshnet.kernel.channel import Request
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import VethEnd, address_add, bridge_add, link_set, neighbour_add, veth_add
from meshnet.lab.interrupts import postponed
from meshnet.lab.spec import Lab, LabClient, LabNode
from meshnet.model import mac_of

BRIDGE = "underlay"
DEVICE = "eth0"
MANY = 16
"""Hosts above which each knows all others' MACs from the start. What is learned by ARP is limited to 1024 entries by
the kernel, for all namespaces of the machine together (neigh/default/gc_thresh3); permanent entries do not count."""
_IFNAMSIZ = 15


def namespaces(lab: Lab) -> list[str]:
    """Names of the namespaces that `create` makes: the underlay's, then one per node and client."""
    return [names.underlay_netns(lab.name), *(names.node_netns(lab.name, host.name) for host in lab.hosts)]


def port(host: str) -> str:
    """Name of the bridge's end of a host's cable: the host's own name where it fits."""
    if len(host) <= _IFNAMSIZ and host != BRIDGE and host != "lo":
        return host
    return host[:8] + hashlib.sha256(host.encode()).hexdigest()[:7]


_UNFILTERED = {f"net/bridge/bridge-nf-call-{family}": "0" for family in ("iptables", "ip6tables", "arptables")}


def create(lab: Lab) -> None:
    """Makes namespaces, bridge and cables. Raises FileExistsError or NetlinkError; what was made then stays."""
    with postponed():  # the thread that makes them would go on
        netns.create_all(namespaces(lab))
    # Frames on the underlay are no firewall's business, and showing them to it costs a tenth of a packet's way.
    sysctl.ensure(_UNFILTERED, names.underlay_netns(lab.name), missing_ok=True)
    with ExitStack() as stack:
        underlay = stack.enter_context(Netlink(names.underlay_netns(lab.name)))
        underlay.send(bridge_add(BRIDGE, mtu=lab.mtu))
        bridge = underlay.index(BRIDGE)
        requests = [*_finish(BRIDGE, names.mark(lab.name, "underlay", "bridge", BRIDGE))]
        for host in lab.hosts:
            inside = netns.open(names.node_netns(lab.name, host.name))
            stack.callback(os.close, inside)
            requests += _cable(lab, host, bridge, inside)
        underlay.send(*requests)
    for host in lab.hosts:
        with Netlink(names.node_netns(lab.name, host.name)) as inside_link:
            inside_link.send(
                address_add(inside_link.index(DEVICE), host.address, lab.prefix),
                *_finish(DEVICE, names.mark(lab.name, host.name, "underlay", DEVICE)),
            )
            if len(lab.hosts) > MANY:
                index = inside_link.index(DEVICE)
                others = [other.address for other in lab.hosts if other is not host]
                inside_link.send(*(neighbour_add(index, address, mac_of(address)) for address in others))


def _cable(lab: Lab, host: LabNode | LabClient, bridge: int, inside: int) -> list[Request]:
    outer = VethEnd(port(host.name), mtu=lab.mtu, master=bridge)
    inner = VethEnd(DEVICE, mac=mac_of(host.address), mtu=lab.mtu, netns=inside)
    return [veth_add(outer, inner), *_finish(outer.name, names.mark(lab.name, host.name, "cable", outer.name))]


def _finish(link: str, mark: str) -> list[Request]:
    """Quiet before it is up, or the kernel would give it an IPv6 address, and every host would hear of it."""
    return [link_set(link, alias=mark, quiet=True), link_set(link, up=True)]


def plug(lab: Lab, host: str, plugged: bool) -> None:
    """Connects a node's or client's cable to the underlay, or cuts it."""
    with Netlink(names.underlay_netns(lab.name)) as underlay:
        underlay.send(link_set(port(host), up=plugged))


def is_plugged(lab: Lab, host: str) -> bool:
    """Whether the cable is connected. There is none while the lab comes up, or goes."""
    try:
        with Netlink(names.underlay_netns(lab.name)) as underlay:
            link = underlay.link(port(host))
    except FileNotFoundError:
        return False
    return link is not None and link.up
