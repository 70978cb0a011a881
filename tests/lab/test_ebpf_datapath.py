"""The eBPF data path of two nodes on an underlay, with tasks in namespaces: plans in, traffic through."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import shutil
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from meshnet import names
from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf import datapath
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.datapath.rows import (
    EndpointRow,
    NetworkRow,
    PeerRow,
    Plan,
    PublishedRow,
    RemoteRow,
    RemovedRow,
    ServiceRow,
)
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.kernel.bpf import attached_cgroup, cgroup2_root
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import VethEnd, address_add, link_set, veth_add
from meshnet.model import mac_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]

LAB = f"t{os.getpid()}"
INGRESS, DEMO = 4096, 4097
VIP = "10.0.1.2"
ADDRESSES = {"a": "172.17.0.2", "b": "172.17.0.3"}
OWN = {"a": "10.0.0.2", "b": "10.0.0.3"}
PLACES = {"a": ("10.0.1.5", "10.0.0.5"), "b": ("10.0.1.6", "10.0.0.6")}  # of each node's one task
PORT, PUBLISHED, TARGET = 8080, 8000, 8081


@dataclass
class Pair:
    """Two nodes `a` and `b`, a task on each, attached to the ingress and the demo network."""

    spaces: dict[str, str]
    tasks: dict[str, str]
    paths: dict[str, Ebpf] = field(default_factory=dict)

    def node(self, name: str) -> Ebpf:
        context = NodeContext(LAB, name, "eth0", f"/run/meshnet/{LAB}/{name}")
        return Ebpf(context, space=self.spaces[name])

    def plan(self, name: str, backends: tuple[str, ...] = ("a", "b")) -> Plan:
        other = "b" if name == "a" else "a"
        task = self.tasks[name]
        local = [(DEMO, PLACES[name][0], "eth1"), (INGRESS, PLACES[name][1], "eth0")]
        remote = [(DEMO, PLACES[other][0]), (INGRESS, PLACES[other][1]), (INGRESS, OWN[other])]
        served = tuple(PLACES[each][1] for each in backends)
        return Plan(
            node=name,
            address=ADDRESSES[name],
            addresses=(ADDRESSES[name],),
            ingress_vni=INGRESS,
            networks=(
                NetworkRow(INGRESS, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, True, False, OWN[name]),
                NetworkRow(DEMO, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450),
            ),
            endpoints=tuple(
                EndpointRow(vni, ip, mac_of(ip), name, task, eth, names.port_name(name, vni), vni == INGRESS)
                for vni, ip, eth in sorted(local)
            ),
            remotes=tuple(RemoteRow(vni, ip, mac_of(ip), ADDRESSES[other]) for vni, ip in sorted(remote)),
            peers=(PeerRow(ADDRESSES[other]),),
            services=(ServiceRow("s", DEMO, VIP, tuple(PLACES[each][0] for each in backends)),),
            published=(PublishedRow("s", "tcp", PUBLISHED, TARGET, served),),
        )

    def run(self, space: str, work: Callable[[], Any], group: str = "") -> Any:
        """What `work` returns in a child inside a namespace and, if named, a node's cgroup."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                netns.enter(space)
                if group:
                    (cgroup2_root() / names.cgroup(LAB, group) / "cgroup.procs").write_text(str(os.getpid()))
                answer: tuple[bool, Any] = (True, work())
            except BaseException as error:
                answer = (False, f"{error!r}\n{traceback.format_exc()}")
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            good, value = pickle.loads(pipe.read())
        os.waitpid(child, 0)
        assert good, value
        return value

    @contextlib.contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """Each task answers TCP on `port` with its node's name and the address of who asked."""
        stop = threading.Event()
        threads = []
        for name, space in self.tasks.items():
            listener = netns.run_in(space, lambda: socket.create_server(("0.0.0.0", port), backlog=64))
            listener.settimeout(0.05)
            threads.append(threading.Thread(target=serve, args=(listener, name, stop)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def serve(listener: socket.socket, name: str, stop: threading.Event) -> None:
    with listener:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, address = listener.accept()
                with client, contextlib.suppress(OSError):
                    client.sendall(f"{name} {address[0]}".encode())


def ask(address: str, port: int) -> list[str]:
    with socket.create_connection((address, port), 15) as client:
        return client.recv(100).decode().split()


@pytest.fixture
def pair(namespaces: Callable[..., str]) -> Iterator[Pair]:
    made = Pair(
        {name: namespaces(f"n{name}") for name in ADDRESSES},
        {name: netns.path(namespaces(f"t{name}")) for name in ADDRESSES},
    )
    other = netns.open(made.spaces["b"])
    try:
        with Netlink(made.spaces["a"]) as link:
            link.send(veth_add(VethEnd("eth0"), VethEnd("eth0", netns=other)))
    finally:
        os.close(other)
    for name, space in made.spaces.items():
        with Netlink(space) as link:
            link.send(address_add(link.index("eth0"), ADDRESSES[name], 24), link_set("eth0", up=True))
    for name in ADDRESSES:
        made.paths[name] = made.node(name)
    try:
        asyncio.run(apply(made))
        yield made
    finally:
        for path in made.paths.values():
            asyncio.run(path.destroy())
        for name in ADDRESSES:
            assert not Path(names.pin_dir(LAB, name)).exists()
            assert not (cgroup2_root() / names.cgroup(LAB, name)).exists()
        with contextlib.suppress(OSError):
            (cgroup2_root() / f"meshnet/{LAB}").rmdir()
            (cgroup2_root() / "meshnet").rmdir()


async def apply(pair: Pair) -> None:
    for name, path in pair.paths.items():
        await path.apply(pair.plan(name))


def ping(space: str, address: str) -> bool:
    command = ["nsenter", f"--net={netns.path(space)}", "ping", "-c1", "-W10", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_tasks_reach_each_other_and_their_services(pair: Pair) -> None:
    """Ping and TCP across nodes; a VIP's backends in turn, at the socket and per packet; published ports anywhere."""
    task = pair.tasks["a"]
    assert ping(task, PLACES["b"][0])
    assert ping(task, VIP)
    with pair.serving(PORT):
        assert pair.run(task, lambda: ask(PLACES["b"][0], PORT)) == ["b", PLACES["a"][0]]
        at_socket = pair.run(task, lambda: [ask(VIP, PORT)[0] for _ in range(4)], "a")
        assert sorted(at_socket[:2]) == sorted(at_socket[2:]) == ["a", "b"]
        per_packet = pair.run(task, lambda: [ask(VIP, PORT)[0] for _ in range(4)])
        assert sorted(per_packet) == ["a", "a", "b", "b"]
    with pair.serving(TARGET):
        from_other_node = pair.run(pair.spaces["b"], lambda: [ask(ADDRESSES["a"], PUBLISHED) for _ in range(4)])
        assert {name for name, _ in from_other_node} == {"a", "b"}
        assert {source for _, source in from_other_node} == {ADDRESSES["b"]}
        on_the_node = pair.run(pair.spaces["a"], lambda: [ask("127.0.0.1", PUBLISHED) for _ in range(4)], "a")
        assert {name for name, _ in on_the_node} == {"a", "b"}
        assert {source for _, source in on_the_node} == {OWN["a"]}
    counters = pair.paths["a"].statistics()
    assert counters["vip_connection"] >= 4
    assert counters["arp_answered"] > 0
    assert counters["drop.malformed"] == 0


def test_apply_is_idempotent_and_observed(pair: Pair) -> None:
    """The same plan again changes nothing, what is observed is the plan, and another object adopts it; pins of other
    layouts go."""

    async def check() -> None:
        plan = pair.plan("a")
        assert not await pair.paths["a"].apply(plan)
        assert await pair.paths["a"].observe() == plan
        await pair.paths["a"].close()
        again = pair.paths["a"] = pair.node("a")
        other = Path(names.pin_dir(LAB, "a")).with_name("v0")
        other.mkdir()
        seen = await again.observe()
        assert [(row.vip, row.backends) for row in seen.services] == [(VIP, plan.services[0].backends)]
        assert [row.ip for row in seen.endpoints] == [row.ip for row in plan.endpoints]
        changes = await again.apply(plan)
        assert (changes.added.keys() - {"rulesets"}, changes.removed) == (set(), {})
        assert not other.exists()

    asyncio.run(check())


def test_traffic_goes_on_while_the_data_path_restarts(pair: Pair) -> None:
    """No request fails while data path objects come, load their programs anew and go."""
    stop = threading.Event()
    failures: list[str] = []

    def restart() -> None:
        async def again() -> None:
            for mark in Path(names.pin_dir(LAB, "a")).glob("loaded_*"):
                mark.rmdir()  # as if the programs were of an older version
            path = pair.node("a")
            await path.apply(pair.plan("a"))
            await path.close()

        while not stop.is_set():
            try:
                asyncio.run(again())
            except BaseException as error:
                failures.append(repr(error))
                return

    with pair.serving(PORT):
        thread = threading.Thread(target=restart)
        first = attached_cgroup(cgroup2_root() / names.cgroup(LAB, "a"), "connect4")
        thread.start()
        try:
            answers = pair.run(pair.tasks["a"], lambda: [ask(VIP, PORT)[0] for _ in range(400)], "a")
            answers += pair.run(pair.tasks["a"], lambda: [ask(VIP, PORT)[0] for _ in range(400)])
        finally:
            stop.set()
            thread.join()
    assert failures == []
    assert set(answers) == {"a", "b"}
    assert attached_cgroup(cgroup2_root() / names.cgroup(LAB, "a"), "connect4") != first


def test_removed_backend(pair: Pair) -> None:
    """After a removal new connections go elsewhere, and one that only reads is ended."""

    def reader() -> tuple[str, str]:
        with socket.create_connection((PLACES["b"][0], PORT + 1), 15) as client:
            plan = dataclasses.replace(
                pair.plan("a", ("a",)),
                remotes=tuple(row for row in pair.plan("a").remotes if row.ip != PLACES["b"][0]),
                removed=(RemovedRow(DEMO, PLACES["b"][0], VIP),),
            )
            asyncio.run(pair.node("a").apply(plan))
            try:
                client.recv(1)
            except OSError as error:
                ended = type(error).__name__
            else:
                ended = "still there"
        return ended, ask(VIP, PORT)[0]

    silent = netns.run_in(pair.tasks["b"], lambda: socket.create_server(("0.0.0.0", PORT + 1)))
    with silent, pair.serving(PORT):
        assert pair.run(pair.tasks["a"], reader, "a") == ("ConnectionAbortedError", "a")


def test_full_map_names_itself(pair: Pair) -> None:
    """A map that is too small is named with what to do, and everything else is applied."""
    context = NodeContext(LAB, "c", "eth0", f"/run/meshnet/{LAB}/c")
    small = Ebpf(context, {"services": 1}, pair.spaces["b"])
    whole = pair.plan("b")
    whole = replace(whole, services=(*whole.services, ServiceRow("t", DEMO, "10.0.1.200", ())))

    async def check() -> None:
        await pair.paths["b"].destroy()
        try:
            with pytest.raises(MeshnetError, match="map services is full"):
                await small.apply(whole)
            assert (await small.observe()).networks == whole.networks
        finally:
            await small.destroy()

    asyncio.run(check())
    with contextlib.suppress(OSError):
        (cgroup2_root() / names.cgroup(LAB, "c")).rmdir()


def test_missing_underlay_is_said(namespaces: Callable[..., str]) -> None:
    """A node without its underlay device is told so in one line, and leaves nothing behind."""
    context = NodeContext(LAB, "c", "eth7", f"/run/meshnet/{LAB}/c")
    path = Ebpf(context, space=namespaces("c"))

    async def check() -> None:
        try:
            with pytest.raises(MeshnetError, match="node c has no device eth7"):
                await path.apply(Plan("c", "172.17.0.9"))
        finally:
            await path.destroy()

    asyncio.run(check())
    assert not datapath.remove_pins(LAB, "c")


def test_capabilities_name_the_fix() -> None:
    """Everything this data path needs is listed; what does not work here says what would help."""
    found = Ebpf(NodeContext(LAB, "c", "eth0", "/nowhere")).capabilities()
    assert {"bpf", "clsact", "cgroup2", "vxlan", "bpftool"} <= {each.name for each in found}
    assert all(each.works or each.fix for each in found)
