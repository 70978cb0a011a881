"""The plan holds exactly what a node needs, and picks backends by readiness and membership."""

from dataclasses import replace

from meshnet.datapath.plan import Gone, LocalNode, Located, Peer, plan
from meshnet.datapath.rows import RemoteRow, RemovedRow
from meshnet.model import (
    Assignments,
    Endpoint,
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
    ServiceSpec,
    Task,
    VirtualIP,
    mac_of,
)

INGRESS = Network(
    id="ing",
    spec=NetworkSpec(name="ingress", ingress=True),
    ipam_options=IPAMOptions((IPAMConfig("10.0.0.0/24", "", "10.0.0.1"),)),
    vni=4096,
)
DEMO = Network(
    id="demo",
    spec=NetworkSpec(name="demo"),
    ipam_options=IPAMOptions((IPAMConfig("10.0.1.0/24", "", "10.0.1.1"),)),
    vni=4097,
)
WEB = Service(
    id="web",
    spec=ServiceSpec(name="web"),
    endpoint=ServiceEndpoint(
        spec=EndpointSpec(),
        ports=(PortConfig("", "tcp", 80, 8000),),
        virtual_ips=(VirtualIP("ing", "10.0.0.5/24"), VirtualIP("demo", "10.0.1.2/24")),
    ),
)
LOCAL = Task(
    id="t1",
    service_id="web",
    slot=1,
    networks_attachments=(
        NetworkAttachment("demo", ("10.0.1.3/24",)),
        NetworkAttachment("ing", ("10.0.0.6/24",)),
    ),
)
NODE = LocalNode("n1", "172.17.0.2", ("172.17.0.2",))
ASSIGNED = Assignments(
    node=Node(id="n1", attachments=(NetworkAttachment("ing", ("10.0.0.2/24",)),)),
    tasks={"t1": LOCAL},
    services={"web": WEB},
    networks={"ing": INGRESS, "demo": DEMO},
)
PEERS = (Peer("n1", "172.17.0.2"), Peer("n2", "172.17.0.3"), Peer("n3", "172.17.0.4"))
SANDBOXES = {"t1": "/run/netns/t1"}


def record(owner: str, network: str, ip: str, state: str = "ready", service: str = "web") -> Located:
    return Located(owner, network, Endpoint(endpoint=ip, service=service, ip=ip, mac=mac_of(ip), state=state))


def test_a_network_is_held_only_while_a_task_needs_it() -> None:
    """Without a local sandbox the node holds the ingress network alone, and nothing of the others."""
    idle = plan(NODE, ASSIGNED, [record("n2", "demo", "10.0.1.4")], PEERS, {})
    assert [row.name for row in idle.networks] == ["ingress"]
    assert not idle.endpoints + idle.remotes + idle.services
    assert idle.networks[0].node_address == "10.0.0.2"
    assert idle.networks[0].mtu == 1450
    busy = plan(NODE, ASSIGNED, [record("n2", "demo", "10.0.1.4")], PEERS, SANDBOXES)
    assert busy.remotes == (RemoteRow(4097, "10.0.1.4", "02:42:0a:00:01:04", "172.17.0.3"),)


def test_ingress_is_the_first_interface_and_the_way_out() -> None:
    """As in Swarm eth0 is the ingress interface; replies to outside clients leave through it."""
    rows = {row.interface: row for row in plan(NODE, ASSIGNED, [], PEERS, SANDBOXES).endpoints}
    assert rows["eth0"].ip == "10.0.0.6"
    assert rows["eth0"].default_route
    assert not rows["eth1"].default_route


def test_backends_are_the_ready_endpoints_of_living_members() -> None:
    """Starting and draining endpoints get no new connections, yet draining ones stay reachable."""
    result = plan(
        NODE,
        ASSIGNED,
        [
            record("n1", "demo", "10.0.1.3"),
            record("n2", "demo", "10.0.1.4", "draining"),
            record("n3", "demo", "10.0.1.5", "starting"),
            record("n3", "demo", "10.0.1.6"),
            record("n9", "demo", "10.0.1.7"),
        ],
        PEERS,
        SANDBOXES,
    )
    assert result.services[0].backends == ("10.0.1.3", "10.0.1.6")
    leaving = {"10.0.1.4": True, "10.0.1.5": False, "10.0.1.6": False}
    assert {row.ip: row.leaving for row in result.remotes} == leaving


