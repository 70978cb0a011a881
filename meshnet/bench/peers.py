"""What meshnet is compared with, built from `ip` and `nft` alone: cables, tunnels, bridges, and Swarm's constructions.

Where the kernel has no IPVS, Swarm's load-balancer and ingress sandboxes forward by nftables DNAT and SNAT, which
takes the place of IPVS with masquerading and costs about the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.bench import bare, mesh
from meshnet.bench.world import World
from meshnet.model import mac_of

UNDERLAY = {
    **mesh.NODES,
    **bare.NODES,
    "out": "172.17.0.50",  # a client outside the swarm
    "plain": "172.17.0.51",  # a host that serves a port itself
    "p1": "172.17.0.61",
    "p2": "172.17.0.62",
    "k1": "172.17.0.71",
    "k2": "172.17.0.72",
    "m1": "172.17.0.81",
    "m2": "172.17.0.82",
}
VETH = {"v1": "10.9.0.1", "v2": "10.9.0.2"}
POINT_TO_POINT = {"p1": "10.9.1.1", "p2": "10.9.1.2"}
# task -> node, address: bridge and VXLAN, as Swarm makes its networks
BRIDGED = {
    "k1c": ("k1", "10.9.2.1"),
    "k1t": ("k1", "10.9.2.2"),
    "k2t": ("k2", "10.9.2.3"),
    "k1b": ("k1", "10.9.2.4"),  # the load-balancer sandbox of k1
    "m1t": ("m1", "10.9.3.2"),
    "m2t": ("m2", "10.9.3.3"),
    "sandbox": ("m1", "10.9.3.4"),  # the ingress sandbox of m1
}
NODE_ON_BRIDGE = "10.9.3.254"  # m1's own address there, the source of what it masquerades
GATEWAY = {"m1": "172.19.0.1", "sandbox": "172.19.0.2"}  # docker_gwbridge
LABELS = ("underlay", *UNDERLAY, *VETH, *BRIDGED, *mesh.TASKS, *bare.TASKS)

NFT_REMOTE, NFT_LOCAL, SWARM_REMOTE, SWARM_LOCAL = 8101, 8102, 8103, 8104  # published on m1
RULED = {"10.0.1.215": "remote", "10.0.1.214": "local"}  # VIPs by nft in the client's own namespace
DIRECTED = {"10.0.1.225": "remote", "10.0.1.224": "local"}  # VIPs by IPVS in the client's own namespace
DIRECTED_PORT = 7107
# port at the load-balancer sandbox -> backend
BALANCED = {9015: "remote", 9014: "local"}
SWARM_BALANCED = {9103: "remote", 9102: "local"}
BALANCER = "nft for IPVS"  # what the sandboxes forward by


def build(world: World) -> None:
    """Everything but the VIPs, which need meshnet's overlay."""
    for part in (underlay, veth, point_to_point, bridged, published):
        part(world)


def underlay(world: World) -> None:
    """A bridge, and every node and outside client plugged into it."""
    lines = ["link add br0 type bridge", "link set br0 up"]
    for host in UNDERLAY:
        lines += [
            f"link add u{host} master br0 type veth peer name eth0 netns {{{host}}}",
            f"link set u{host} up",
        ]
    world.ip("underlay", *lines)
    for host, address in UNDERLAY.items():
        world.ip(host, "link set eth0 up", f"addr add {address}/24 dev eth0")


def veth(world: World) -> None:
    """Two namespaces on one cable."""
    world.ip("v1", "link add eth0 type veth peer name eth0 netns {v2}")
    for label, address in VETH.items():
        world.ip(label, "link set eth0 up", f"addr add {address}/24 dev eth0")


def point_to_point(world: World) -> None:
    """A hand-made VXLAN tunnel between two nodes, which talk through it themselves."""
    for near, far in (("p1", "p2"), ("p2", "p1")):
        world.ip(
            near,
            f"link add vx type vxlan id 5001 dstport 4789 local {UNDERLAY[near]} remote {UNDERLAY[far]}",
            "link set vx up",
            f"addr add {POINT_TO_POINT[near]}/24 dev vx",
        )


def bridged(world: World) -> None:
    """Bridge and VXLAN with everything static, once for the overlay alone, once for the published ports."""
    for vni, nodes in ((5002, ("k1", "k2")), (5003, ("m1", "m2"))):
        for node in nodes:
            _bridge(world, node, vni)
    for label, (node, address) in BRIDGED.items():
        world.ip(
            node,
            f"link add {label} mtu 1450 master over0 type veth peer name eth0 mtu 1450 address {mac_of(address)}"
            f" netns {{{label}}}",
            f"link set {label} up",
        )
        world.ip(label, "link set eth0 up", f"addr add {address}/24 dev eth0")


def _bridge(world: World, node: str, vni: int) -> None:
    lines = [
        "link add over0 mtu 1450 type bridge",
        f"link add vx type vxlan id {vni} dstport 4789 local {UNDERLAY[node]} nolearning proxy",
        "link set vx mtu 1450 master over0 up",
        "link set over0 up",
    ]
    other = {"k1": "k2", "k2": "k1", "m1": "m2", "m2": "m1"}[node]
    for where, address in _addresses(other):
        lines.append(f"neigh replace {address} lladdr {mac_of(address)} dev vx nud permanent")
        lines.append(f"fdb {mac_of(address)} {where}")
    world.ip(node, *(line for line in lines if not line.startswith("fdb ")))
    world.bridge(
        node,
        *(
            f"fdb append {line.split()[1]} dev vx dst {line.split()[2]} self permanent"
            for line in lines
            if line.startswith("fdb ")
        ),
    )


