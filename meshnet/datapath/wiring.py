"""Making a node's stack what `links.desired` says: adopts what is right, repairs what is wrong, removes the rest.

One `Wiring` per node, kept by the data path. It works in the namespace of the thread that makes it (an agent sits in
its node's), through one netlink socket there and short-lived ones in the sandboxes. Only devices that carry this
lab's and node's mark are ever removed.

What was seen of the node is believed for a while, so that of many changes in a row each costs what it changes. A look
at everything costs 20 us per port.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from meshnet.datapath import repairs
from meshnet.datapath.base import NodeContext
from meshnet.datapath.links import (
    FALLBACK,
    KINDS,
    NODE_INTERFACE,
    NODE_PORT,
    RULES,
    TABLE,
    Fallback,
    Links,
    NodeInterface,
    PortLink,
    format_ports,
    parse_ports,
)
from meshnet.datapath.repairs import Diff
from meshnet.datapath.rows import Changes
from meshnet.errors import MeshnetError
from meshnet.kernel import netns as namespaces
from meshnet.kernel import nft, sysctl
from meshnet.kernel import requests as rt
from meshnet.kernel.dumps import Link
from meshnet.kernel.netlink import Netlink, NetlinkError
from meshnet.names import mark

_PORT = re.compile(r"mnt[0-9a-f]{11}")
_DOOMED = 0x6D6E6464  # a group of links, to remove many at once
_FEW = 50  # devices that are looked at one by one
_SANDBOXES_AT_ONCE = 64  # two descriptors each
_BELIEVED = 1.0  # s
_SELDOM = 50  # a look takes a fiftieth of the time at most
_RESERVED = "net/ipv4/ip_local_reserved_ports"


@dataclass(frozen=True, slots=True)
class Wired:
    """What `apply` found and did.

    `ports` maps names of node-side ends to interface indexes, `cookies` paths of sandboxes to their namespaces'
    cookies; both lack what `failed` tells about (path of a sandbox that is gone or refused something -> one line
    that says what). Indexes are 0 for what does not exist. `underlay_mac` is text,
    `underlay_prefixes` has the addresses of the underlay device with their prefix lengths. `looked`: whether all of
    the node was looked at, or what was seen before was believed.
    """

    changes: Changes
    ports: dict[str, int]
    cookies: dict[str, int]
    node_cookie: int
    fallback: int
    node_port: int
    underlay: int
    underlay_mac: str
    underlay_prefixes: dict[str, int]
    failed: dict[str, str] = field(default_factory=dict)
    looked: bool = True


@dataclass(slots=True)
class _Sandbox:
    """A sandbox's namespace while it is being wired."""

    fd: int
    netlink: Netlink
    links: dict[str, Link] = field(default_factory=dict)


