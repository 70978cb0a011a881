"""The socket programs by real sockets: a task's namespace whose backends are addresses of its own loopback.

Each test runs its sockets in a child process that sits in the task's namespace and in a cgroup of the test's own,
which is where the programs are attached.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import select
import shutil
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshnet.datapath.ebpf import layout, tables, writer
from meshnet.datapath.rows import EndpointRow, NetworkRow, Plan, PublishedRow, ServiceRow
from meshnet.kernel import bpfbuild, bpfload, netns
from meshnet.kernel.bpf import (
    CGROUP_HOOKS,
    Objects,
    attach_cgroup,
    attached_cgroup,
    cgroup2_root,
    detach_cgroup,
)
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import address_add

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]

VNI, INGRESS = 4097, 4096
VIP, EMPTY, BACKENDS = "10.0.1.2", "10.0.1.3", ("10.0.1.5", "10.0.1.6")
NODE = "172.17.0.2"
PORT, PUBLISHED, TARGET = 8080, 8000, 8081


@dataclass(slots=True)
class Setup:
    objects: Objects
    cgroup: Path
    task: str
    node: str
    plan: Plan

    def apply(self, plan: Plan) -> None:
        self.plan = plan
        names = [row.netns for row in plan.endpoints]
        facts = tables.Facts(
            node_cookie=netns.cookie(self.node),
            underlay=1,
            underlay_mac=bytes(6),
            cookies={name: netns.cookie(name) for name in names},
            ports={"mnt0": 1001, "mnt1": 1002},
        )
        current = {name: self.objects.maps[name].items() for name in tables.NAMES}
        report = writer.write(self.objects.maps, current, tables.tables(plan, facts, current))
        assert report.errors == []

    def run(self, work: Callable[[], Any], where: str = "", cgroup: Path | None = None) -> Any:
        """What `work` returns when called in a child in the task's (or another) namespace and the cgroup."""
        reader, writer_end = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                netns.enter(where or self.task)
                ((cgroup or self.cgroup) / "cgroup.procs").write_text(str(os.getpid()))
                answer: tuple[bool, Any] = (True, work())
                code = 0
            except BaseException as error:
                answer = (False, f"{error!r}\n{traceback.format_exc()}")
            os.write(writer_end, pickle.dumps(answer))
            os._exit(code)
        os.close(writer_end)
        with os.fdopen(reader, "rb") as pipe:
            answer = pickle.loads(pipe.read())
        os.waitpid(child, 0)
        assert answer[0], answer[1]
        return answer[1]


def base_plan(task: str) -> Plan:
    return Plan(
        node="n1",
        address=NODE,
        addresses=(NODE,),
        ingress_vni=INGRESS,
        networks=(
            NetworkRow(INGRESS, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, ingress=True),
            NetworkRow(VNI, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450),
        ),
        endpoints=tuple(
            EndpointRow(VNI, ip, f"02:42:0a:00:01:{ip[-1:]:0>2}", f"t{i}", task, "eth0", f"mnt{i}")
            for i, ip in enumerate(BACKENDS)
        ),
        services=(ServiceRow("s", VNI, VIP, BACKENDS), ServiceRow("e", VNI, EMPTY)),
        published=(
            PublishedRow("s", "tcp", PUBLISHED, TARGET, BACKENDS),
            PublishedRow("s", "udp", PUBLISHED, TARGET, BACKENDS),
            PublishedRow("e", "tcp", PUBLISHED + 1, TARGET),
        ),
    )


@pytest.fixture
def setup(namespaces: Callable[..., str]) -> Iterator[Setup]:
    task, node = namespaces("task"), namespaces("node")
    for space, own in ((task, BACKENDS), (node, (*BACKENDS, NODE))):
        with Netlink(space) as link:
            link.send(*(address_add(link.index("lo"), ip, 32) for ip in own))
    pins = Path(f"/sys/fs/bpf/meshnet_test_{os.getpid()}")
    cgroup = cgroup2_root() / f"meshnet_test_{os.getpid()}"
    cgroup.mkdir()
    path = next(path for path in bpfbuild.objects() if path.stem == "socket")
    try:
        with bpfload.load([path], pins) as objects:
            for hook in CGROUP_HOOKS:
                assert attach_cgroup(cgroup, hook, objects.progs[f"meshnet_{hook}"])
            made = Setup(objects, cgroup, task, node, base_plan(netns.path(task)))
            made.apply(made.plan)
            yield made
    finally:
        for hook in CGROUP_HOOKS:
            detach_cgroup(cgroup, hook, f"meshnet_{hook}")
        cgroup.rmdir()
        bpfload.unload(pins)


