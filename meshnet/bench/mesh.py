"""meshnet's own paths: the eBPF data path of several nodes, given hand-made plans; tasks are empty namespaces.

No agent, manager or container is involved, so nothing but the data path is measured, and it is there in a second.
The prober's process is in the cgroup of node `s` alone: there VIPs and the node's own published ports are translated
at the socket, on the other nodes per packet.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping

from meshnet import names
from meshnet.bench.world import World
from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.datapath.rows import EndpointRow, NetworkRow, PeerRow, Plan, PublishedRow, RemoteRow, ServiceRow
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import mac_of

INGRESS, DEMO = 4096, 4097
NODES = {"a": "172.17.0.2", "b": "172.17.0.3", "c": "172.17.0.4", "s": "172.17.0.5"}
OWN = {"a": "10.0.0.2", "b": "10.0.0.3", "c": "10.0.0.4", "s": "10.0.0.5"}
DIRECT = "c"  # the node whose tasks answer straight to the client
SOCKET = "s"
# task -> node, address on the demo network, address on the ingress network ("": not on it)
TASKS = {
    "client": ("a", "10.0.1.10", ""),
    "packet": ("a", "10.0.1.11", ""),
    "rules": ("a", "10.0.1.12", ""),
    "balancer": ("a", "10.0.1.13", ""),
    "director": ("a", "10.0.1.19", ""),
    "local": ("a", "10.0.1.14", "10.0.0.14"),
    "remote": ("b", "10.0.1.15", "10.0.0.15"),
    "straight": ("c", "10.0.1.16", "10.0.0.16"),
    "hooked": ("s", "10.0.1.17", ""),
    "near": ("s", "10.0.1.18", "10.0.0.18"),
}
# VIP -> its backend
VIPS = {"10.0.1.115": "remote", "10.0.1.114": "local", "10.0.1.118": "near"}
# published port, which is also the target port -> its backend
PORTS = {8014: "local", 8015: "remote", 8016: "straight", 8018: "near"}


def demo(task: str) -> str:
    """A task's address on the demo network."""
    return TASKS[task][1]


def ingress(task: str) -> str:
    """A task's address on the ingress network."""
    return TASKS[task][2]


def vip(task: str) -> str:
    """The VIP whose only backend is this task."""
    return next(vip for vip, backend in VIPS.items() if backend == task)


def port(task: str) -> int:
    """The published port, and target port, whose only backend is this task."""
    return next(port for port, backend in PORTS.items() if backend == task)


class Mesh:
    """The nodes' data paths in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._paths = {node: Ebpf(NodeContext(world.name, node, "eth0", ""), space=world.space(node)) for node in NODES}

    def apply(self) -> None:
        """Wires everything. MeshnetError where this machine cannot."""

        async def work() -> None:
            for node, path in self._paths.items():
                await path.apply(self.plan(node))

        asyncio.run(work())

    def plan(self, node: str) -> Plan:
        """What a node must make true."""
        endpoints: list[EndpointRow] = []
        remotes = [RemoteRow(INGRESS, OWN[each], mac_of(OWN[each]), NODES[each]) for each in NODES if each != node]
        for task, (where, *places) in TASKS.items():
            for vni, ip in zip((DEMO, INGRESS), places, strict=True):
                if not ip:
                    continue
                if where != node:
                    remotes.append(RemoteRow(vni, ip, mac_of(ip), NODES[where]))
                    continue
                eth, port = ("eth0" if vni == DEMO else "eth1"), names.port_name(task, vni)
                row = EndpointRow(vni, ip, mac_of(ip), task, self._world.path(task), eth, port, vni == INGRESS)
                endpoints.append(row)
        plan = Plan(
            node=node,
            address=NODES[node],
            addresses=(NODES[node],),
            ingress_vni=INGRESS,
            direct_return=node == DIRECT,
            networks=(
                NetworkRow(INGRESS, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, True, False, OWN[node]),
                NetworkRow(DEMO, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450),
            ),
            endpoints=tuple(endpoints),
            remotes=tuple(remotes),
            peers=tuple(PeerRow(NODES[each]) for each in NODES if each != node),
            services=tuple(ServiceRow(vip, DEMO, vip, (demo(task),)) for vip, task in VIPS.items()),
        )
        published = tuple(
            PublishedRow(task, protocol, port, port, (ingress(task),))
            for port, task in PORTS.items()
            for protocol in ("tcp", "udp")
        )
        return dataclasses.replace(plan, published=published)

    def group(self) -> str:
        """The cgroup in whose sockets VIPs are translated."""
        return str(cgroup2_root() / names.cgroup(self._world.name, SOCKET))

    def drops(self) -> dict[str, int]:
        """Packets dropped so far, by node and reason."""
        return dropped(self._paths)

    def close(self) -> None:
        """Takes everything out of the kernel again."""
        destroy(self._paths.values())


def dropped(paths: Mapping[str, Ebpf]) -> dict[str, int]:
    """Packets that data paths dropped so far, by their names and the reasons."""
    return {
        f"{node}: {name}": count
        for node, path in paths.items()
        for name, count in path.statistics().items()
        if count and name.startswith("drop")
    }


def destroy(paths: Iterable[Ebpf]) -> None:
    """Takes data paths out of the kernel."""

    async def work() -> None:
        for path in paths:
            await path.destroy()

    asyncio.run(work())