class Wiring:
    """The links of one node. `netns` (name or path) is for tests; by default the caller's namespace is the node's.
    `believed`: for how many seconds what was seen there is not looked at again."""

    def __init__(self, context: NodeContext, netns: str | None = None, believed: float = _BELIEVED) -> None:
        self._context = context
        self._netns = netns
        self._netlink = Netlink(netns)
        self._seen: dict[str, Link] | None = None  # devices by name, as long as nothing is changed
        self._verified: dict[PortLink, tuple[int, int]] = {}  # -> index of the port, cookie of the sandbox
        self._firewall = self._ruleset = ""
        self._settled = False
        self._believed = believed
        self._believe_until = 0.0
        self._last: tuple[Links, Wired] | None = None  # nothing failed then

    def close(self) -> None:
        """Lets go of the socket. Everything stays as it is in the kernel."""
        self._netlink.close()

    def apply(self, links: Links, full: bool = True) -> Wired:
        """Brings the kernel to `links`. `full` looks into every sandbox; without it only into those that are new, and
        at the rest of the node if it was not looked at just before.

        A sandbox that cannot be wired is reported in `failed` and does not keep the others from being. Raises
        MeshnetError or OSError when the node itself cannot be set up. Blocks for some 2 ms per new port and 0.5 ms
        per known one.
        """
        whole = full or not self._settled
        look = whole or time.monotonic() >= self._believe_until
        if not look and self._last is not None and self._last[0] == links:
            return self._last[1]
        begin = time.monotonic()
        diff = Diff()
        failed: dict[str, str] = {}
        self._settled, self._last = False, None
        if look:
            self._seen = None
        if full:
            self._verified.clear()
        self._stack(diff, links, whole)
        self._remove_unclaimed(diff, links)
        if look or (links.node is not None and NODE_INTERFACE not in self._links()):
            self._fallback(diff, links.fallback)
            if links.node is not None:
                self._node_interface(diff, links.node)
        self._ports(diff, links.ports, failed, look)
        wired = self._wired(diff, links, failed, look)
        if look:
            now = time.monotonic()
            self._believe_until = now + (max(self._believed, _SELDOM * (now - begin)) if self._believed else 0.0)
        if not failed:
            self._settled = True
            self._last = links, dataclasses.replace(wired, changes=Changes({}, {}), looked=False)
        return wired

    def destroy(self) -> None:
        """Removes every device, rule and firewall table of this node; settings under /proc/sys stay."""
        self._seen = None
        self._delete(Diff(), [link for link in self._links().values() if self._is_ours(link)])
        self._netlink.send(*(rt.rule_del(rule, missing_ok=True) for rule in RULES))
        nft.delete(netns=self._netns)
        self._verified.clear()
        self._settled, self._last = False, None

    def _links(self) -> dict[str, Link]:
        if self._seen is None:
            self._seen = _by_name(self._netlink)
        return self._seen

    def _see_again(self, names: Sequence[str]) -> None:
        """Looks at devices that were changed, one by one if they are few."""
        if self._seen is None or len(names) > _FEW:
            self._seen = None
            return
        for name in names:
            link = self._netlink.link(name)
            if link is None:
                self._seen.pop(name, None)
            else:
                self._seen[name] = link

    def _send(self, diff: Diff, more: Diff) -> None:
        if more.requests:
            self._seen = None
            self._netlink.send(*more.requests)
        diff.include(more)

    def _stack(self, diff: Diff, links: Links, full: bool) -> None:
        """Firewall before anything that it guards, then settings and rules."""
        if links.ruleset != self._ruleset or (full and nft.fingerprint(netns=self._netns) != self._firewall):
            nft.replace(links.ruleset, self._netns)
            self._firewall = nft.fingerprint(netns=self._netns)
            self._ruleset = links.ruleset
            diff.added["rulesets"] += 1
        diff.added["sysctls"] += self._settings(links, full)
        if full:
            found = self._netlink.rules()
            missing = [rule for rule in links.rules if rule not in found]
            self._netlink.send(*(rt.rule_add(rule) for rule in missing))
            diff.added["rules"] += len(missing)

    def _settings(self, links: Links, full: bool) -> int:
        reserved = set(links.reserved)
        if self._context.lab == "host":  # elsewhere the namespace is ours alone
            reserved |= parse_ports(sysctl.get(_RESERVED, self._netns))
        wanted = {_RESERVED: format_ports(reserved)}
        if full:
            wanted |= {"net/ipv4/ip_forward": "1", "net/ipv4/fwmark_reflect": "1"}
            wanted |= namespaces.run_maybe_in(self._netns, _loose_filters)
        return len(sysctl.ensure(wanted, self._netns))

    def _is_ours(self, link: Link) -> bool:
        if any(link.alias.startswith(mark(self._context.lab, self._context.node, kind, "")) for kind in KINDS):
            return True
        # A crash between making a pair and marking it leaves a name that nobody else would choose.
        return link.kind == "veth" and not link.alias and _PORT.fullmatch(link.name) is not None

    def _remove_unclaimed(self, diff: Diff, links: Links) -> None:
        claimed = {fact.port for fact in links.ports} | {FALLBACK}
        if links.node is not None:
            claimed |= {NODE_INTERFACE, NODE_PORT}
        self._delete(
            diff, [link for link in self._links().values() if self._is_ours(link) and link.name not in claimed]
        )

    def _delete(self, diff: Diff, unwanted: Sequence[Link]) -> None:
        """The kernel waits some 15 ms for its readers at each removal, but only once for a whole group."""
        more = Diff()
        more.requests += [rt.link_set(link.index, group=_DOOMED) for link in unwanted]
        if unwanted:
            more.requests.append(rt.group_del(_DOOMED))
            more.removed["links"] += len(unwanted)
            self._netlink.send(*more.requests)
            self._see_again([link.name for link in unwanted])
        diff.include(more)

    def _claim(self, link: Link) -> None:
        """Raises MeshnetError for a device that is somebody else's. In a lab an unmarked one is ours, from a crash."""
        if not self._is_ours(link) and (link.alias or self._context.lab == "host"):
            raise MeshnetError(
                f"{link.name} exists and is not meshnet's: rename it, or remove it with `ip link del {link.name}`"
            )

    def _fallback(self, diff: Diff, fact: Fallback) -> None:
        more = Diff()
        link = self._links().get(FALLBACK)
        if link is not None:
            self._claim(link)
            if not (link.external and link.port == fact.port):
                more.remove("links", rt.link_del(link.index))
                link = None
        if link is None:
            more.add("links", rt.vxlan_add(FALLBACK, port=fact.port, mtu=fact.mtu))
            self._send(diff, more)
            link, more = self._links().get(FALLBACK), Diff()
            if link is None:
                raise MeshnetError(f"{FALLBACK} vanished while it was being set up")
        repairs.device(more, link, mark=fact.mark, mtu=fact.mtu)
        try:
            self._send(diff, more)
        except NetlinkError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise MeshnetError(
                f"UDP port {fact.port} is taken by another VXLAN device or socket: remove it, or choose another port"
            ) from None
        self._loosen([FALLBACK])

    def _node_interface(self, diff: Diff, fact: NodeInterface) -> None:
        found = self._links()
        one, other = found.get(NODE_INTERFACE), found.get(NODE_PORT)
        for link in (one, other):
            if link is not None:
                self._claim(link)
        if one is None or other is None or (one.peer, other.peer) != (other.index, one.index) or one.peer_elsewhere:
            removal = [rt.link_del(link.index, missing_ok=True) for link in (one, other) if link is not None]
            pair = rt.veth_add(rt.VethEnd(NODE_INTERFACE, fact.mac, fact.mtu), rt.VethEnd(NODE_PORT, None, fact.mtu))
            more = Diff()
            more.add("links", *removal, pair)
            self._send(diff, more)
            found = self._links()
            one, other = found[NODE_INTERFACE], found[NODE_PORT]
        more = Diff()
        repairs.device(more, other, mark=fact.port_mark, mtu=fact.mtu)
        repairs.device(more, one, mark=fact.mark, mtu=fact.mtu, mac=fact.mac)
        repairs.address(
            more, one, fact.address, fact.prefix, self._netlink.addresses(), self._netlink.routes(rt.MAIN_TABLE)
        )
        self._send(diff, more)
        self._loosen([NODE_INTERFACE, NODE_PORT])

    def _ports(self, diff: Diff, facts: Sequence[PortLink], failed: dict[str, str], look: bool) -> None:
        """Both ends of every task's interface, then the ways back to them; without `look` only of those not known."""
        found = self._links()
        self._verified = {
            fact: known
            for fact in facts
            if (known := self._verified.get(fact)) and fact.port in found and found[fact.port].index == known[0]
        }
        unknown = [fact for fact in facts if fact not in self._verified]
        self._wire_all(diff, unknown, failed)
        self._loosen(fact.port for fact in unknown if fact in self._verified)
        judged = facts if look else unknown
        ports = {self._verified[fact][0]: fact for fact in judged if fact in self._verified}
        more = Diff()
        found = self._links()
        for fact in ports.values():
            if fact.port in found:
                repairs.device(more, found[fact.port], mark=fact.mark, mtu=fact.mtu)
        # Before the routes are looked at: a device that was down has lost them.
        self._netlink.send(*more.requests)
        diff.include(more)
        if more.requests:
            self._see_again([fact.port for fact in ports.values()])
        more = Diff()
        if look:
            repairs.way_back(more, ports, self._netlink.routes(TABLE), self._netlink.neighbours())
        else:
            repairs.way_back(more, ports, (), ())
        self._netlink.send(*more.requests)
        diff.include(more)

    def _wire_all(self, diff: Diff, facts: Sequence[PortLink], failed: dict[str, str]) -> None:
        """Pairs and what is inside the sandboxes, some sandboxes at a time; what succeeds is verified."""
        by_sandbox: dict[str, list[PortLink]] = {}
        for fact in facts:
            by_sandbox.setdefault(fact.netns, []).append(fact)
        paths = list(by_sandbox)
        for start in range(0, len(paths), _SANDBOXES_AT_ONCE):
            some = paths[start : start + _SANDBOXES_AT_ONCE]
            with contextlib.ExitStack() as stack:
                opened = _open_sandboxes(some, stack, failed)
                present = [fact for path in opened for fact in by_sandbox[path]]
                self._join(diff, present, opened, failed)
                for path, box in opened.items():
                    self._inside(diff, path, box, by_sandbox[path], failed)

    def _join(self, diff: Diff, facts: Iterable[PortLink], opened: dict[str, _Sandbox], failed: dict[str, str]) -> None:
        """Makes the pairs that do not exist or are not whole; all in one batch."""
        found = self._links()
        more = Diff()
        changed: dict[str, str] = {}  # what a request says it does -> the sandbox that it is for
        made: list[str] = []
        for fact in facts:
            box = opened[fact.netns]
            port, interface = found.get(fact.port), box.links.get(fact.interface)
            if repairs.joined(port, interface):
                continue
            if port is not None:
                more.remove("links", rt.link_del(port.index, missing_ok=True))
            if interface is not None:
                box.netlink.send(rt.link_del(interface.index, missing_ok=True))
            near = rt.VethEnd(fact.port, None, fact.mtu)
            pair = rt.veth_add(near, rt.VethEnd(fact.interface, fact.mac, fact.mtu, box.fd))
            more.add("links", pair)
            changed[pair.what] = fact.netns
            made.append(fact.port)
        if more.requests:
            for request, error in self._netlink.try_send(more.requests):
                if path := changed.get(request.what):
                    failed.setdefault(path, f"{path}: {error}")
            self._see_again(made)
        diff.include(more)
        for path in set(changed.values()):
            opened[path].links = _by_name(opened[path].netlink)

    def _inside(self, diff: Diff, path: str, box: _Sandbox, facts: Iterable[PortLink], failed: dict[str, str]) -> None:
        """One sandbox's interfaces, addresses and routes."""
        more = Diff()
        addresses, routes = box.netlink.addresses(), box.netlink.routes(rt.MAIN_TABLE)
        if not box.links["lo"].up:
            more.add("links", rt.link_set(box.links["lo"].index, up=True))
        wired = []
        for fact in facts:
            link = box.links.get(fact.interface)
            if link is not None:
                repairs.inside(more, fact, link, addresses, routes)
                wired.append((fact, link.peer))
        errors = box.netlink.try_send(more.requests)
        for _, error in errors:
            failed.setdefault(path, f"{path}: {error}")
        diff.include(more)
        if not errors:
            cookie = box.netlink.cookie()
            self._verified |= {fact: (index, cookie) for fact, index in wired}

    def _loosen(self, names: Iterable[str]) -> None:
        """No reverse path filter: the way back to a task is not in the tables that the filter asks."""
        wanted = {f"net/ipv4/conf/{name}/rp_filter": "0" for name in names}
        sysctl.ensure(wanted, self._netns, missing_ok=True)

    def _wired(self, diff: Diff, links: Links, failed: dict[str, str], looked: bool) -> Wired:
        found = self._links()
        known = {fact: self._verified[fact] for fact in links.ports if fact in self._verified}
        underlay = found.get(self._context.underlay)
        return Wired(
            changes=Changes(_positive(diff.added), _positive(diff.removed)),
            ports={fact.port: index for fact, (index, _) in known.items()},
            cookies={fact.netns: cookie for fact, (_, cookie) in known.items()},
            node_cookie=self._netlink.cookie(),
            fallback=found[FALLBACK].index if FALLBACK in found else 0,
            node_port=found[NODE_PORT].index if links.node and NODE_PORT in found else 0,
            underlay=underlay.index if underlay else 0,
            underlay_mac=underlay.mac if underlay else "",
            underlay_prefixes=self._prefixes(underlay.index) if underlay else {},
            failed=failed,
            looked=looked,
        )

    def _prefixes(self, index: int) -> dict[str, int]:
        return {each.address: each.prefix for each in self._netlink.addresses() if each.index == index}


