"""The links of a node, made in namespaces by the real code: wired, adopted, repaired, isolated and removed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from pulse import Pulse

from meshnet.datapath.base import NodeContext
from meshnet.datapath.links import FALLBACK, NODE_INTERFACE, NODE_PORT, desired
from meshnet.datapath.rows import EndpointRow, NetworkRow, Plan
from meshnet.datapath.wiring import Wired, Wiring
from meshnet.errors import MeshnetError
from meshnet.kernel import netns, nft, sysctl
from meshnet.kernel import requests as rt
from meshnet.kernel.dumps import Rule
from meshnet.kernel.netlink import Netlink
from meshnet.model import mac_of
from meshnet.names import port_name

pytestmark = pytest.mark.root
Make = Callable[..., str]

INGRESS = NetworkRow(4096, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, ingress=True, node_address="10.0.0.2")
DEMO = NetworkRow(4097, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450)
OTHER = NetworkRow(4098, "o", "other", "10.0.2.0/24", "10.0.2.1", 1400)
NODE, CLIENT = "172.17.0.2", "172.17.0.9"


class Bench:
    """A node's namespace with an underlay device to a client, and sandboxes as they are asked for."""

    def __init__(self, make: Make) -> None:
        self.node, self.client, self._make = make("node"), make("client"), make
        self.context = NodeContext("t", "n", "eth0", "/run/meshnet/t/n")
        with netns_fd(self.client) as fd, Netlink(self.node) as here, Netlink(self.client) as there:
            here.send(rt.veth_add(rt.VethEnd("eth0"), rt.VethEnd("eth0", netns=fd)))
            for netlink, address in ((here, NODE), (there, CLIENT)):
                index = netlink.index("eth0")
                netlink.send(rt.link_set(index, quiet=True, alias="meshnet:t:n:underlay:eth0"))
                netlink.send(rt.link_set(index, up=True), rt.address_add(index, address, 24))
            here.send(rt.route_add("default", via=CLIENT))
        self.wiring = Wiring(self.context, self.node, believed=0.0)
        self.plan = Plan("n", NODE, networks=(INGRESS, DEMO, OTHER))

    def task(self, number: int, network: NetworkRow = DEMO, interface: str = "eth0", name: str = "") -> str:
        """Adds an endpoint to the plan; returns the name of its sandbox."""
        name = name or self._make(f"s{number}")
        ip = f"{network.gateway[:-1]}{number}"
        task = f"task{number:08}"
        row = EndpointRow(
            network.vni,
            ip,
            mac_of(ip),
            task,
            netns.path(name),
            interface,
            port_name(task, network.vni),
            interface == "eth0",
        )
        self.plan = dataclasses.replace(self.plan, endpoints=(*self.plan.endpoints, row))
        return name

    def apply(self, full: bool = True) -> Wired:
        return self.wiring.apply(desired(self.plan, self.context), full)


@contextlib.contextmanager
def netns_fd(name: str) -> Iterator[int]:
    """A namespace's descriptor for the length of a with block."""
    fd = netns.open(name)
    yield fd
    os.close(fd)


@pytest.fixture
def bench(namespaces: Make) -> Iterator[Bench]:
    made = Bench(namespaces)
    yield made
    made.wiring.close()


def _nothing(wired: Wired) -> bool:
    return not wired.changes and not wired.failed


def test_a_task_is_wired(bench: Bench) -> None:
    """A sandbox gets its interface with MAC, MTU, address, routes and mark, and the node the way back to it."""
    name = bench.task(5)
    wired = bench.apply()
    row = bench.plan.endpoints[0]
    assert wired.failed == {}
    with Netlink(name) as inside, Netlink(bench.node) as outside:
        eth0, port = inside.link("eth0"), outside.link(row.port)
        assert eth0 is not None
        assert port is not None
        assert (eth0.mac, eth0.mtu, eth0.up, eth0.alias) == (
            row.mac,
            1450,
            True,
            "meshnet:t:n:interface:task00000005/4097",
        )
        assert (port.mtu, port.up, port.alias) == (1450, True, "meshnet:t:n:port:task00000005/4097")
        assert wired.ports == {row.port: port.index}
        assert wired.cookies == {row.netns: netns.cookie(name)}
        assert [(a.address, a.prefix) for a in inside.addresses() if a.index == eth0.index] == [("10.0.1.5", 24)]
        assert [(r.via, r.index) for r in inside.routes() if r.destination == "default"] == [("10.0.1.1", eth0.index)]
        assert [(r.destination, r.index) for r in outside.routes(100)] == [("10.0.1.5/32", port.index)]
        assert [(n.address, n.mac) for n in outside.neighbours(port.index) if n.permanent] == [("10.0.1.5", row.mac)]
        assert inside.addresses(socket.AF_INET6) == [a for a in inside.addresses(socket.AF_INET6) if a.index == 1]


