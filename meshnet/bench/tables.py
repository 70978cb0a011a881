"""The tables of `meshnet bench paths`: which paths stand beside which, and what their ratios are to."""

from __future__ import annotations

from collections.abc import Mapping

from meshnet.bench import bare, mesh, peers
from meshnet.bench.paths import Missing, Row, Table, Way
from meshnet.bench.proxy import Proxy

_OPERATIONS = ("request", "bulk", "connect")


def tables(proxies: Mapping[str, Proxy], missing: tuple[Missing, ...]) -> tuple[Table, ...]:
    """All tables. `proxies` are those that run, by name; `missing` is what cannot be measured here."""
    return (
        _overlay_remote(),
        _overlay_local(),
        _vip("remote", proxies, missing),
        _vip("local", proxies, missing),
        _published(proxies, missing),
        _node_local(),
    )


def _aim(*ratios: float) -> dict[str, float]:
    return dict(zip(_OPERATIONS, ratios, strict=True))


def _way(client: str, server: str, address: str, port: int) -> Way:
    return Way(client, server, address, port, port)


def _floor(key: str, what: str, client: str, task: str, port: int, baseline: str) -> Row:
    return Row(key, f"floor: {what}", _way(client, task, bare.address(task), port), baseline)


def _overlay_remote() -> Table:
    tunnel, bridge = peers.POINT_TO_POINT["p2"], peers.BRIDGED["k2t"][1]
    return Table(
        "overlay-remote",
        "Overlay, to a task on another node",
        (
            Row("tunnel", "point-to-point VXLAN", _way("p1", "p2", tunnel, 7001), "tunnel"),
            Row("veth", "plain veth pair", _way("v1", "v2", peers.VETH["v2"], 7001), "tunnel"),
            Row("bridge", "bridge + VXLAN", _way("k1c", "k2t", bridge, 7001), "tunnel"),
            Row(
                "meshnet",
                "meshnet",
                _way("client", "remote", mesh.demo("remote"), 7001),
                "tunnel",
                _aim(1.08, 1.12, 1.10),
            ),
            _floor("floor", "BPF encapsulation alone", "f1a", "f2t", 7001, "tunnel"),
        ),
    )


def _overlay_local() -> Table:
    return Table(
        "overlay-local",
        "Overlay, to a task on the same node",
        (
            Row("veth", "plain veth pair", _way("v1", "v2", peers.VETH["v2"], 7011), "veth"),
            Row("bridge", "bridge", _way("k1c", "k1t", peers.BRIDGED["k1t"][1], 7011), "veth"),
            Row(
                "meshnet",
                "meshnet",
                _way("client", "local", mesh.demo("local"), 7011),
                "veth",
                _aim(0.93, 0.94, 1.00),
            ),
            _floor("floor", "BPF redirection alone", "f1a", "f1b", 7011, "veth"),
        ),
    )


def _vip(where: str, proxies: Mapping[str, Proxy], missing: tuple[Missing, ...]) -> Table:
    """The socket programs are on another node than the rest, so they have a direct path of their own beside them."""
    task, hooked = where, "remote" if where == "remote" else "near"
    bridged = peers.BRIDGED["k2t" if where == "remote" else "k1t"][1]
    balanced = {served: port for port, served in peers.BALANCED.items()}[task]
    swarm = {served: port for port, served in peers.SWARM_BALANCED.items()}[where]
    rows = [
        Row("direct", "direct (dnsrr)", _way("client", task, mesh.demo(task), 7101), "direct"),
        Row(
            "hooked",
            "direct, beside the socket programs",
            _way("hooked", hooked, mesh.demo(hooked), 7102),
            "hooked",
            hidden=True,
        ),
        Row(
            "socket",
            "VIP at the socket",
            _way("hooked", hooked, mesh.vip(hooked), 7103),
            "hooked",
            _aim(1.00, 1.00, 1.00) if where == "remote" else {},
        ),
        Row(
            "packet",
            "VIP per packet",
            _way("packet", task, mesh.vip(task), 7104),
            "direct",
            _aim(0.98, 0.98, 1.00) if where == "remote" else {},
        ),
        Row("nft", "nftables DNAT in the task", _way("rules", task, peers.ruled(task), 7105), "direct"),
        Row(
            "sandbox",
            f"load-balancer sandbox ({peers.BALANCER})",
            _way("client", task, mesh.demo("balancer"), balanced),
            "direct",
        ),
        Row(
            "bridged",
            "direct over bridge + VXLAN" if where == "remote" else "direct over a bridge",
            _way("k1c", "k2t" if where == "remote" else "k1t", bridged, 7106),
            "direct",
        ),
        Row(
            "swarm",
            "Swarm: the sandbox over its own overlay",
            _way("k1c", "k2t" if where == "remote" else "k1t", peers.BRIDGED["k1b"][1], swarm),
            "direct",
        ),
    ]
    if not any(each.title == "IPVS" for each in missing):
        way = _way("director", task, peers.directed(task), peers.DIRECTED_PORT)
        rows.append(Row("ipvs", "IPVS masquerading in the task", way, "direct"))
    if f"vip-{where}" in proxies:
        proxy = proxies[f"vip-{where}"]
        rows.append(Row("haproxy", "HAProxy beside the client", proxy.way("client", task), "direct"))
    title = "VIP, backend on another node" if where == "remote" else "VIP, backend on the same node"
    return Table(f"vip-{where}", title, tuple(rows), missing)


