"""Three nodes and an outside client on one underlay, for packets that really travel.

Nothing here is in a node's cgroup, so VIPs are translated per packet. Node `a` has the task `client` and a backend,
`b` has a backend and a web server of the ingress network, `c` has neither: it only takes requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meshnet import names
from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.datapath.rows import EndpointRow, NetworkRow, PeerRow, Plan, PublishedRow, RemoteRow, ServiceRow
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import VethEnd, address_add, bridge_add, link_set, veth_add
from meshnet.lab import state
from meshnet.lab.down import down
from meshnet.model import mac_of

DEMO, INGRESS = 4097, 4096
ADDRESSES = {"a": "172.17.0.2", "b": "172.17.0.3", "c": "172.17.0.4", "out": "172.17.0.50"}
NODES = ("a", "b", "c")
OWN = {"a": "10.0.0.2", "b": "10.0.0.3", "c": "10.0.0.4"}
VIP, EMPTY = "10.0.1.2", "10.0.1.3"
CLIENT, LOCAL, REMOTE = "10.0.1.5", "10.0.1.6", "10.0.1.7"
WEB_A, WEB_B = "10.0.0.5", "10.0.0.7"
# task -> node, and its addresses by network
TASKS = {
    "client": ("a", {DEMO: CLIENT}),
    "local": ("a", {DEMO: LOCAL, INGRESS: WEB_A}),
    "remote": ("b", {DEMO: REMOTE, INGRESS: WEB_B}),
}
OFFLOADS = ("tx", "rx", "tso", "gso", "gro")
LARGE = 1 << 20


def sweep() -> list[str]:
    """Removes what meshes left whose process was killed; returns their names. A lab of a person is no mesh."""
    places = [cgroup2_root() / "meshnet", Path(names.BPFFS, "meshnet")]
    found = {each.name for place in places if place.is_dir() for each in place.iterdir()}
    found |= {name.split("-")[1] for name in netns.names("mn-p")}
    meshes = {name for name in found if re.fullmatch(r"p\d+", name)} - set(state.up())
    dead = sorted(name for name in meshes if not Path("/proc", name[1:]).exists())
    for name in dead:
        down(name)
    return dead


class Mesh:
    """The nodes, wired by the eBPF data path from plans."""

    def __init__(self) -> None:
        sweep()
        self.lab = f"p{os.getpid()}"

        def make(label: str) -> str:
            name = f"mn-{self.lab}-{label}"
            netns.create(name)
            return name

        self.underlay = make("underlay")
        self.spaces = {name: make(name) for name in ADDRESSES}
        self.tasks = {name: make(name) for name in TASKS}
        with Netlink(self.underlay) as link:
            link.send(bridge_add("br0"))
            bridge = link.index("br0")
            link.send(link_set(bridge, up=True))
            for name in ADDRESSES:
                self._plug(link, bridge, name)
        self.paths = {name: Ebpf(NodeContext(self.lab, name, "eth0", ""), space=self.spaces[name]) for name in NODES}
        self.services = (ServiceRow("s", DEMO, VIP, (LOCAL, REMOTE)), ServiceRow("e", DEMO, EMPTY))
        self.published: tuple[PublishedRow, ...] = ()

    def _plug(self, link: Netlink, bridge: int, name: str) -> None:
        fd = netns.open(self.spaces[name])
        try:
            link.send(veth_add(VethEnd(f"u{name}", master=bridge), VethEnd("eth0", netns=fd)))
            link.send(link_set(f"u{name}", up=True))
            with Netlink(fd) as inside:
                index = inside.index("eth0")
                inside.send(link_set(index, up=True), address_add(index, ADDRESSES[name], 24))
        finally:
            os.close(fd)

    def plan(self, node: str) -> Plan:
        endpoints, remotes = [], [RemoteRow(INGRESS, OWN[n], mac_of(OWN[n]), ADDRESSES[n]) for n in NODES if n != node]
        for task, (where, places) in TASKS.items():
            for number, (vni, ip) in enumerate(sorted(places.items())):
                if where == node:
                    space, port = self.tasks[task], names.port_name(task, vni)
                    row = EndpointRow(vni, ip, mac_of(ip), task, netns.path(space), f"eth{number}", port, number == 0)
                    endpoints.append(row)
                else:
                    remotes.append(RemoteRow(vni, ip, mac_of(ip), ADDRESSES[where]))
        return Plan(
            node=node,
            address=ADDRESSES[node],
            addresses=(ADDRESSES[node],),
            ingress_vni=INGRESS,
            networks=(
                NetworkRow(INGRESS, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, True, False, OWN[node]),
                NetworkRow(DEMO, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450),
            ),
            endpoints=tuple(endpoints),
            remotes=tuple(remotes),
            peers=tuple(PeerRow(ADDRESSES[n]) for n in NODES if n != node),
            services=self.services,
            published=self.published,
        )

    def apply(
        self,
        backends: tuple[str, ...] = (LOCAL, REMOTE),
        web: tuple[str, ...] = (WEB_A, WEB_B),
        direct: bool = False,
    ) -> None:
        """The VIP has these backends, and port 8000 (TCP and UDP, target 80) these; 8009's target port is closed."""
        self.services = (ServiceRow("s", DEMO, VIP, backends), ServiceRow("e", DEMO, EMPTY))
        open_ports = tuple(PublishedRow("s", protocol, 8000, 80, web) for protocol in ("tcp", "udp"))
        self.published = (*open_ports, PublishedRow("closed", "udp", 8009, 9, web))
        for name in NODES:
            plan = dataclasses.replace(self.plan(name), direct_return=direct)
            asyncio.run(self.paths[name].apply(plan))

    def offloads(self, state: str) -> None:
        """Switches checksums and segmentation of every device `on` or `off`: off makes them real on every wire."""
        for space in (self.underlay, *self.spaces.values(), *self.tasks.values()):
            with Netlink(space) as link:
                devices = [each.name for each in link.links() if each.kind == "veth"]
            for device in devices:
                settings = [word for name in OFFLOADS for word in (name, state)]
                inside(space, "ethtool", "-K", device, *settings)

    def counters(self) -> dict[str, dict[str, int]]:
        """What each node counted, without what is zero."""
        return {
            name: {key: count for key, count in path.statistics().items() if count} for name, path in self.paths.items()
        }

    def drops(self) -> dict[str, int]:
        """Packets dropped, by node and reason."""
        return {
            f"{node}: {name}": count
            for node, counts in self.counters().items()
            for name, count in counts.items()
            if name.startswith("drop")
        }

    def checksum_errors(self) -> int:
        """Packets that any stack here refused for their checksum."""
        total = 0
        for space in (*self.spaces.values(), *self.tasks.values()):
            lines = netns.run_in(space, Path("/proc/thread-self/net/snmp").read_text).splitlines()
            for titles, values in zip(lines[::2], lines[1::2], strict=True):
                row = dict(zip(titles.split(), values.split(), strict=True))
                total += int(row.get("InCsumErrors", 0))
        return total

    def close(self) -> None:
        for path in self.paths.values():
            asyncio.run(path.destroy())
        for space in (self.underlay, *self.spaces.values(), *self.tasks.values()):
            netns.delete(space)