def test_the_node_is_set_up(bench: Bench) -> None:
    """The node gets its fallback device, its interface on the ingress network, settings, rules and firewall."""
    wired = bench.apply()
    with Netlink(bench.node) as netlink:
        fallback, own, port = (netlink.link(name) for name in (FALLBACK, NODE_INTERFACE, NODE_PORT))
        assert fallback is not None
        assert own is not None
        assert port is not None
        assert (fallback.external, fallback.port, fallback.up) == (True, 4789, True)
        assert (own.mac, own.mtu, own.up, port.up) == ("02:42:0a:00:00:02", 1450, True, True)
        assert own.peer == port.index
        assert (wired.fallback, wired.node_port) == (fallback.index, port.index)
        assert wired.underlay == netlink.index("eth0")
        assert Rule(100, 100, iif="lo", invert=True) in netlink.rules()
    assert wired.node_cookie == netns.cookie(bench.node)
    assert sysctl.get("net/ipv4/ip_forward", bench.node) == "1"
    assert sysctl.get("net/ipv4/ip_local_reserved_ports", bench.node) == "2377,4789,7946"
    assert sysctl.get(f"net/ipv4/conf/{NODE_INTERFACE}/rp_filter", bench.node) == "0"
    assert "masquerade" in nft.listing(netns=bench.node)


def test_applying_again_changes_nothing(bench: Bench) -> None:
    """The same plan again costs no change, neither looked at in full nor quickly."""
    for number in range(5, 15):
        bench.task(number)
    assert bench.apply().changes
    assert _nothing(bench.apply())
    assert _nothing(bench.apply(full=False))


def test_a_new_process_adopts(bench: Bench) -> None:
    """A restarted agent finds the same devices, by index, and changes none."""
    bench.task(5)
    before = bench.apply()
    bench.wiring.close()
    bench.wiring = Wiring(bench.context, bench.node)
    after = bench.apply()
    assert (after.ports, after.fallback, after.node_port) == (before.ports, before.fallback, before.node_port)
    assert set(after.changes.added) <= {"rulesets"}
    assert after.changes.removed == {}


def test_two_networks_in_one_sandbox(bench: Bench) -> None:
    """A task on two networks has two interfaces, one default route, and each network's MTU."""
    name = bench.task(5)
    bench.task(5, OTHER, "eth1", name)
    assert bench.apply().failed == {}
    with Netlink(name) as inside:
        assert {link.name: link.mtu for link in inside.links() if link.name != "lo"} == {"eth0": 1450, "eth1": 1400}
        assert [route.via for route in inside.routes() if route.destination == "default"] == ["10.0.1.1"]
    assert _nothing(bench.apply())


def test_damage_inside_a_sandbox_is_repaired(bench: Bench) -> None:
    """A deleted route, a link that is down, a wrong MTU, MAC or address, and a sandbox's lo are put right."""
    name = bench.task(5)
    bench.apply()
    with Netlink(name) as inside:
        eth0 = inside.index("eth0")
        damages = [
            [rt.route_del("default", index=eth0)],
            [rt.link_set(eth0, up=False)],
            [rt.link_set(eth0, mtu=900)],
            [rt.link_set(eth0, mac="02:42:00:00:00:77")],
            [rt.address_del(eth0, "10.0.1.5", 24)],
            [rt.address_add(eth0, "10.0.1.66", 24)],
            [rt.route_del("10.0.1.0/24", index=eth0)],
            [rt.link_set("lo", up=False)],
        ]
        good = (inside.links(), inside.addresses(), sorted(inside.routes(), key=lambda route: route.destination))
        for damage in damages:
            inside.send(*damage)
            wired = bench.apply()
            assert wired.changes, damage[0].what
            assert wired.failed == {}
            assert _nothing(bench.apply()), damage[0].what
            now = (inside.links(), inside.addresses(), sorted(inside.routes(), key=lambda route: route.destination))
            assert now[:2] == good[:2], damage[0].what
            assert [(r.destination, r.via) for r in now[2]] == [(r.destination, r.via) for r in good[2]], damage[0].what