def with_backends(plan: Plan, *backends: str) -> Plan:
    """The plan with other backends; what is none any more is no endpoint either."""
    endpoints = tuple(row for row in plan.endpoints if row.ip in backends)
    return dataclasses.replace(plan, services=(ServiceRow("s", VNI, VIP, backends),), endpoints=endpoints)


def listen(stack: contextlib.ExitStack, port: int = PORT) -> dict[str, socket.socket]:
    """TCP listeners on every backend address."""
    return {ip: stack.enter_context(socket.create_server((ip, port))) for ip in BACKENDS}


def bound(stack: contextlib.ExitStack, port: int = PORT) -> dict[str, socket.socket]:
    """UDP sockets on every backend address."""
    made = {ip: stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for ip in BACKENDS}
    for ip, each in made.items():
        each.bind((ip, port))
    return made


def ready(sockets: dict[str, socket.socket]) -> str:
    """The backend that has something to read."""
    found, _, _ = select.select(list(sockets.values()), [], [], 5)
    assert len(found) == 1, "no backend, or more than one, got something"
    return next(ip for ip, each in sockets.items() if each is found[0])


def echo(sockets: dict[str, socket.socket]) -> tuple[str, str]:
    """Sends the waiting datagram back; (backend that got it, source address it saw)."""
    ip = ready(sockets)
    data, source = sockets[ip].recvfrom(100)
    sockets[ip].sendto(data, source)
    return ip, source[0]


def mapped(family: socket.AddressFamily, ip: str) -> str:
    return ip if family == socket.AF_INET else f"::ffff:{ip}"


FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "mapped"])


def connect_in_turn(family: socket.AddressFamily, address: str, port: int, target: int) -> list[tuple[str, Any, bytes]]:
    """Four connections: (backend, peer that the client is shown, answer)."""
    seen = []
    with contextlib.ExitStack() as stack:
        servers = listen(stack, target)
        for _ in range(4):
            client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            client.settimeout(5)
            client.connect((mapped(family, address), port))
            ip = ready(servers)
            server, _ = servers[ip].accept()
            with server:
                server.sendall(ip.encode())
                seen.append((ip, client.getpeername()[:2], client.recv(100)))
    return seen


@FAMILIES
def test_connections_go_to_the_backends_in_turn(setup: Setup, family: socket.AddressFamily) -> None:
    """Consecutive TCP connections to a VIP reach the backends in turn, and getpeername shows the VIP."""
    seen = setup.run(lambda: connect_in_turn(family, VIP, PORT, PORT))
    assert [ip for ip, _, _ in seen] in ([*BACKENDS, *BACKENDS], [*BACKENDS[::-1], *BACKENDS[::-1]])
    assert {peer for _, peer, _ in seen} == {(mapped(family, VIP), PORT)}
    assert all(answer == ip.encode() for ip, _, answer in seen)


@FAMILIES
def test_connected_datagrams(setup: Setup, family: socket.AddressFamily) -> None:
    """A connected UDP socket stays with one backend, the next takes the next; replies come from the VIP."""

    def work() -> list[Any]:
        seen = []
        with contextlib.ExitStack() as stack:
            servers = bound(stack)
            for _ in range(2):
                client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                client.settimeout(5)
                client.connect((mapped(family, VIP), PORT))
                for _ in range(2):
                    client.send(b"x")
                    ip, _ = echo(servers)
                    seen.append((ip, client.recvfrom(100)[1][:2], client.getpeername()[:2]))
        return seen

    seen = setup.run(work)
    assert seen[0][0] == seen[1][0] != seen[2][0] == seen[3][0]
    assert {(source, peer) for _, source, peer in seen} == {((mapped(family, VIP), PORT),) * 2}


