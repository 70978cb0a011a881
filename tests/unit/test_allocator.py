"""Who gets which address, VNI and port."""

from __future__ import annotations

from dataclasses import replace

import pytest
from swarm import spec
from swarm_world import World

from meshnet.control.allocator import VNI_OPTION, Ledger
from meshnet.control.operations import create_network, create_service, remove_network
from meshnet.errors import ConflictError, MeshnetError
from meshnet.ipam import number_of
from meshnet.model import IPAMConfig, IPAMOptions, NetworkSpec


def test_the_first_addresses() -> None:
    """Ingress is 10.0.0.0/24 with VNI 4096, each node has an address on it; a network's VIPs come before its tasks."""
    world = World(2)
    ingress = world.view.ingress
    assert ingress is not None
    assert (ingress.subnet, ingress.gateway, ingress.vni) == ("10.0.0.0/24", "10.0.0.1", 4096)
    assert [node.attachments[0].addresses for node in world.view.nodes.values()] == [("10.0.0.2/24",), ("10.0.0.3/24",)]
    demo = world.view.networks[world.network("demo")]
    assert (demo.subnet, demo.gateway, demo.vni) == ("10.0.1.0/24", "10.0.1.1", 4097)
    web = world.service(spec("web", 2, ("demo",), (8080,)))
    world.run()
    assert [vip.addr for vip in world.get(web).endpoint.virtual_ips] == ["10.0.0.4/24", "10.0.1.2/24"]
    assert [[a.address for a in task.networks_attachments] for task in world.running(web)] == [
        ["10.0.0.5", "10.0.1.3"],
        ["10.0.0.6", "10.0.1.4"],
    ]


def test_addresses_are_freed_when_a_task_has_ended() -> None:
    """A task keeps its addresses until it has ended, also while it is told to stop; the next gets others."""
    world = World(1)
    demo = world.network("demo")
    web = world.service(spec("web", 1, ("demo",)))
    world.run()
    first = world.running(web)[0]
    world.remove(web)
    world.settle()
    assert len(world.view.taken[demo]) == 2
    world.agents()
    world.settle()
    assert len(world.view.taken[demo]) == 1
    again = world.service(spec("web", 1, ("demo",)))
    world.run()
    assert world.running(again)[0].networks_attachments[0].address == "10.0.1.5"
    assert first.networks_attachments[0].address == "10.0.1.3"


def test_a_failed_task_in_the_history_holds_nothing() -> None:
    """A task that has ended keeps showing its addresses, but they are free."""
    world = World(1)
    demo = world.network("demo")
    web = world.service(spec("web", 1, ("demo",)))
    world.run()
    world.report(world.running(web)[0], "failed")
    world.run()
    old, new = world.tasks(web)
    assert old.networks_attachments[0].address == "10.0.1.3"
    assert world.view.taken[demo] == {
        number_of(text) for text in ("10.0.1.1", "10.0.1.2", new.networks_attachments[0].address)
    }


def test_networks_are_not_reused_at_once() -> None:
    """A removed network's subnet and VNI come back only after all others."""
    world = World(1)
    gone = world.view.networks[world.network("a")]
    world.view.apply("network", gone.id, None)
    following = world.view.networks[world.network("b")]
    assert (following.subnet, following.vni) == ("10.0.2.0/24", 4098)


def test_an_update_keeps_what_a_service_has() -> None:
    """VIPs and chosen ports stay through updates; what is no longer asked for is given back."""
    world = World(1)
    red, blue = world.network("red"), world.network("blue")
    web = world.service(spec("web", 1, ("red", "blue"), (0, 8080)))
    before = world.get(web).endpoint
    assert [port.published_port for port in before.ports] == [30000, 8080]
    world.update(web, lambda s: replace(s, task_template=replace(s.task_template, force_update=1)))
    assert world.get(web).endpoint == before
    world.update(
        web, lambda s: replace(s, task_template=replace(s.task_template, networks=s.task_template.networks[:1]))
    )
    assert world.get(web).vip(blue) is None
    assert world.get(web).vip(red) == before.virtual_ips[1].addr.partition("/")[0]
    world.update(web, lambda s: replace(s, endpoint_spec=replace(s.endpoint_spec, ports=())))
    assert world.get(web).endpoint.ports == ()
    assert [vip.network_id for vip in world.get(web).endpoint.virtual_ips] == [red]


def test_dnsrr_takes_no_vip() -> None:
    """A dnsrr service has tasks with addresses and no virtual one."""
    world = World(1)
    world.network("demo")
    web = world.service(spec("web", 1, ("demo",), endpoint="dnsrr"))
    world.run()
    assert world.get(web).endpoint.virtual_ips == ()
    assert world.running(web)[0].networks_attachments[0].address == "10.0.1.2"


