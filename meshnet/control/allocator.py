"""Who gets which VNI, subnet, address and port.

A `Ledger` is made for one decision: it reads what is taken from a view, remembers what it hands out itself, and in
the end gives the cursors that must be written in the same transaction. Nothing is ever freed explicitly: an object
that is deleted, or a task that has ended, holds nothing any more (`view.addresses_of`).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from meshnet import ipam
from meshnet.control.objects import Cursor, stamp
from meshnet.control.view import View, addresses_of, networks_of, on_ingress, uses_ingress
from meshnet.errors import ConflictError, MeshnetError
from meshnet.model import (
    EndpointSpec,
    IPAMConfig,
    IPAMOptions,
    Network,
    NetworkAttachment,
    NetworkSpec,
    Node,
    PortConfig,
    Service,
    ServiceEndpoint,
    Task,
    TaskStatus,
    VirtualIP,
)

VNI_OPTION = "com.docker.network.driver.overlay.vxlanid_list"
NO_ADDRESS = "no address is left on network"
DATAPATH_LABEL = "datapath"  # an engine label that every agent sets


class Exhausted(MeshnetError):
    """Nothing is left of what was asked for; it may be later."""

    status = 500


class Ledger:
    """What is taken, and what this decision takes. `pools` and `size` cut subnets; `avoid` is never handed out.

    `resolver` is a port that nodes answer names on themselves, 0 if they do not.
    """

    def __init__(
        self,
        view: View,
        pools: Iterable[str] = ipam.DEFAULT_POOLS,
        size: int = ipam.DEFAULT_SIZE,
        avoid: Iterable[str] = (),
        resolver: int = 0,
    ) -> None:
        self.view = view
        self.pools = tuple(pools)
        self.size = size
        self.avoid = tuple(avoid)
        self.resolver = resolver
        self._taken: dict[str, set[int]] = {}
        self._cursors: dict[str, str] = {}
        self._networks: dict[str, Network] = {}
        self._ports: dict[str, set[int]] | None = None

    def cursors(self) -> tuple[Cursor, ...]:
        """The cursors that moved, to be written with what was handed out."""
        return tuple(
            dataclasses.replace(self.view.cursors.get(ident, Cursor(ident)), last=last)
            for ident, last in self._cursors.items()
        )

    def last(self, ident: str) -> str:
        known = self.view.cursors.get(ident)
        return self._cursors.get(ident, known.last if known else "")

    def moved(self, ident: str, last: str) -> None:
        self._cursors[ident] = last

    def added(self, network: Network) -> None:
        """Makes a network of this decision known, so that addresses on it can be taken."""
        self._networks[network.id] = network
        self._taken[network.id] = {ipam.number_of(address) for _, address in addresses_of(network)}

    def network(self, network_id: str) -> Network | None:
        return self._networks.get(network_id) or self.view.networks.get(network_id)

    def address(self, network_id: str) -> str:
        """Takes the next address of a network, with prefix length. Raises Exhausted."""
        network = self.network(network_id)
        if network is None:
            raise Exhausted(f"network {network_id} does not exist")
        if network_id not in self._taken:
            self._taken[network_id] = set(self.view.taken.get(network_id, ()))
        last = self.last(network_id)
        within = network.ipam_options.configs[0].range if network.ipam_options.configs else ""
        taken = self._taken[network_id]
        address = ipam.next_address(network.subnet, taken, ipam.number_of(last) if last else 0, within)
        if address is None:
            raise Exhausted(f"{NO_ADDRESS} {network.spec.name} ({within or network.subnet})")
        taken.add(ipam.number_of(address))
        self.moved(network_id, address.partition("/")[0])
        return address

    def port(self, protocol: str) -> int:
        """Takes the next port of 30000-32767 that nothing is published on. Raises Exhausted."""
        taken = self._ports_taken()[protocol]
        cursor = f"port-{protocol}"
        number = ipam.next_number(ipam.FIRST_PORT, ipam.LAST_PORT, taken, int(self.last(cursor) or 0))
        if number is None:
            raise Exhausted(f"no {protocol} port is left between {ipam.FIRST_PORT} and {ipam.LAST_PORT}")
        taken.add(number)
        self.moved(cursor, str(number))
        return number

    def _ports_taken(self) -> dict[str, set[int]]:
        if self._ports is None:
            self._ports = defaultdict(set)
            for service in self.view.services.values():
                for port in service.endpoint.ports:
                    self._ports[port.protocol].add(port.published_port)
            for protocol in ("tcp", "udp"):
                self._ports[protocol].add(self.resolver)
        return self._ports


def give_network(ledger: Ledger, network: Network) -> Network:
    """The network with VNI, subnet and gateway. Raises MeshnetError for what cannot be had."""
    subnet = _subnet(ledger, network.spec)
    allocated = dataclasses.replace(network, vni=_vni(ledger, network.spec), ipam_options=IPAMOptions((subnet,)))
    ledger.added(allocated)
    return allocated


def _subnet(ledger: Ledger, spec: NetworkSpec) -> IPAMConfig:
    configs = spec.ipam_options.configs
    if len(configs) > 1:
        raise MeshnetError("a network has one subnet; give --subnet once")
    asked = configs[0] if configs else IPAMConfig()
    others = list(_foreign(ledger))
    if not asked.subnet:
        if asked.gateway or asked.range or asked.auxiliary_addresses:
            raise MeshnetError("a gateway, an ip-range or an aux-address needs a subnet; give it with --subnet")
        text = ipam.next_subnet(ledger.pools, ledger.size, [subnet for subnet, _ in others], ledger.last("subnet"))
        ledger.moved("subnet", text)
        return IPAMConfig(text, "", ipam.default_gateway(text))
    subnet = ipam.parse_subnet(asked.subnet)
    ipam.check_overlap(subnet, others)
    within = str(ipam.parse_range(asked.range, subnet)) if asked.range else ""
    gateway = str(ipam.parse_gateway(asked.gateway, subnet)) if asked.gateway else ipam.default_gateway(str(subnet))
    aux = {name: str(ipam.parse_aux(text, subnet)) for name, text in asked.auxiliary_addresses.items()}
    if gateway in aux.values():
        raise MeshnetError(f"the gateway {gateway} cannot be an auxiliary address, too")
    return IPAMConfig(str(subnet), within, gateway, aux)


def _foreign(ledger: Ledger) -> Iterable[tuple[str, str]]:
    """What a new subnet must not meet: other networks, the nodes' own addresses, what the settings name."""
    for network in ledger.view.networks.values():
        yield network.subnet, f"network '{network.spec.name}'"
    for node in ledger.view.nodes.values():
        if node.status.addr:
            yield f"{node.status.addr}/32", f"node {node.description.hostname}"
    for subnet in ledger.avoid:
        yield subnet, "the nodes' own network"