def _published(proxies: Mapping[str, Proxy], missing: tuple[Missing, ...]) -> Table:
    node, peer = peers.UNDERLAY["a"], peers.UNDERLAY["m1"]
    rows = [
        Row("node", "a port opened on the node itself", _way("out", "plain", peers.UNDERLAY["plain"], 7201), "node"),
        Row(
            "local",
            "meshnet, local backend",
            _way("out", "local", node, mesh.port("local")),
            "node",
            _aim(0.92, 0.93, 0.96),
        ),
        Row(
            "direct",
            "meshnet, remote, direct return",
            _way("out", "straight", node, mesh.port("straight")),
            "node",
            _aim(0.82, 0.82, 0.88),
        ),
        Row(
            "via", "meshnet, remote, through the ingress node", _way("out", "remote", node, mesh.port("remote")), "node"
        ),
        Row("nft-local", "nftables DNAT, local", _way("out", "m1t", peer, peers.NFT_LOCAL), "node"),
        Row("nft-remote", "nftables DNAT+masquerade, remote", _way("out", "m2t", peer, peers.NFT_REMOTE), "node"),
        Row(
            "swarm-local",
            f"Swarm: ingress sandbox ({peers.BALANCER}), local",
            _way("out", "m1t", peer, peers.SWARM_LOCAL),
            "node",
        ),
        Row(
            "swarm-remote",
            f"Swarm: ingress sandbox ({peers.BALANCER}), remote",
            _way("out", "m2t", peer, peers.SWARM_REMOTE),
            "node",
        ),
    ]
    rows += [
        _floor("floor-local", "BPF redirection alone, local", "out", "f1b", 7204, "node"),
        _floor("floor-direct", "encapsulation alone, direct return", "out", "f2t", 7205, "node"),
        _floor("floor-via", "encapsulation alone, through the ingress node", "out", "f3t", 7206, "node"),
    ]
    if "published" in proxies:
        rows.append(
            Row("haproxy", "HAProxy on the ingress node, remote", proxies["published"].way("out", "m2t"), "node")
        )
    return Table("published", "Published port, from outside", tuple(rows), missing)


def _node_local() -> Table:
    """The baseline is a task that asks the same task over the overlay: the node itself may not ask tasks."""
    near, far = mesh.demo("near"), mesh.demo("remote")
    ways = {name: _way("s", name, "127.0.0.1", mesh.port(name)) for name in ("near", "remote")}
    return Table(
        "node-local",
        "Published port, from the node itself (127.0.0.1)",
        (
            Row("near", "a task asks, same node", _way("hooked", "near", near, 7301), "near"),
            Row("port-near", "the node asks, backend on the same node", ways["near"], "near"),
            Row("far", "a task asks, another node", _way("hooked", "remote", far, 7302), "far"),
            Row("port-far", "the node asks, backend on another node", ways["remote"], "far"),
        ),
    )