def _open_sandboxes(paths: Sequence[str], stack: contextlib.ExitStack, failed: dict[str, str]) -> dict[str, _Sandbox]:
    def enter(fd: int) -> tuple[int, Netlink]:
        return os.dup(fd), Netlink()

    opened: dict[str, _Sandbox] = {}
    for path, entered in zip(paths, namespaces.visit(paths, enter), strict=True):
        if isinstance(entered, OSError):
            failed[path] = f"{path}: {entered.strerror or entered}"
            continue
        fd, netlink = entered
        stack.callback(os.close, fd)
        stack.enter_context(netlink)
        opened[path] = _Sandbox(fd, netlink, _by_name(netlink))
    return opened


def _by_name(netlink: Netlink) -> dict[str, Link]:
    return {link.name: link for link in netlink.links()}


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {table: count for table, count in sorted(counts.items()) if count > 0}


def _loose_filters() -> dict[str, str]:
    """Settings that let single devices go without reverse path filter and leave it on for the others.

    The kernel takes the higher of `all` and the device's own value, so what `all` said is said by each device.
    """
    strict = sysctl.get("net/ipv4/conf/all/rp_filter")
    if strict == "0":
        return {}
    wanted = {"net/ipv4/conf/all/rp_filter": "0"}
    for name in _devices():
        own = sysctl.get(f"net/ipv4/conf/{name}/rp_filter")
        if own < strict:
            wanted[f"net/ipv4/conf/{name}/rp_filter"] = strict
    return wanted


def _devices() -> Iterator[str]:
    ours = {FALLBACK, NODE_INTERFACE, NODE_PORT}
    for name in os.listdir("/proc/sys/net/ipv4/conf"):
        if name != "all" and name not in ours and not _PORT.fullmatch(name):
            yield name