def test_an_ipvs_node_has_an_address_on_each_of_its_networks() -> None:
    """A node with the IPVS data path gets one address per network of its tasks, and gives it back with the last."""
    world = World(0)
    world.node("docker-0", datapath="ipvs")
    demo = world.network("demo")
    web = world.service(spec("web", 1, ("demo",)))
    world.run()
    (node,) = world.view.nodes.values()
    assert [item.address for item in node.attachments] == ["10.0.0.2", "10.0.1.4"]
    assert node.attachments[1].network_id == demo
    world.remove(web)
    world.run()
    (node,) = world.view.nodes.values()
    assert [item.address for item in node.attachments] == ["10.0.0.2"]


def test_ip_range_and_gateway() -> None:
    """Addresses come from the ip-range; the gateway is the one given and is never handed out."""
    world = World(1)
    options = IPAMOptions((IPAMConfig("10.9.0.0/24", "10.9.0.64/29", "10.9.0.65"),))
    network = NetworkSpec(name="own", ipam_options=options)
    world.commit(create_network(world.view, network, world.ledger(), world.new_id))
    web = world.service(spec("web", 9, ("own",)))
    world.run()
    assert world.get(web).endpoint.virtual_ips[0].addr == "10.9.0.64/24"
    addresses = [task.networks_attachments[0].address for task in world.running(web)]
    assert addresses == [f"10.9.0.{n}" for n in range(66, 72)]


def test_vxlan_ids_may_be_chosen() -> None:
    """A given VXLAN id is used if it is free and valid, and refused otherwise."""
    world = World(1)

    def create(name: str, number: str) -> None:
        network = NetworkSpec(name=name, options={VNI_OPTION: number})
        world.commit(create_network(world.view, network, world.ledger(), world.new_id))

    create("a", "5000")
    with pytest.raises(ConflictError, match="5000 is already in use by network 'a'"):
        create("b", "5000")
    for bad in ("abc", "0", "16777216", "-1", "²"):
        with pytest.raises(MeshnetError, match="one number from 1"):
            create("b", bad)
    assert world.view.networks[world.network("c")].vni == 4097


def test_a_subnet_may_not_hide_a_node() -> None:
    """A network over a node's own address is refused, and the pools pass such subnets by."""
    world = World(1)
    options = IPAMOptions((IPAMConfig("172.17.0.0/24"),))
    with pytest.raises(ConflictError, match="contains the address 172\\.17\\.0\\.2 of node docker-0"):
        create_network(world.view, NetworkSpec(name="x", ipam_options=options), world.ledger(), world.new_id)
    ledger = Ledger(world.view, ("172.17.0.0/16", "192.168.0.0/16"), 16)
    made = create_network(world.view, NetworkSpec(name="x"), ledger, world.new_id).put[0]
    assert getattr(made, "subnet", "") == "192.168.0.0/16"


def test_ports_run_out() -> None:
    """When no port is left the service is refused with a line that says so."""
    world = World(0)
    ledger = world.ledger()
    for _ in range(30000, 32768):
        ledger.port("tcp")
    with pytest.raises(MeshnetError, match="no tcp port is left between 30000 and 32767"):
        create_service(world.view, spec("web", 1, (), (0,)), ledger, world.new_id)


def test_the_resolvers_port_is_not_handed_out() -> None:
    """A service that wants any port gets another than the nodes' resolvers have, and is refused that one by name."""
    world = World(0)
    ledger = Ledger(world.view, resolver=30000)
    assert (ledger.port("tcp"), ledger.port("udp")) == (30001, 30001)
    with pytest.raises(MeshnetError, match="port '30000/tcp' is that of the nodes' resolvers"):
        create_service(world.view, spec("web", 1, (), (30000,)), ledger, world.new_id)


def test_a_network_whose_service_was_just_removed() -> None:
    """A network is free once its last service is removed, while the tasks still end; not while one is wanted."""
    world = World()
    red = world.network("red")
    web = world.service(spec("web", 2, networks=(red,)))
    world.run()
    assert all(task.networks_attachments for task in world.tasks(web))
    world.update(web, lambda s: replace(s, task_template=replace(s.task_template, networks=())))
    with pytest.raises(MeshnetError, match=f"network {red} is in use by task "):
        remove_network(world.view, world.view.networks[red])
    world.remove(web)
    assert all(task.desired_state == "running" for task in world.tasks(web))
    world.commit(remove_network(world.view, world.view.networks[red]))
    world.run()
    assert red not in world.view.networks
    assert world.tasks(web) == []
