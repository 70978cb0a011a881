"""A swarm of many services, as a manager's assignments and the members' records tell one node of it. Pure.

Every service has a VIP, a published port and ten backends, each with an address on the services' network and one on
the ingress network. None of the backends is on the node that is measured. Addresses and ports are consecutive, so
that a client finds all of them by counting; several addresses are served from one namespace, which is why a
record's MAC is that of the interface behind it and not that of its address.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from meshnet.agent.zones import Zones
from meshnet.datapath.plan import LocalNode, Located, Peer, plan
from meshnet.datapath.rows import Plan
from meshnet.model import (
    Assignments,
    ContainerSpec,
    Endpoint,
    EndpointSpec,
    IPAMConfig,
    IPAMOptions,
    Network,
    NetworkAttachment,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    PortConfig,
    Service,
    ServiceEndpoint,
    ServiceSpec,
    Task,
    TaskSpec,
    VirtualIP,
)

BACKENDS = 10  # of each service
MOST = 20_000  # services that there are addresses and ports for
INGRESS, DEMO = 4096, 4097
SUBNETS = {INGRESS: "10.128.0.0/10", DEMO: "10.64.0.0/10"}
GATEWAYS = {INGRESS: "10.128.0.1", DEMO: "10.64.0.1"}
VIPS, BEHIND_VIPS, BEHIND_PORTS = "10.68.0.0", "10.96.0.0", "10.160.0.0"  # the first of each
FIRST_PORT, TARGET_PORT = 10_001, 9000
TASK = "clienttask"


def address(first: str, index: int) -> str:
    """The address `index` places after `first`."""
    return str(ipaddress.IPv4Address(first) + index)


@dataclass(frozen=True, slots=True)
class Place:
    """The node that is measured, and who else is there.

    `ingress` and `task` are its own address on the ingress network and its one task's on the services' network.
    `peers` are members by id. Members `vips` and `ports` have the backends behind VIPs and behind published ports;
    `vips_mac` and `ports_mac` are of the interfaces there.
    """

    node: str
    address: str
    ingress: str
    task: str
    peers: Mapping[str, str]
    vips: str
    vips_mac: str
    ports: str
    ports_mac: str


@dataclass(frozen=True, slots=True)
class World:
    """What a node knows: enough to make a plan."""

    assignments: Assignments
    records: tuple[Located, ...]


def networks() -> dict[str, Network]:
    """The ingress network and the services', by id."""
    found = {}
    for vni, name in ((INGRESS, "ingress"), (DEMO, "demo")):
        config = IPAMOptions((IPAMConfig(subnet=SUBNETS[vni], gateway=GATEWAYS[vni]),))
        found[name] = Network(
            id=name, spec=NetworkSpec(name=name, ingress=vni == INGRESS), ipam_options=config, vni=vni
        )
    return found


def service(index: int) -> Service:
    """One service: its VIP, and a TCP port."""
    port = PortConfig(protocol="tcp", target_port=TARGET_PORT, published_port=FIRST_PORT + index)
    template = TaskSpec(ContainerSpec(image="host"), networks=(NetworkAttachmentConfig("demo"),))
    spec = ServiceSpec(name=f"service{index}", task_template=template, endpoint_spec=EndpointSpec("vip", (port,)))
    vip = VirtualIP("demo", f"{address(VIPS, index)}/10")
    return Service(id=f"s{index:024}", spec=spec, endpoint=ServiceEndpoint(spec.endpoint_spec, (port,), (vip,)))


def records(place: Place, index: int, first: int = 0, state: str = "ready") -> list[Located]:
    """What the members say of a service's backends, from the one with number `first` on."""
    found = []
    for slot in range(first, BACKENDS):
        number = index * BACKENDS + slot
        task = f"t{number:011}" + "t" * 13
        common = Endpoint(
            task, task, slot + 1, f"s{index:024}", hostname=task[:12], container=f"c{number:011}", state=state
        )
        for owner, network, base, mac in (
            (place.vips, "demo", BEHIND_VIPS, place.vips_mac),
            (place.ports, "ingress", BEHIND_PORTS, place.ports_mac),
        ):
            one = dataclasses.replace(common, ip=address(base, number), mac=mac)
            found.append(Located(owner, network, one))
    return found


def world(place: Place, count: int) -> World:
    """`count` services, seen from a node."""
    own = NetworkAttachment("ingress", (f"{place.ingress}/10",))
    task = Task(id=TASK, node_id=place.node, networks_attachments=(NetworkAttachment("demo", (f"{place.task}/10",)),))
    services = [service(index) for index in range(count)]
    assignments = Assignments(
        Node(id=place.node, attachments=(own,)), {TASK: task}, {each.id: each for each in services}, networks()
    )
    return World(assignments, tuple(each for index in range(count) for each in records(place, index)))


def changed(place: Place, known: World, index: int) -> World:
    """The same world after one backend of a service began to drain."""
    gone = next(each.endpoint.task for each in records(place, index))
    kept = (
        dataclasses.replace(each, endpoint=dataclasses.replace(each.endpoint, state="draining"))
        if each.endpoint.task == gone
        else each
        for each in known.records
    )
    return World(known.assignments, tuple(kept))


def more(place: Place, known: World, index: int) -> World:
    """The same world with one more service."""
    one = service(index)
    services = known.assignments.services | {one.id: one}
    return World(dataclasses.replace(known.assignments, services=services), (*known.records, *records(place, index)))


def make_plan(place: Place, known: World, sandbox: str) -> Plan:
    """The data path's part of what a node is told; `sandbox` is the path of its task's namespace."""
    local = LocalNode(place.node, place.address, (place.address,), direct_return=True)
    peers = [Peer(name, where) for name, where in place.peers.items()]
    return plan(local, known.assignments, known.records, peers, {TASK: sandbox})


def name_rows(zones: Zones, known: World, sandbox: str, found: Plan) -> Plan:
    """The same plan with what the task can look up; an agent keeps its `zones` from one to the next."""
    zones.follow(known.assignments, known.records)
    return dataclasses.replace(found, zones=zones.rows({sandbox: ["demo"]}))


def map_sizes(count: int, defaults: Mapping[str, int]) -> dict[str, int]:
    """The maps that must be larger than `defaults` for `count` services and one more.

    VIPs and published ports share `turns`. So few backends are in their services' own entries.
    """
    fronts = count + 1
    needed = {
        "services": fronts,
        "published": fronts,
        "turns": 2 * fronts,
        "endpoints": 2 * BACKENDS * fronts + fronts + 16,
    }
    return {name: size for name, size in needed.items() if size > defaults.get(name, 0)}
