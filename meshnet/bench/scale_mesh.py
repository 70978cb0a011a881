"""The namespaces of `meshnet bench scale`: for each number of services a node that has them all, a task on it, and a
node that serves its published ports; one client outside, one place where all backends behind VIPs are, and one client
that asks these without meshnet.

That place is no node of meshnet's, so that it costs the same whatever the number: a plain VXLAN device, and a route
that makes every backend's address its own. Published ports end at a node of meshnet's, since it translates: the
records of all their backends name the MAC of the one task there, which serves them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshnet import names
from meshnet.bench.mesh import destroy, dropped
from meshnet.bench.population import (
    BEHIND_VIPS,
    DEMO,
    FIRST_PORT,
    GATEWAYS,
    INGRESS,
    SUBNETS,
    TARGET_PORT,
    VIPS,
    Place,
    address,
    map_sizes,
)
from meshnet.bench.world import World
from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf.datapath import Ebpf
from meshnet.datapath.rows import EndpointRow, NetworkRow, PeerRow, Plan, PublishedRow, RemoteRow
from meshnet.kernel import bpfbuild
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import mac_of

FAR, NEAR, OUT = "far", "near", "out"
_UNDERLAY = {FAR: "172.17.0.2", NEAR: "172.17.0.3", OUT: "172.17.0.4"}
_FAR_MAC = "02:02:02:02:02:02"
_MTU = 1450
# One task stands for all backends of published ports, so connections of one client to different ports may look alike
# to it, and get another client port: seldom, while only so many are remembered.
_FEW_FLOWS = {"backend_flows": 1024, "moved": 1024}


@dataclass(frozen=True, slots=True)
class Site:
    """What belongs to one number of services: labels of namespaces, and addresses. `again`: only there to show how two
    nodes differ that have the same."""

    services: int
    index: int
    again: bool = False

    @property
    def key(self) -> str:
        return "again" if self.again else str(self.services)

    @property
    def title(self) -> str:
        return f"{self.services:,} services" + (" again" if self.again else "")

    @property
    def node(self) -> str:
        return f"n{self.index}"

    @property
    def task(self) -> str:
        return f"t{self.index}"

    @property
    def server(self) -> str:
        """The node that serves the published ports."""
        return f"b{self.index}"

    @property
    def served(self) -> str:
        """The task there."""
        return f"s{self.index}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.node, self.task, self.server, self.served)

    @property
    def address(self) -> str:
        """The node's address on the underlay."""
        return f"172.17.0.{10 + 2 * self.index}"

    @property
    def place(self) -> Place:
        return Place(
            node=self.node,
            address=self.address,
            ingress=address(GATEWAYS[INGRESS], 1 + 2 * self.index),
            task=address(GATEWAYS[DEMO], 1 + self.index),
            peers={FAR: _UNDERLAY[FAR], self.server: self._server_address},
            vips=FAR,
            vips_mac=_FAR_MAC,
            ports=self.server,
            ports_mac=mac_of(self._served_address),
        )

    @property
    def _server_address(self) -> str:
        return f"172.17.0.{11 + 2 * self.index}"

    @property
    def _served_address(self) -> str:
        return address(GATEWAYS[INGRESS], 256 + self.index)

    def underlay(self) -> dict[str, str]:
        return {self.node: self.address, self.server: self._server_address}

    def serving(self, netns: str) -> Plan:
        """The plan of the node that serves the published ports; `netns` is its task's."""
        place, own, task = self.place, address(GATEWAYS[INGRESS], 2 + 2 * self.index), self._served_address
        return Plan(
            node=self.server,
            address=self._server_address,
            addresses=(self._server_address,),
            ingress_vni=INGRESS,
            direct_return=True,
            networks=(
                NetworkRow(INGRESS, "ingress", "ingress", SUBNETS[INGRESS], GATEWAYS[INGRESS], _MTU, True, False, own),
            ),
            endpoints=(
                EndpointRow(
                    INGRESS, task, mac_of(task), "served", netns, "eth0", names.port_name(self.served, INGRESS), True
                ),
            ),
            remotes=(RemoteRow(INGRESS, place.ingress, mac_of(place.ingress), self.address),),
            peers=(PeerRow(self.address),),
            published=tuple(
                PublishedRow("", "tcp", FIRST_PORT + index, TARGET_PORT, (task,)) for index in range(self.services)
            ),
        )


