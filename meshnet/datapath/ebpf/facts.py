"""What only the running kernel knows: indexes, cookies and MACs, looked up by the names in a plan."""

from __future__ import annotations

import os
from collections.abc import Iterable

from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.tables import Facts
from meshnet.datapath.rows import Plan
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.kernel.netlink import Netlink

VXLAN_DEVICE, NODE_PORT = "vx0", "mning0"


class Cookies:
    """Cookies of namespaces by path, remembered as long as the path names the same namespace."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], int]] = {}

    def of(self, paths: Iterable[str]) -> dict[str, int]:
        """Path -> cookie; a path that names no namespace is left out."""
        found = {}
        for path in set(paths):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            identity = (status.st_dev, status.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != identity:
                try:
                    known = (identity, netns.cookie(path))
                except OSError:  # a plain file: the namespace is being made or was unmounted
                    continue
            found[path] = known[1]
            self._known[path] = known
        self._known = {path: known for path, known in self._known.items() if os.path.exists(path)}
        return found


def collect(plan: Plan, context: NodeContext, netlink: Netlink, cookies: Cookies) -> Facts:
    """The facts of this moment, in the namespace that `netlink` is in. MeshnetError if there is no underlay."""
    links = {link.name: link for link in netlink.links()}
    underlay = links.get(context.underlay)
    if underlay is None:
        raise MeshnetError(f"no device {context.underlay} in the namespace of node {context.node}: it is the underlay")
    vxlan, node_port = links.get(VXLAN_DEVICE), links.get(NODE_PORT)
    return Facts(
        node_cookie=netns.cookie(),
        underlay=underlay.index,
        underlay_mac=layout.mac(underlay.mac),
        vxlan=vxlan.index if vxlan else 0,
        node_port=node_port.index if node_port else 0,
        ports={name: link.index for name, link in links.items()},
        cookies=cookies.of(row.netns for row in plan.endpoints),
        vxlan_port=context.vxlan_port,
    )
