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


def state(lab: Lab) -> str:
    """`up` when every node is, else how many are."""
    states = [row["State"] for row in hosts(lab) if row["Role"] != "client"]
    return "up" if set(states) == {"up"} else f"{states.count('up')} of {len(states)} nodes up"


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
    """`up`; `stopped`: its agent does not run; `cut off`: its cable is unplugged (which only root sees); `killed`."""
    running = node is None or processes.alive(lab.name, name, "agent")
    plugged = os.geteuid() != 0 or topology.is_plugged(lab, name)
    return {(True, True): "up", (False, True): "stopped", (True, False): "cut off"}.get((running, plugged), "killed")