def _addresses(node: str) -> Iterable[tuple[str, str]]:
    for where, address in BRIDGED.values():
        if where == node:
            yield UNDERLAY[where], address
    if node == "m1":
        yield UNDERLAY[node], NODE_ON_BRIDGE


def published(world: World) -> None:
    """On m1: published ports by DNAT and masquerading, and by Swarm's ingress sandbox."""
    world.ip("m1", f"link set over0 address {mac_of(NODE_ON_BRIDGE)}", f"addr add {NODE_ON_BRIDGE}/24 dev over0")
    world.ip(
        "m1",
        "link add gw type bridge",
        "link set gw up",
        f"addr add {GATEWAY['m1']}/24 dev gw",
        "link add gws master gw type veth peer name eth1 netns {sandbox}",
        "link set gws up",
    )
    world.ip(
        "sandbox",
        "link set eth1 up",
        f"addr add {GATEWAY['sandbox']}/24 dev eth1",
        f"route add default via {GATEWAY['m1']}",
    )
    for label in ("m1", "sandbox"):
        world.sysctl(label, net__ipv4__ip_forward="1")
    local, remote = BRIDGED["m1t"][1], BRIDGED["m2t"][1]
    here = f"ip daddr {UNDERLAY['m1']} meta l4proto {{ tcp, udp }} th dport"
    world.nft(
        "m1",
        f"""table ip bench {{
  chain in {{ type nat hook prerouting priority dstnat;
    {here} {NFT_REMOTE} dnat to {remote}
    {here} {NFT_LOCAL} dnat to {local}
    {here} {{ {SWARM_REMOTE}, {SWARM_LOCAL} }} dnat to {GATEWAY["sandbox"]}
  }}
  chain out {{ type nat hook postrouting priority srcnat;
    oifname over0 masquerade
  }}
}}""",
    )
    here = f"ip daddr {GATEWAY['sandbox']} meta l4proto {{ tcp, udp }} th dport"
    world.nft(
        "sandbox",
        f"""table ip bench {{
  chain in {{ type nat hook prerouting priority dstnat;
    {here} {SWARM_REMOTE} dnat to {remote}
    {here} {SWARM_LOCAL} dnat to {local}
  }}
  chain out {{ type nat hook postrouting priority srcnat;
    oifname eth0 snat to {BRIDGED["sandbox"][1]}
  }}
}}""",
    )


def ruled(task: str) -> str:
    """The VIP that nft in the namespace `rules` turns into this task."""
    return next(vip for vip, backend in RULED.items() if backend == task)


def directed(task: str) -> str:
    """The VIP that IPVS in the namespace `director` turns into this task."""
    return next(vip for vip, backend in DIRECTED.items() if backend == task)


def ipvs(world: World, label: str, ways: Mapping[str, str], port: int) -> None:
    """IPVS with masquerading, round robin: VIP -> backend, for connections that this namespace makes itself."""
    lines = []
    for vip, backend in ways.items():
        for kind in ("-t", "-u"):
            lines += [f"-A {kind} {vip}:{port} -s rr", f"-a {kind} {vip}:{port} -r {backend}:{port} -m"]
    world.run(label, ["ipvsadm", "-R"], "\n".join(lines) + "\n")


def vips(world: World) -> None:
    """VIPs by other means: nft in the client's namespace, and Swarm's load-balancer sandbox, both on meshnet's overlay,
    and that sandbox on bridge and VXLAN."""
    ways = "\n".join(
        f"    ip daddr {vip} dnat to numgen inc mod 1 map {{ 0 : {mesh.demo(task)} }}" for vip, task in RULED.items()
    )
    world.nft(
        "rules",
        f"""table ip bench {{
  chain out {{ type nat hook output priority -100;
{ways}
  }}
}}""",
    )
    _balancer(world, "balancer", mesh.demo("balancer"), {port: mesh.demo(task) for port, task in BALANCED.items()})
    tasks = {"remote": "k2t", "local": "k1t"}
    _balancer(
        world, "k1b", BRIDGED["k1b"][1], {port: BRIDGED[tasks[where]][1] for port, where in SWARM_BALANCED.items()}
    )


def _balancer(world: World, label: str, own: str, ways: Mapping[int, str]) -> None:
    """Forwards what arrives at a port to a backend, and sends it as itself, so that the reply comes back."""
    quiet = {f"net__ipv4__conf__{device}__send_redirects": "0" for device in ("all", "eth0")}
    world.sysctl(label, net__ipv4__ip_forward="1", **quiet)
    rules = "\n".join(f"    meta l4proto {{ tcp, udp }} th dport {port} dnat to {to}" for port, to in ways.items())
    world.nft(
        label,
        f"""table ip bench {{
  chain in {{ type nat hook prerouting priority dstnat;
{rules}
  }}
  chain out {{ type nat hook postrouting priority srcnat;
    oifname eth0 snat to {own}
  }}
}}""",
    )
