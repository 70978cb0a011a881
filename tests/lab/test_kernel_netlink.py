"""rtnetlink: what is asked for is what a dump then shows, and what the ip command shows."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from pulse import Pulse

from meshnet.kernel import netns
from meshnet.kernel import requests as rt
from meshnet.kernel.channel import Request
from meshnet.kernel.dumps import Address, Neighbour, Route, Rule
from meshnet.kernel.netlink import Netlink, NetlinkError

pytestmark = pytest.mark.root
Make = Callable[..., str]
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
MAC_A, MAC_B = "02:42:0a:00:00:01", "02:42:0a:00:00:05"


@pytest.fixture
def pair(namespaces: Make) -> Iterator[tuple[Netlink, Netlink]]:
    """Two namespaces joined by a veth pair (port0 in the first, eth0 in the second), both ends up and quiet."""
    near, far = namespaces("near"), namespaces("far")
    fd = netns.open(far)
    with Netlink(near) as one, Netlink(far) as two:
        one.send(rt.veth_add(rt.VethEnd("port0", MAC_A, 1450), rt.VethEnd("eth0", MAC_B, 1450, netns=fd)))
        os.close(fd)
        one.send(rt.link_set("port0", quiet=True, alias="meshnet:t:n:port:1"), rt.link_set("port0", up=True))
        two.send(rt.link_set("eth0", quiet=True), rt.link_set("eth0", up=True))
        yield one, two


def test_veth_is_made_in_place(pair: tuple[Netlink, Netlink]) -> None:
    """A pair is made straight into its two namespaces with names, MACs, MTU and mark, and knows its other end."""
    one, two = pair
    port, eth0 = one.link("port0"), two.link("eth0")
    assert port is not None
    assert eth0 is not None
    assert (port.mac, port.mtu, port.up, port.alias, port.kind) == (MAC_A, 1450, True, "meshnet:t:n:port:1", "veth")
    assert (eth0.mac, eth0.mtu, eth0.up) == (MAC_B, 1450, True)
    assert port.peer == eth0.index
    assert port.peer_elsewhere


def test_new_links_keep_silent(pair: tuple[Netlink, Netlink]) -> None:
    """A quiet device that comes up gets no IPv6 address, so it sends neither solicitations nor MLD reports."""
    one, two = pair
    for side, name in ((one, "port0"), (two, "eth0")):
        assert [a for a in side.addresses(socket.AF_INET6) if a.index == side.index(name)] == []


def test_addresses_and_routes(pair: tuple[Netlink, Netlink]) -> None:
    """Addresses, default routes, routes of a table and permanent neighbours appear, are replaced, and go."""
    one, two = pair
    port, eth0 = one.index("port0"), two.index("eth0")
    two.send(rt.address_add(eth0, "10.0.0.5", 24), rt.route_add("default", via="10.0.0.1"))
    two.send(rt.address_add(eth0, "10.0.0.5", 24), rt.route_add("default", via="10.0.0.2"))
    assert Address(eth0, "10.0.0.5", 24) in two.addresses()
    assert [(r.via, r.index) for r in two.routes() if r.destination == "default"] == [("10.0.0.2", eth0)]

    assert one.routes(table=100) == []
    one.send(rt.route_add("10.0.0.5", index=port, table=100), rt.neighbour_add(port, "10.0.0.5", MAC_B))
    assert one.routes(table=100) == [Route("10.0.0.5/32", port, "", 100, 0, 4, 1)]
    assert one.neighbours(port) == [Neighbour(port, "10.0.0.5", MAC_B, True)]
    one.send(rt.route_del("10.0.0.5", index=port, table=100), rt.neighbour_del(port, "10.0.0.5"))
    assert one.routes(table=100) == []
    assert one.neighbours(port) == []
    two.send(rt.address_del(eth0, "10.0.0.5", 24))
    assert [a.address for a in two.addresses()] == ["127.0.0.1"]


def test_onlink_route(pair: tuple[Netlink, Netlink]) -> None:
    """A gateway outside every subnet is taken with onlink and refused, with the kernel's reason, without."""
    one, _ = pair
    port = one.index("port0")
    with pytest.raises(NetlinkError, match=r"add route 192\.0\.2\.0/24 via 10\.9\.9\.9.*gateway") as caught:
        one.send(rt.route_add("192.0.2.0/24", via="10.9.9.9", index=port))
    assert caught.value.errno == errno.ENETUNREACH
    one.send(rt.route_add("192.0.2.0/24", via="10.9.9.9", index=port, onlink=True, metric=7))
    assert [(r.via, r.metric) for r in one.routes()] == [("10.9.9.9", 7)]


def test_rule(pair: tuple[Netlink, Netlink]) -> None:
    """`not iif lo lookup 100` is added once however often it is asked for, and removed."""
    one, _ = pair
    add = rt.rule_add(Rule(100, 100, iif="lo", invert=True))
    one.send(add, add)
    assert one.rules().count(Rule(100, 100, iif="lo", invert=True)) == 1
    one.send(rt.rule_del(Rule(100, 100, iif="lo", invert=True)))
    assert Rule(100, 100, iif="lo", invert=True) not in one.rules()


