"""The floor: the same devices, hooks and helpers as meshnet's data path, with programs that do nothing else (bare.c).

Three nodes: `f1` has two tasks and takes what the outside client asks; `f2` has a task that answers straight to the
client, `f3` one that answers through `f1`. The client asks the tasks' own addresses, by a route: nothing is translated.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from meshnet import names
from meshnet.bench.world import World
from meshnet.kernel import bpfbuild, bpfload, netns, tcx
from meshnet.kernel.bpf import Objects
from meshnet.kernel.netlink import Netlink

SOURCE = Path(__file__).with_name("bare.c")
NODES = {"f1": "172.17.0.91", "f2": "172.17.0.92", "f3": "172.17.0.93"}
# task -> node, address
TASKS = {
    "f1a": ("f1", "10.9.4.1"),
    "f1b": ("f1", "10.9.4.2"),
    "f2t": ("f2", "10.9.4.3"),
    "f3t": ("f3", "10.9.4.4"),
}
VIA = "f3"
CLIENT = "out"
_GATEWAY, _GATEWAY_MAC = "10.9.4.254", "02:02:02:02:02:02"


def address(task: str) -> str:
    """A task's address."""
    return TASKS[task][1]


@contextlib.contextmanager
def bare(world: World, client: str) -> Iterator[None]:
    """Wires the nodes and tasks, which exist and are plugged in; `client` is the outside client's address."""
    program = bpfbuild.cached(SOURCE)
    for task, (node, own) in TASKS.items():
        world.ip(
            node,
            f"link add {task} mtu 1450 type veth peer name eth0 mtu 1450 netns {{{task}}}",
            f"link set {task} up",
        )
        world.ip(
            task,
            "link set eth0 up",
            f"addr add {own}/32 dev eth0",
            f"route add default via {_GATEWAY} dev eth0 onlink",
            f"neigh add {_GATEWAY} lladdr {_GATEWAY_MAC} dev eth0 nud permanent",
        )
        world.ip(CLIENT, f"route add {own}/32 via {NODES['f1']}")
    with contextlib.ExitStack() as stack:
        for node in NODES:
            objects = stack.enter_context(bpfload.load([program], names.pin_dir(world.name, node)))
            _attach(world, node, objects, client)
        try:
            yield
        finally:
            for node in NODES:
                bpfload.unload(Path(names.pin_dir(world.name, node)).parent)


def _attach(world: World, node: str, objects: Objects, client: str) -> None:
    with Netlink(world.space(node)) as netlink:
        here = {task: netlink.index(task) for task, (where, _) in TASKS.items() if where == node}
        underlay = netlink.index("eth0")
        # What a node need not reach is not in its table: f1's tasks never ask f3's over the overlay.
        local = [(address(task), index) for task, index in here.items()]
        remote = [(address(task), _be32(NODES[where])) for task, (where, _) in TASKS.items() if where != node]
        ingress = NODES["f1"] if node == VIA else "0.0.0.0"
        value = struct.pack("=IIII", _be32(NODES[node]), underlay, _be32(client), _be32(ingress))
        for places in (local, remote):
            for ip, where in (*places, ("0.0.0.0", 0), ("0.0.0.0", 0))[:2]:
                value += struct.pack("=II", _be32(ip), where)
        objects.maps["bare_config"].set(struct.pack("=I", 0), value)
        programs = dict.fromkeys(here.values(), objects.progs["task"]) | {underlay: objects.progs["node"]}
        for index, program in programs.items():
            netns.run_in(world.space(node), functools.partial(tcx.attach, index, program, netlink))


def _be32(ip: str) -> int:
    """An address as the number that has its octets in this machine's memory."""
    number: int = struct.unpack("=I", socket.inet_aton(ip))[0]
    return number