def test_damage_in_the_node_is_repaired(bench: Bench) -> None:
    """Ports, ways back, rules, fallback, ingress interface and firewall are put right, also by a quick apply."""
    bench.task(5)
    port = next(iter(bench.apply().ports.values()))
    with Netlink(bench.node) as node:
        quick = [
            rt.link_set(port, up=False),
            rt.link_set(port, mtu=900),
            rt.route_del("10.0.1.5", index=port, table=100),
            rt.neighbour_del(port, "10.0.1.5"),
            rt.neighbour_add(port, "10.0.1.5", "02:42:00:00:00:77"),
            rt.route_add("10.0.1.77", index=port, table=100),
            rt.link_del(FALLBACK),
            rt.link_del(NODE_INTERFACE),
            rt.link_set(NODE_PORT, up=False),
        ]
        for damage in quick:
            node.send(damage)
            assert bench.apply(full=False).changes, damage.what
            assert _nothing(bench.apply()), damage.what
        node.send(rt.rule_del(Rule(100, 100, iif="lo", invert=True)))
        assert bench.apply().changes.added == {"rules": 1}
        nft.apply("flush chain ip meshnet input", bench.node)
        assert bench.apply().changes.added == {"rulesets": 1}
        sysctl.ensure({"net/ipv4/ip_forward": "0"}, bench.node)
        assert bench.apply().changes.added == {"sysctls": 1}
    assert _nothing(bench.apply())


def test_what_was_just_seen_is_believed(bench: Bench) -> None:
    """Soon after a look, an apply makes and removes what the plan says and looks at nothing else; a full one does."""
    bench.wiring.close()
    bench.wiring = Wiring(bench.context, bench.node, believed=600.0)
    bench.task(5)
    first = bench.apply()
    assert first.looked
    bench.task(6)
    second = bench.apply(full=False)
    assert not second.looked
    assert set(second.ports) == {row.port for row in bench.plan.endpoints}
    assert _nothing(bench.apply()), "something of the new task was left out"
    with Netlink(bench.node) as node:
        node.send(rt.link_set(first.ports[bench.plan.endpoints[0].port], up=False))
        again = bench.apply(full=False)
        assert (_nothing(again), again.ports, again.cookies) == (True, second.ports, second.cookies)
        gone, bench.plan = bench.plan.endpoints[1], dataclasses.replace(bench.plan, endpoints=bench.plan.endpoints[:1])
        assert bench.apply(full=False).changes.removed == {"links": 1}
        assert node.link(gone.port) is None
        assert bench.apply().changes.added
        assert _nothing(bench.apply())


def test_a_pair_torn_apart_is_made_anew(bench: Bench) -> None:
    """A deleted interface, and a sandbox that was made anew under the same name, get a new pair."""
    name = bench.task(5)
    bench.apply()
    with Netlink(name) as inside:
        inside.send(rt.link_del("eth0"))
    assert bench.apply(full=False).changes
    netns.delete(name)
    netns.create(name)
    wired = bench.apply()
    assert wired.failed == {}
    assert wired.cookies == {netns.path(name): netns.cookie(name)}
    with Netlink(name) as inside:
        assert inside.link("eth0") is not None
    assert _nothing(bench.apply())


def test_what_no_plan_claims_goes(bench: Bench) -> None:
    """Ports of endpoints that left the plan are removed with their other ends; devices without our mark stay."""
    names = [bench.task(number) for number in range(5, 9)]
    bench.apply()
    with Netlink(bench.node) as node:
        node.send(rt.bridge_add("somebodys"))
        node.send(rt.link_set("somebodys", alias="meshnet:t:othernode:port:x"))
        bench.plan = dataclasses.replace(bench.plan, networks=(DEMO,), endpoints=bench.plan.endpoints[:1])
        wired = bench.apply()
        assert wired.changes.removed == {"links": 5}  # three ports and both ends of the node's interface
        assert wired.node_port == 0
        left = {link.name for link in node.links()}
        assert left == {"lo", "eth0", FALLBACK, "somebodys", bench.plan.endpoints[0].port}
        assert len(node.routes(100)) == 1
    with Netlink(names[-1]) as inside:
        assert [link.name for link in inside.links()] == ["lo"]


def test_a_sandbox_that_is_gone_is_reported(bench: Bench) -> None:
    """A sandbox that does not exist is named among the failures, and the others are wired all the same."""
    bench.task(5)
    bench.task(6, name="mn-t-no-such")
    wired = bench.apply()
    gone = "/run/netns/mn-t-no-such"
    assert wired.failed == {gone: f"{gone}: No such file or directory"}
    assert list(wired.ports) == [bench.plan.endpoints[0].port]