def test_bridge_vxlan_and_fdb(pair: tuple[Netlink, Netlink]) -> None:
    """Bridges, external VXLAN devices and VXLAN devices with static entries come out as asked."""
    one, _ = pair
    one.send(
        rt.bridge_add("br0"),
        rt.vxlan_add("vx0", port=4790),
        rt.vxlan_add("vx1", vni=4097, local="127.0.0.1", mac=MAC_A),
    )
    external, plain, bridge = one.link("vx0"), one.link("vx1"), one.link("br0")
    assert external is not None
    assert plain is not None
    assert bridge is not None
    assert (external.external, external.port, external.vni) == (True, 4790, 0)
    assert (plain.external, plain.port, plain.vni, plain.mac) == (False, 4789, 4097, MAC_A)
    one.send(rt.link_set("port0", master=bridge.index), rt.fdb_add(plain.index, MAC_B, "172.17.0.3"))
    port = one.link("port0")
    assert port is not None
    assert port.master == bridge.index
    entries = one.neighbours(plain.index, socket.AF_BRIDGE)
    assert Neighbour(plain.index, "172.17.0.3", MAC_B, True) in entries
    one.send(rt.fdb_del(plain.index, MAC_B), rt.link_set("port0", master=0), rt.link_del("br0"))
    assert one.neighbours(plain.index, socket.AF_BRIDGE) == []


def test_a_batch_goes_on_after_an_error(pair: tuple[Netlink, Netlink]) -> None:
    """Of many requests in one batch each gets its own answer: the failed one is named, the others are done."""
    one, _ = pair
    port = one.index("port0")
    addresses = [f"10.1.{number // 250}.{number % 250}" for number in range(500)]
    asked = [rt.neighbour_add(port, address, MAC_B) for address in addresses]
    asked.insert(100, rt.link_set("nosuch", up=True))
    failed = one.try_send(asked)
    assert [(request.what, error.errno) for request, error in failed] == [("set link nosuch", errno.ENODEV)]
    assert len(one.neighbours(port)) == 500


def test_missing_things_may_be_missing(pair: tuple[Netlink, Netlink]) -> None:
    """Removing what is not there is an error, or none when missing_ok is given."""
    one, _ = pair
    port = one.index("port0")
    gone: list[tuple[Callable[..., Request], tuple[object, ...]]] = [
        (rt.link_del, ("nosuch",)),
        (rt.route_del, ("10.9.0.0/16",)),
        (rt.neighbour_del, (port, "10.9.9.9")),
        (rt.address_del, (port, "10.9.9.9", 24)),
        (rt.rule_del, (Rule(99, 99),)),
        (rt.clsact_del, (port,)),
        (rt.bpf_detach, (port,)),
    ]
    for build, arguments in gone:
        one.send(build(*arguments, missing_ok=True))
        with pytest.raises(NetlinkError):
            one.send(build(*arguments))


def _program(verdict: int) -> int:
    """Descriptor of a tc program of two instructions that returns `verdict`."""
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0)
    instructions, license_text = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=IIQQ", 3, 2, ctypes.addressof(instructions), ctypes.addressof(license_text)).ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(_SYS_BPF[os.uname().machine], 5, ctypes.create_string_buffer(attr, 128), 128)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def test_programs_are_attached_swapped_and_detached(pair: tuple[Netlink, Netlink]) -> None:
    """A program attached twice at one place is swapped in place; both sides are told apart; detaching empties them."""
    one, _ = pair
    port = one.index("port0")
    drop, through = _program(2), _program(0)
    try:
        one.send(rt.clsact_add(port), rt.clsact_add(port))
        one.send(rt.bpf_attach(port, drop, "drop"), rt.bpf_attach(port, through, "out", parent=rt.EGRESS))
        ingress, egress = one.filters(port)
        assert (ingress.name, ingress.parent, ingress.priority, ingress.handle) == ("drop", rt.INGRESS, 1, 1)
        assert (egress.name, egress.parent) == ("out", rt.EGRESS)
        assert 0 not in (ingress.program, egress.program)
        one.send(rt.bpf_attach(port, through, "through"))
        swapped = [each for each in one.filters(port) if each.parent == rt.INGRESS]
        assert [(each.name, each.program) for each in swapped] == [("through", egress.program)]
        one.send(rt.bpf_detach(port))
        assert [each.name for each in one.filters(port)] == ["out"]
        one.send(rt.clsact_del(port))
        assert one.filters(port) == []
    finally:
        os.close(drop)
        os.close(through)


def test_works_inside_a_running_loop(pair: tuple[Netlink, Netlink]) -> None:
    """Calls work from a coroutine and take so little time that the loop does not notice."""
    one, _ = pair

    async def main() -> float:
        with Pulse() as pulse:
            began = time.monotonic()
            for number in range(20):
                one.send(rt.link_set("port0", mtu=1400 + number))
            return pulse.moved(began, time.monotonic()) / 20

    assert asyncio.run(main()) < 0.02  # 35 microseconds alone


def test_cookie(namespaces: Make) -> None:
    """A socket tells the cookie of the namespace that it lives in."""
    name = namespaces()
    with Netlink(name) as one:
        assert one.cookie() == netns.cookie(name) != netns.cookie()


def test_iproute2_agrees(namespaces: Make) -> None:
    """iproute2 shows a link made here as intended: kind, mark, address generation mode."""
    name = namespaces()
    with Netlink(name) as one:
        one.send(rt.vxlan_add("vx0"), rt.link_set("vx0", quiet=True, alias="meshnet:t:n:fallback:vx0"))
    out = subprocess.run(["ip", "-n", name, "-d", "-j", "link", "show", "vx0"], capture_output=True, check=True)
    (shown,) = json.loads(out.stdout)
    assert shown["ifalias"] == "meshnet:t:n:fallback:vx0"
    assert shown["inet6_addr_gen_mode"] == "none"
    assert shown["linkinfo"]["info_kind"] == "vxlan"
    assert shown["linkinfo"]["info_data"]["external"] is True
    assert shown["linkinfo"]["info_data"]["learning"] is False