def _vni(ledger: Ledger, spec: NetworkSpec) -> int:
    taken = {network.vni: network.spec.name for network in ledger.view.networks.values()}
    asked = spec.options.get(VNI_OPTION)
    if asked is not None:
        if not asked.isascii() or not asked.isdigit() or not 0 < int(asked) <= ipam.LAST_VNI:
            raise MeshnetError(f"invalid {VNI_OPTION} {asked!r}: one number from 1 to {ipam.LAST_VNI} is needed")
        if int(asked) in taken:
            raise ConflictError(f"VXLAN id {asked} is already in use by network '{taken[int(asked)]}'")
        return int(asked)
    number = ipam.next_number(ipam.FIRST_VNI, ipam.LAST_VNI, taken, int(ledger.last("vni") or 0))
    if number is None:
        raise Exhausted("no VXLAN id is left")
    ledger.moved("vni", str(number))
    return number


def give_service(ledger: Ledger, service: Service) -> Service:
    """The service with its ports and VIPs; what it holds already it keeps. Raises Exhausted."""
    spec = service.spec.endpoint_spec
    ports = _ports(ledger, spec, service.endpoint.ports)
    vips: list[VirtualIP] = []
    if spec.mode == "vip":
        wanted = networks_of(service)
        if uses_ingress(service) and ledger.view.ingress:
            wanted = [ledger.view.ingress.id, *wanted]
        held = {vip.network_id: vip for vip in service.endpoint.virtual_ips}
        vips = [held.get(network) or VirtualIP(network, ledger.address(network)) for network in wanted]
    return dataclasses.replace(service, endpoint=ServiceEndpoint(spec, ports, tuple(vips)))


def _ports(ledger: Ledger, spec: EndpointSpec, held: Iterable[PortConfig]) -> tuple[PortConfig, ...]:
    """Ports asked for by number stay; for the others, those held before come first."""
    spare = [port for port in held if all(port != asked for asked in spec.ports)]
    ports = []
    for asked in spec.ports:
        if asked.published_port:
            ports.append(asked)
            continue
        known = next((port for port in spare if dataclasses.replace(port, published_port=0) == asked), None)
        if known is not None:
            spare.remove(known)
        number = known.published_port if known else ledger.port(asked.protocol)
        ports.append(dataclasses.replace(asked, published_port=number))
    return tuple(ports)


def task_networks(view: View, service: Service) -> list[str]:
    """The networks that a task of the service is on, ingress first."""
    ingress = [view.ingress.id] if view.ingress and on_ingress(service) else []
    return ingress + networks_of(service)


def give_task(ledger: Ledger, task: Task, service: Service, now: float) -> Task:
    """A new task with its addresses, pending; or still new with the reason why it has none."""
    aliases = {item.target: item.aliases for item in task.spec.networks}
    attachments = []
    try:
        for network in task_networks(ledger.view, service):
            attachments.append(NetworkAttachment(network, (ledger.address(network),), aliases.get(network, ())))
    except Exhausted as error:
        # What was taken for this task before the failure stays taken in this decision only: nothing is written.
        if task.status.err == str(error):
            return task
        status = TaskStatus(stamp(now), "new", "waiting for an address", str(error))
        return dataclasses.replace(task, status=status)
    status = TaskStatus(stamp(now), "pending", "pending task scheduling")
    return dataclasses.replace(task, status=status, networks_attachments=tuple(attachments))


def give_node(ledger: Ledger, node: Node) -> Node:
    """The node with the addresses it needs and no others; the same object if that is so already.

    Every node has one on ingress. One with the IPVS data path has one on each network that its tasks are on.
    """
    needed = [ledger.view.ingress.id] if ledger.view.ingress else []
    if node.description.engine.labels.get(DATAPATH_LABEL) == "ipvs":
        for task in ledger.view.tasks_on.get(node.id, {}).values():
            needed += [item.network_id for item in task.networks_attachments if item.network_id in ledger.view.networks]
    held = {item.network_id: item for item in node.attachments}
    if set(held) == set(needed) and not node.status.message.startswith(NO_ADDRESS):
        return node
    attachments, lacking = [], ""
    for network in dict.fromkeys(needed):
        try:
            attachments.append(held.get(network) or NetworkAttachment(network, (ledger.address(network),)))
        except Exhausted as error:
            lacking = str(error)
    status = node.status
    if lacking or status.message.startswith(NO_ADDRESS):
        status = dataclasses.replace(status, message=lacking)
    if [item.network_id for item in attachments] == list(held) and status == node.status:
        return node
    node = dataclasses.replace(node, status=status)
    return dataclasses.replace(node, attachments=tuple(attachments))