def test_a_suspected_members_backends_are_a_last_resort() -> None:
    """While others exist a suspected member gets nothing new; alone it is better than a refusal."""
    suspected = (PEERS[0], replace(PEERS[1], state="suspect"), PEERS[2])
    records = [record("n2", "demo", "10.0.1.4"), record("n3", "demo", "10.0.1.6")]
    found = plan(NODE, ASSIGNED, records, suspected, SANDBOXES)
    assert found.services[0].backends == ("10.0.1.6",)
    assert {row.ip: row.leaving for row in found.remotes} == {"10.0.1.4": True, "10.0.1.6": False}
    assert plan(NODE, ASSIGNED, records[:1], suspected, SANDBOXES).services[0].backends == ("10.0.1.4",)


def test_a_dead_members_endpoints_stay_reachable() -> None:
    """No new connection goes to a dead member's backends, not even as a last resort; old ones still find their way."""
    dead = Peer("n3", "172.17.0.4", "dead")
    found = plan(NODE, ASSIGNED, [record("n3", "demo", "10.0.1.5", "draining")], [dead], SANDBOXES)
    assert [row.backends for row in found.services] == [()]
    assert found.remotes == (RemoteRow(4097, "10.0.1.5", mac_of("10.0.1.5"), "172.17.0.4", leaving=True),)
    assert [row.address for row in found.peers] == ["172.17.0.4"]
    taken_over = [record("n3", "demo", "10.0.1.5", "draining"), record("n2", "demo", "10.0.1.5")]
    found = plan(NODE, ASSIGNED, taken_over, [dead, Peer("n2", "172.17.0.3")], SANDBOXES)
    assert [row.node for row in found.remotes] == ["172.17.0.3"]
    assert [row.backends for row in found.services] == [("10.0.1.5",)]


def test_published_ports_stand_on_the_ingress_network() -> None:
    """A published port's backends are ingress addresses, also on a node that runs none of them."""
    rows = plan(NODE, ASSIGNED, [record("n2", "ing", "10.0.0.7")], PEERS, {}).published
    assert [(row.port, row.target_port, row.backends) for row in rows] == [(8000, 80, ("10.0.0.7",))]


def test_a_port_in_host_mode_is_the_nodes_own() -> None:
    """A port published in host mode leads to the local task alone, and nowhere on a node without one."""
    ports = (PortConfig("", "tcp", 80, 8000, "host"),)
    service = replace(WEB, endpoint=replace(WEB.endpoint, ports=ports))
    assigned = replace(ASSIGNED, services={"web": service})
    records = [record("n1", "ing", "10.0.0.6"), record("n2", "ing", "10.0.0.7")]
    (row,) = plan(NODE, assigned, records, PEERS, SANDBOXES).published
    assert (row.port, row.target_port, row.backends) == (8000, 80, ("10.0.0.6",))
    assert plan(NODE, assigned, records, PEERS, {}).published == ()


def test_a_removed_address_acts_for_its_service_until_reused() -> None:
    """A tombstone names the VIP that takes over, and disappears when the address lives again."""
    gone = [Gone("demo", "10.0.1.9", "web"), Gone("ing", "10.0.0.9", "web")]
    rows = plan(NODE, ASSIGNED, [], PEERS, SANDBOXES, gone).removed
    assert rows == (RemovedRow(4096, "10.0.0.9", ""), RemovedRow(4097, "10.0.1.9", "10.0.1.2"))
    reused = [record("n2", "demo", "10.0.1.9")]
    assert [row.vni for row in plan(NODE, ASSIGNED, reused, PEERS, SANDBOXES, gone).removed] == [4096]


def test_equal_inputs_in_any_order_make_equal_plans() -> None:
    """A plan is a value: nothing to do compares as equal."""
    records = [record("n2", "demo", "10.0.1.4"), record("n3", "demo", "10.0.1.6")]
    one = plan(NODE, ASSIGNED, records, PEERS, SANDBOXES)
    two = plan(NODE, ASSIGNED, reversed(records), reversed(PEERS), SANDBOXES)
    assert one == two
