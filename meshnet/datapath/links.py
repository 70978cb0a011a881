"""What a plan asks of a node's own network stack, whatever programs run on it: devices, addresses, routes, firewall.

A task has one veth per network. Its default route leads to the network's gateway address, which is nobody's: the
program at the node's end answers for it, marks what leaves the overlay and hands it to the node's stack. From there:

    task --eth1--> mnt... --(mark 0x6d6e)--> forward --> masquerade --> underlay
    underlay --> de-masquerade --> rule: not iif lo --> table 100: <task>/32 dev mnt... --> task

Table 100 serves forwarded packets only, so that a process of the node is not routed to tasks; errors that the node's
stack itself answers marked packets with (TTL exceeded, fragmentation needed) find back through the second rule, since
`fwmark_reflect` makes such an answer carry the mark. The firewall closes what these routes would open: from network
to network, from the node or the underlay to a task, from a task to the node.

What a task sends leaves with a port of the node's as its source. A reply to a published port would be taken for a
client's request, so masquerading keeps to a span of ports none of which is published.

Everything here is pure: `desired` computes, `wiring` makes it so.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass

from meshnet.datapath.base import NodeContext
from meshnet.datapath.rows import EndpointRow, NetworkRow, Plan
from meshnet.kernel.dumps import Rule
from meshnet.model import mac_of
from meshnet.names import mark

MARK = 0x6D6E  # "mn"
TABLE = 100
FALLBACK = "vx0"
NODE_INTERFACE, NODE_PORT = "ing0", "mning0"
KINDS = ("port", "ingress", "fallback")  # of ownership marks, for what is made here
_FALLBACK_MTU = 65000  # what is too big for the underlay is fragmented behind this device, not refused before it
_NODE_PORTS = (2377, 7946)

RULES = (Rule(TABLE, 100, iif="lo", invert=True), Rule(TABLE, 101, mark=MARK))

_MASQUERADE = (32768, 60999)  # the stack's own range for connections (ip_local_port_range)
_HIGHEST = 65535

RULESET = f"""table ip meshnet {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "mnt*" meta mark != {MARK:#x} drop
    iifname "mnt*" oifname "mnt*" drop
    iifname {{ "{NODE_INTERFACE}", "{NODE_PORT}", "{FALLBACK}" }} drop
    oifname "mnt*" ct state established,related accept
    oifname {{ "{NODE_INTERFACE}", "{NODE_PORT}", "{FALLBACK}" }} drop
    oifname "mnt*" drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "mnt*" drop
    iifname {{ "{NODE_PORT}", "{FALLBACK}" }} drop
    iifname "{NODE_INTERFACE}" ct state != {{ established, related }} drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "mnt*" ct state established,related accept
    oifname "mnt*" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark {MARK:#x} oifname != "mnt*" meta l4proto {{ tcp, udp }} masquerade to :$first-$last
    meta mark {MARK:#x} oifname != "mnt*" masquerade
  }}
}}"""


@dataclass(frozen=True, slots=True)
class PortLink:
    """A task's interface on one network and its other end, `port`, in the node's namespace.

    `gateway` is that of its default route, "" if this interface has none. `mark` and `interface_mark` are the ifalias
    of the two ends.
    """

    port: str
    mark: str
    netns: str
    interface: str
    interface_mark: str
    mac: str
    mtu: int
    ip: str
    prefix: int
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class NodeInterface:
    """The node's own interface on the ingress network (NODE_INTERFACE) and its other end in the same namespace."""

    address: str
    prefix: int
    mac: str
    mtu: int
    mark: str
    port_mark: str


@dataclass(frozen=True, slots=True)
class Fallback:
    """The kernel's own VXLAN device: external, so that a program names VNI and peer of each packet."""

    port: int
    mtu: int
    mark: str


@dataclass(frozen=True, slots=True)
class Links:
    """What one node's stack must hold. `reserved` are local ports that its own connections must not take."""

    ports: tuple[PortLink, ...]
    node: NodeInterface | None
    fallback: Fallback
    reserved: tuple[int, ...]
    ruleset: str
    rules: tuple[Rule, ...] = RULES


def desired(plan: Plan, context: NodeContext) -> Links:
    """The devices, addresses and ports a plan needs on its node. Endpoints of networks the plan lacks are left out."""
    networks = {network.vni: network for network in plan.networks}
    prefixes = {network.vni: _prefix(network) for network in plan.networks}
    ports = tuple(
        _port(row, networks[row.vni], prefixes[row.vni], context) for row in plan.endpoints if row.vni in networks
    )
    ingress = next((row for row in plan.networks if row.ingress and row.node_address), None)
    taken = {row.port for row in plan.published} | ({context.resolver} if context.resolver else set())
    return Links(
        ports=ports,
        node=_node_interface(ingress, context) if ingress else None,
        fallback=Fallback(context.vxlan_port, _FALLBACK_MTU, _mark(context, "fallback", FALLBACK)),
        reserved=tuple(sorted({context.vxlan_port, *_NODE_PORTS, *taken})),
        ruleset=ruleset(taken),
    )


def ruleset(taken: set[int]) -> str:
    """The firewall and what masquerades, in nft(8) syntax. Ports that are `taken` are no masqueraded sources."""
    first, last = masquerade_ports(taken)
    return RULESET.replace("$first", str(first)).replace("$last", str(last))


def masquerade_ports(published: set[int]) -> tuple[int, int]:
    """The longest span, first and last, without a published port; the same for as long as none is in the range that
    the stack itself uses. If everything is published there is nothing to choose."""
    first, last = _MASQUERADE
    if not any(first <= port <= last for port in published):
        return _MASQUERADE
    bounds = [first - 1, *sorted(port for port in published if port >= first), _HIGHEST + 1]
    spans = [(low + 1, high - 1) for low, high in itertools.pairwise(bounds)]
    low, high = max(spans, key=lambda span: span[1] - span[0])
    return (low, high) if low <= high else _MASQUERADE


def _port(row: EndpointRow, network: NetworkRow, prefix: int, context: NodeContext) -> PortLink:
    ident = f"{row.task[:12]}/{row.vni}"
    return PortLink(
        port=row.port,
        mark=_mark(context, "port", ident),
        netns=row.netns,
        interface=row.interface,
        interface_mark=_mark(context, "interface", ident),
        mac=row.mac,
        mtu=network.mtu,
        ip=row.ip,
        prefix=prefix,
        gateway=network.gateway if row.default_route else "",
    )


def _node_interface(network: NetworkRow, context: NodeContext) -> NodeInterface:
    return NodeInterface(
        address=network.node_address,
        prefix=_prefix(network),
        mac=mac_of(network.node_address),
        mtu=network.mtu,
        mark=_mark(context, "ingress", NODE_INTERFACE),
        port_mark=_mark(context, "ingress", NODE_PORT),
    )


def _prefix(network: NetworkRow) -> int:
    return ipaddress.ip_network(network.subnet).prefixlen


def _mark(context: NodeContext, kind: str, ident: str) -> str:
    return mark(context.lab, context.node, kind, ident)


def parse_ports(text: str) -> set[int]:
    """Port numbers of an `ip_local_reserved_ports` value such as `2377,4789-4790`. ValueError if it is none."""
    ports: set[int] = set()
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            ports.update(range(int(first), int(last or first) + 1))
    return ports


def format_ports(ports: set[int]) -> str:
    """The shortest `ip_local_reserved_ports` value, as the kernel prints it."""
    spans: list[list[int]] = []
    for port in sorted(ports):
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