def build(world: World, sites: Sequence[Site]) -> None:
    """Makes the namespaces and all in them that is not meshnet's."""
    world.make(("underlay", *_UNDERLAY, *(label for site in sites for label in site.labels)))
    hosts = dict(_UNDERLAY)
    for site in sites:
        hosts |= site.underlay()
    lines = ["link add br0 type bridge", "link set br0 up"]
    for host in hosts:
        lines += [f"link add u{host} master br0 type veth peer name eth0 netns {{{host}}}", f"link set u{host} up"]
    world.ip("underlay", *lines)
    for host, own in hosts.items():
        world.ip(host, "link set eth0 up", f"addr add {own}/24 dev eth0")
    _far(world, sites)


def _far(world: World, sites: Sequence[Site]) -> None:
    """Where the backends are, and the client without meshnet."""
    near, gateway = address(GATEWAYS[DEMO], 255), GATEWAYS[DEMO]
    clients = [(site.place.task, site.address) for site in sites] + [(near, _UNDERLAY[NEAR])]
    world.ip(
        NEAR,
        f"link add vx type vxlan id {DEMO} dstport 4789 local {_UNDERLAY[NEAR]} remote {_UNDERLAY[FAR]}",
        f"link set vx address {mac_of(near)} mtu {_MTU} up",
        f"addr add {near}/32 dev vx",
        f"neigh add {gateway} lladdr {_FAR_MAC} dev vx nud permanent",
        f"route add {BEHIND_VIPS}/11 via {gateway} dev vx onlink",
    )
    world.ip(
        FAR,
        f"link add vx type vxlan id {DEMO} dstport 4789 local {_UNDERLAY[FAR]} nolearning",
        f"link set vx address {_FAR_MAC} mtu {_MTU} up",
        f"route add local {BEHIND_VIPS}/11 dev lo",
        *(f"route add {client}/32 dev vx" for client, _ in clients),
        *(f"neigh add {client} lladdr {mac_of(client)} dev vx nud permanent" for client, _ in clients),
    )
    world.bridge(FAR, *(f"fdb append {mac_of(client)} dev vx dst {node} self permanent" for client, node in clients))


def one_neighbour(world: World, site: Site) -> None:
    """Has a task, once wired, reach services and backends by one neighbour, the gateway. The kernel holds 1024 of them
    by default: one each would measure how it throws them away."""
    gateway = GATEWAYS[DEMO]
    world.ip(site.task, f"route add {VIPS}/14 via {gateway}", f"route add {BEHIND_VIPS}/11 via {gateway}")


def larger_maps(services: int) -> dict[str, int]:
    """The maps whose size must be raised for so many services; the defaults are those of bpf/meshnet.h."""
    found = re.findall(r"#define MAX_(\w+) (\d+)", (bpfbuild.source_dir() / "meshnet.h").read_text())
    defaults = {name.lower(): int(size) for name, size in found}
    defaults |= dict.fromkeys(("published", "turns"), defaults["services"])
    return map_sizes(services, defaults)


def data_path(world_name: str, node: str, space: str, sizes: Mapping[str, int]) -> Ebpf:
    """That of a node, with maps of these sizes."""
    return Ebpf(NodeContext(world_name, node, "eth0", ""), sizes, space)


def group(world: World, site: Site) -> str:
    """The cgroup in whose sockets the VIPs of a site are translated."""
    return str(cgroup2_root() / names.cgroup(world.name, site.node))


class Servers:
    """The data paths of the nodes that serve the published ports."""

    def __init__(self, world: World, sites: Sequence[Site]) -> None:
        self._world = world
        self._sites = sites
        self._paths = {
            site: data_path(world.name, site.server, world.space(site.server), larger_maps(site.services) | _FEW_FLOWS)
            for site in sites
        }

    def apply(self) -> None:
        """Wires everything. MeshnetError where this machine cannot."""

        async def work() -> None:
            for site, path in self._paths.items():
                await path.apply(site.serving(self._world.path(site.served)))

        asyncio.run(work())

    def drops(self) -> dict[str, int]:
        """Packets dropped so far, by node and reason."""
        return dropped({site.server: path for site, path in self._paths.items()})

    def close(self) -> None:
        """Takes everything out of the kernel again."""
        destroy(self._paths.values())
