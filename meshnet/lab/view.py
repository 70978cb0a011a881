"""What a lab shows of itself without asking its agents."""

from __future__ import annotations

import os
from typing import Any

from meshnet import names
from meshnet.lab import processes, topology
from meshnet.lab.spec import Lab, LabNode


def hosts(lab: Lab) -> list[dict[str, Any]]:
    """A row per node and client: Name, Role, Address, State, Datapath, Namespace."""
    return [_row(lab, host.name) for host in lab.hosts]


def _row(lab: Lab, name: str) -> dict[str, Any]:
    host = lab.host(name)
    assert host is not None
    node = host if isinstance(host, LabNode) else None
    return {
        "Name": name,
        "Role": node.role if node else "client",
        "Address": host.address,
        "State": _state(lab, name, node),
        "Datapath": node.datapath if node else "",
        "Namespace": names.node_netns(lab.name, name),
    }


def _state(lab: Lab, name: str, node: LabNode | None) -> str:
    """`up`, `stopped` (its agent does not run) or `cut off` (its cable is unplugged; seen by root only)."""
    if node and not processes.alive(lab.name, name, "agent"):
        return "stopped"
    if os.geteuid() == 0 and not topology.is_plugged(lab, name):
        return "cut off"
    return "up"