@FAMILIES
def test_unconnected_datagrams_keep_their_backend(setup: Setup, family: socket.AddressFamily) -> None:
    """An unconnected socket keeps one backend per VIP and port; replies are shown from the VIP."""

    def work() -> list[Any]:
        seen = []
        with contextlib.ExitStack() as stack:
            servers = bound(stack)
            for _ in range(3):
                client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                client.settimeout(5)
                for _ in range(2):
                    client.sendto(b"x", (mapped(family, VIP), PORT))
                    ip, _ = echo(servers)
                    seen.append((ip, client.recvfrom(100)[1][:2]))
        return seen

    seen = setup.run(work)
    backends = [ip for ip, _ in seen]
    assert backends[0::2] == backends[1::2]
    assert len(set(backends)) == 2
    assert {source for _, source in seen} == {(mapped(family, VIP), PORT)}


def test_unconnected_socket_moves_on_when_its_backend_goes(setup: Setup) -> None:
    """After the removal of a backend the next datagram of the same socket goes to another."""
    client = setup.run  # the socket lives in a child, so the plan changes between two of its sends
    reader, told = os.pipe()
    done, tell = os.pipe()

    def work() -> tuple[str, str]:
        with contextlib.ExitStack() as stack:
            servers = bound(stack)
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.settimeout(5)
            sender.sendto(b"x", (VIP, PORT))
            first, _ = echo(servers)
            sender.recv(100)
            os.write(told, first.encode())
            os.read(done, 1)
            sender.sendto(b"x", (VIP, PORT))
            second, _ = echo(servers)
            assert sender.recvfrom(100)[1][0] == VIP
            return first, second

    helper = os.fork()
    if helper == 0:
        with contextlib.suppress(BaseException):
            gone = os.read(reader, 100).decode()
            setup.apply(with_backends(setup.plan, *(ip for ip in BACKENDS if ip != gone)))
        os.write(tell, b"x")
        os._exit(0)
    first, second = client(work)
    os.waitpid(helper, 0)
    for fd in (reader, told, done, tell):
        os.close(fd)
    assert {first, second} == set(BACKENDS)


@FAMILIES
def test_no_backends_refuses_at_once(setup: Setup, family: socket.AddressFamily) -> None:
    """TCP and UDP to a VIP without backends are refused, not dropped."""

    def work() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as stream, pytest.raises(ConnectionRefusedError):
            stream.connect((mapped(family, EMPTY), PORT))
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            with pytest.raises(ConnectionRefusedError):
                datagrams.sendto(b"x", (mapped(family, EMPTY), PORT))
            with pytest.raises(ConnectionRefusedError):
                datagrams.connect((mapped(family, EMPTY), PORT))

    setup.run(work)


def test_other_destinations_are_untouched(setup: Setup) -> None:
    """A connection to a backend's own address, or to the task's loopback, goes where it was sent."""

    def work() -> list[Any]:
        seen = []
        with contextlib.ExitStack() as stack:
            servers = listen(stack)
            local = stack.enter_context(socket.create_server(("127.0.0.1", PUBLISHED)))
            for ip in (BACKENDS[1], BACKENDS[1]):
                client = stack.enter_context(socket.create_connection((ip, PORT), 5))
                stack.enter_context(servers[ready(servers)].accept()[0])
                seen.append(client.getpeername()[0])
            client = stack.enter_context(socket.create_connection(("127.0.0.1", PUBLISHED), 5))
            stack.enter_context(local.accept()[0])
            seen.append(client.getpeername()[0])
        return seen

    assert setup.run(work) == [BACKENDS[1], BACKENDS[1], "127.0.0.1"]


def test_task_of_another_network_is_untouched(setup: Setup, namespaces: Callable[..., str]) -> None:
    """A namespace that is not attached to the VIP's network has no way to it by the socket programs."""
    other = namespaces("other")
    with Netlink(other) as link:  # so that a translated connection would be seen to succeed
        link.send(*(address_add(link.index("lo"), ip, 32) for ip in BACKENDS))

    def work() -> str:
        with contextlib.ExitStack() as stack:
            listen(stack)
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.settimeout(5)
            try:
                client.connect((VIP, PORT))
            except OSError as error:
                return os.strerror(error.errno or 0)
        return "connected"

    assert setup.run(work, other) == "Network is unreachable"