def test_foreign_devices_are_refused_in_one_line(bench: Bench) -> None:
    """Somebody else's vx0, and a taken VXLAN port, end with a line that says what to do."""
    with Netlink(bench.node) as node:
        node.send(rt.bridge_add(FALLBACK))
        node.send(rt.link_set(FALLBACK, alias="mine"))
        with pytest.raises(MeshnetError, match="vx0 exists and is not meshnet's"):
            bench.apply()
        node.send(rt.link_del(FALLBACK), rt.vxlan_add("mine", vni=7), rt.link_set("mine", up=True))
        with pytest.raises(MeshnetError, match="UDP port 4789 is taken"):
            bench.apply()
        node.send(rt.link_del("mine"))
    assert bench.apply().failed == {}


def test_destroy_leaves_nothing(bench: Bench) -> None:
    """After destroy the node's namespace holds what it held before: no device, route, rule or table of ours."""
    with Netlink(bench.node) as node:

        def state() -> object:
            return (
                [link.name for link in node.links()],
                node.addresses(),
                node.rules(),
                node.routes(100),
                nft.listing(netns=bench.node),
            )

        before = state()
        for number in range(5, 8):
            bench.task(number)
        bench.apply()
        assert state() != before
        bench.wiring.destroy()
        assert state() == before


def test_fifty_endpoints_are_quick(bench: Bench) -> None:
    """Fifty endpoints are wired by one apply in far less than 5 ms each, and looked at again in less."""
    for number in range(5, 55):
        bench.task(number)
    with Pulse() as pulse:
        began = time.monotonic()
        assert bench.apply().failed == {}
        assert pulse.moved(began, time.monotonic()) < 1.0  # 0.1 s alone
    looks: list[float] = []
    while not looks or (looks[-1] >= 0.25 and len(looks) < 5):  # 0.015 s alone; slow by itself, each is
        began = time.monotonic()
        bench.apply()
        looks.append(time.monotonic() - began)
    assert min(looks) < 0.25


class Firewall:
    """A bench with two wired tasks whose packets are marked as the programs mark them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.one, self.two = bench.task(5), bench.task(6, OTHER)
        assert bench.apply().failed == {}
        with Netlink(bench.node) as node:
            for row, network in zip(bench.plan.endpoints, (DEMO, OTHER), strict=True):
                port = node.link(row.port)
                assert port is not None
                with Netlink(row.netns) as inside:
                    inside.send(rt.neighbour_add(inside.index("eth0"), network.gateway, port.mac))

    def mark(self) -> None:
        rule = 'chain m { type filter hook prerouting priority -300; iifname "mnt*" meta mark set 0x6d6e; }'
        nft.apply(f"table ip stand-in {{ {rule}\n}}", self.bench.node)


@pytest.fixture
def firewall(bench: Bench) -> Firewall:
    return Firewall(bench)


def _udp(where: str, address: str = "", port: int = 0, timeout: float = 15.0) -> socket.socket:
    made = netns.socket_in(where, socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(timeout)
    if address:
        made.bind((address, port))
    return made


def test_a_task_reaches_the_outside_under_its_nodes_name(firewall: Firewall) -> None:
    """Marked packets of a task leave with the node's address, and the answers find back."""
    firewall.mark()
    with _udp(firewall.bench.client, CLIENT, 7000) as server, _udp(firewall.one) as task:
        task.sendto(b"hello", (CLIENT, 7000))
        data, sender = server.recvfrom(100)
        assert (data, sender[0]) == (b"hello", NODE)
        server.sendto(b"answer", sender)
        assert task.recvfrom(100) == (b"answer", (CLIENT, 7000))