def inside(space: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program's run in a namespace."""
    done = subprocess.run(
        ["nsenter", f"--net={netns.path(space)}", *command], capture_output=True, text=True, check=False, timeout=30
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise ConnectionError(f"{size} bytes are missing")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _serve_tcp(listener: socket.socket, name: str, stop: threading.Event) -> None:
    def answer(connection: socket.socket, peer: str) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            size = int.from_bytes(_receive(connection, 4), "big")
            data = _receive(connection, size)
            head = f"{name} {peer} {hashlib.md5(data).hexdigest()}".ljust(80).encode()
            connection.sendall(head + data)

    with listener:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, (peer, _) = listener.accept()
                threading.Thread(target=answer, args=(connection, peer)).start()


def _serve_udp(server: socket.socket, name: str, stop: threading.Event) -> None:
    with server:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                data, peer = server.recvfrom(65535)
                server.sendto(f"{name} {peer[0]} ".ljust(32).encode() + data[32:], peer)


@contextlib.contextmanager
def serving(mesh: Mesh, port: int = 80) -> Iterator[None]:
    """Each task answers TCP and UDP on `port`: its name, who asked as it sees it, and what it got."""
    stop, threads = threading.Event(), []
    for name, space in mesh.tasks.items():
        listener = netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(64)
        datagrams = netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("0.0.0.0", port))
        for server, work in ((listener, _serve_tcp), (datagrams, _serve_udp)):
            server.settimeout(0.05)
            threads.append(threading.Thread(target=work, args=(server, name, stop)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ask_tcp(space: str, address: str, port: int = 80, size: int = LARGE, bind: int = 0) -> tuple[str, str]:
    """Sends and gets back `size` bytes; returns who answered, and whom it saw. `bind` is the client's port."""
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        if bind:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("0.0.0.0", bind))
        connection.connect((address, port))
        assert connection.getpeername() == (address, port)
        data = os.urandom(size)
        sender = threading.Thread(target=connection.sendall, args=(size.to_bytes(4, "big") + data,))
        sender.start()
        name, peer, digest = _receive(connection, 80).decode().split()
        sender.join()
        assert digest == hashlib.md5(data).hexdigest()
        assert _receive(connection, size) == data
        return name, peer


_fresh_ports = itertools.count(20000)


def ask_udp(
    space: str, address: str, port: int = 80, size: int = 64, connected: bool = True, cut: bool = False
) -> tuple[str, str]:
    """The same with one datagram. The answer must come from the address that was asked. `cut`: packets may be
    fragmented on their way (no DF)."""
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as client:
        if cut:
            client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        client.settimeout(5)
        # A port never used before: datagrams of an old one go on to the backend that they had.
        client.bind(("0.0.0.0", next(_fresh_ports)))
        data = bytes(32) + os.urandom(size - 32)
        if connected:
            client.connect((address, port))
            client.send(data)
            answer = client.recv(65535)
        else:
            client.sendto(data, (address, port))
            answer, peer = client.recvfrom(65535)
            assert peer == (address, port)
        assert answer[32:] == data[32:]
        name, seen = answer[:32].decode().split()
        return name, seen


def raises(work: Callable[[], Any]) -> str:
    """The name of the OSError that `work` ends with, or nothing."""
    try:
        work()
    except OSError as error:
        return type(error).__name__
    return ""