@FAMILIES
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", NODE])
def test_node_uses_its_published_ports(setup: Setup, family: socket.AddressFamily, address: str) -> None:
    """On the node, a published port of 127.0.0.0/8 and of its own addresses leads to the target port, in turn."""
    seen = setup.run(lambda: connect_in_turn(family, address, PUBLISHED, TARGET), setup.node)
    assert {ip for ip, _, _ in seen[:2]} == set(BACKENDS)
    assert {peer for _, peer, _ in seen} == {(mapped(family, address), PUBLISHED)}


def test_node_uses_its_published_ports_by_datagram(setup: Setup) -> None:
    """An unconnected UDP socket of the node reaches a published port, and the reply is shown from it."""

    def work() -> list[Any]:
        with contextlib.ExitStack() as stack:
            servers = bound(stack, TARGET)
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.settimeout(5)
            client.sendto(b"x", ("127.0.0.1", PUBLISHED))
            echo(servers)
            return list(client.recvfrom(100)[1])

    assert setup.run(work, setup.node) == ["127.0.0.1", PUBLISHED]


def test_published_port_without_backends_refuses(setup: Setup) -> None:
    """The node's own connection to a published port that nobody serves is refused at once."""

    def work() -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PUBLISHED + 1), 5)

    setup.run(work, setup.node)


def test_socket_that_connects_again_shows_the_new_peer(setup: Setup) -> None:
    """A UDP socket that was connected to a VIP and then to a backend itself is shown that backend."""

    def work() -> list[str]:
        shown = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for ip in (VIP, *BACKENDS, VIP):
                client.connect((ip, PORT))
                shown.append(client.getpeername()[0])
        return shown

    assert setup.run(work) == [VIP, *BACKENDS, VIP]


def test_sockets_outside_the_cgroup_are_untouched(setup: Setup) -> None:
    """A process that is not in the node's cgroup is not translated: its packets are what the network sees."""

    def work() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            try:
                client.connect((VIP, PORT))
            except OSError as error:
                return os.strerror(error.errno or 0)
        return "connected"

    assert setup.run(work, cgroup=cgroup2_root()) == "Network is unreachable"


def test_new_programs_replace_the_old_in_place(setup: Setup) -> None:
    """Attaching a program again changes nothing; a newer one of the same name takes the old one's place."""
    old = attached_cgroup(setup.cgroup, "connect4")
    assert not attach_cgroup(setup.cgroup, "connect4", setup.objects.progs["meshnet_connect4"])
    aside = setup.objects.directory.with_name(f"meshnet_test_{os.getpid()}_2")
    path = next(path for path in bpfbuild.objects() if path.stem == "socket")
    try:
        with bpfload.load([path], aside) as newer:
            assert attach_cgroup(setup.cgroup, "connect4", newer.progs["meshnet_connect4"])
            assert attached_cgroup(setup.cgroup, "connect4") == [newer.progs["meshnet_connect4"].id] != old
    finally:
        bpfload.unload(aside)


def test_a_set_swapped_in_between_is_not_missed(setup: Setup) -> None:
    """Every connection finds a backend while the sets of backends are changed all the time."""
    stop_reader, stop = os.pipe()

    many = BACKENDS * layout.FEW_BACKENDS  # few would be exchanged with the service's own entry

    def changes() -> int:
        return layout.Service.unpack(setup.objects.maps["services"].items()[layout.address(VIP)]).set

    def work() -> bool:
        with contextlib.ExitStack() as stack:
            servers = listen(stack)
            made, deadline = 0, time.monotonic() + 40
            while made < 300 or changes() <= 2:  # however late the other process gets to its changes
                assert time.monotonic() < deadline
                with socket.create_connection((VIP, PORT), 5) as client:
                    servers[ready(servers)].accept()[0].close()
                    # Reset rather than closed: no port is held by what is over.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made += 1
        return True

    changer = os.fork()
    if changer == 0:
        with contextlib.suppress(BaseException):
            for turn in range(10_000):
                setup.apply(with_backends(setup.plan, *(many if turn % 2 else many[::-1])))
                if select.select([stop_reader], [], [], 0)[0]:
                    break
        os._exit(0)
    try:
        assert setup.run(work)
    finally:
        os.write(stop, b"x")
        os.waitpid(changer, 0)
        os.close(stop)
        os.close(stop_reader)