def test_errors_of_the_nodes_stack_reach_the_task(firewall: Firewall) -> None:
    """A task's packet whose TTL ends at the node is answered with time exceeded, as traceroute expects."""
    firewall.mark()
    with (
        netns.socket_in(firewall.one, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp,
        _udp(firewall.one) as task,
    ):
        icmp.settimeout(15.0)
        task.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        task.sendto(b"x", (CLIENT, 33434))
        kind, code = struct.unpack_from("!BB", icmp.recv(200), 20)
        assert (kind, code) == (11, 0)


def _counted(node: str, hook: str, match: str) -> Callable[[], int]:
    """Counts packets at a hook behind ours: what our rules dropped is not among them."""
    nft.apply(f"table ip count-{hook} {{ chain c {{ type filter hook {hook} priority 10; {match} counter\n}}\n}}", node)

    def read() -> int:
        listing = nft.listing(f"count-{hook}", node)
        return int(listing.split("packets ")[1].split()[0])

    return read


def test_networks_are_isolated_from_one_another(firewall: Firewall) -> None:
    """Packets from one network's task to another's do not pass the node's stack, marked or not."""
    passed = _counted(firewall.bench.node, "forward", 'oifname "mnt*"')
    with (
        _udp(firewall.two, "10.0.2.6", 7000),
        _udp(firewall.one) as task,
        _udp(firewall.bench.client, CLIENT, 7000) as end,
    ):
        task.sendto(b"x", ("10.0.2.6", 7000))
        firewall.mark()
        task.sendto(b"x", ("10.0.2.6", 7000))
        task.sendto(b"done", (CLIENT, 7000))  # sent last through the same device: the others have been decided on
        assert end.recv(100) == b"done"
    assert passed() == 0


def test_unmarked_packets_go_nowhere(firewall: Firewall) -> None:
    """What no program has let out of the overlay is not forwarded."""
    passed = _counted(firewall.bench.node, "forward", 'iifname "mnt*"')
    with _udp(firewall.one) as task, _udp(firewall.bench.client, CLIENT, 7000) as end:
        task.sendto(b"x", (CLIENT, 7000))
        firewall.mark()
        task.sendto(b"done", (CLIENT, 7000))
        assert end.recv(100) == b"done"
    assert passed() == 1


def test_nobody_outside_reaches_a_task(firewall: Firewall) -> None:
    """The underlay cannot route into a task although the node forwards, nor can a task reach its node."""
    firewall.mark()
    passed = _counted(firewall.bench.node, "forward", 'oifname "mnt*"')
    local = _counted(firewall.bench.node, "input", 'iifname "mnt*"')
    with Netlink(firewall.bench.client) as client:
        client.send(rt.route_add("10.0.1.0/24", via=NODE))
    with (
        _udp(firewall.bench.client, CLIENT, 7000) as end,
        _udp(firewall.bench.node, NODE, 7001) as node,
        _udp(firewall.one, "10.0.1.5", 7002) as task,
    ):
        end.sendto(b"x", ("10.0.1.5", 7002))
        task.sendto(b"x", (NODE, 7001))
        end.sendto(b"to the node", (NODE, 7001))
        assert node.recv(100) == b"to the node"
        task.sendto(b"done", (CLIENT, 7000))
        assert end.recv(100) == b"done"
    assert (passed(), local()) == (0, 0)


def _frame(mac: str, source: str, destination: str) -> bytes:
    """An Ethernet frame to `mac` with an IPv4 UDP packet to port 7000, without UDP checksum."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 30, 1, 0, 64, 17, 0) + ends)
    total = sum(struct.unpack("!10H", header))
    struct.pack_into("!H", header, 10, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    ethernet = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00"
    return ethernet + header + struct.pack("!HHHH", 7000, 7000, 10, 0) + b"hi"


def test_the_tunnel_devices_lead_nowhere_through_the_stack(bench: Bench) -> None:
    """What arrives at the node's port or the fallback device and no program takes ends there, and none leaves by them.

    A member of the swarm could otherwise send a packet to any address that the node can reach.
    """
    bench.apply()
    passed = _counted(bench.node, "forward", 'iifname "mning0"')
    local = _counted(bench.node, "input", 'iifname "mning0"')
    out = _counted(bench.node, "postrouting", 'oifname "ing0"')
    with Netlink(bench.node) as node, Netlink(bench.client) as client:
        port = node.link(NODE_PORT)
        assert port is not None
        client.send(rt.route_add("10.0.0.0/24", via=NODE))
    with (
        netns.socket_in(bench.node, socket.AF_PACKET, socket.SOCK_RAW) as raw,
        _udp(bench.client, CLIENT) as end,
        _udp(bench.node, NODE, 7001) as done,
    ):
        for destination in (CLIENT, NODE):
            raw.sendto(_frame(port.mac, "10.0.0.7", destination), (NODE_INTERFACE, 0x0800))
        end.sendto(b"x", ("10.0.0.9", 7000))
        end.sendto(b"done", (NODE, 7001))
        assert done.recv(100) == b"done"
    assert (passed(), local(), out()) == (0, 0, 0)
