"""What a lab shows of itself without asking its agents."""

from __future__ import annotations

import os
from typing import Any

from meshnet import names
from meshnet.lab import benchmarks, daemons, processes, topology
from meshnet.lab.spec import Lab, LabNode

UP, NO_MANAGER = "up", "up, no manager"
LEFT = "left by a killed benchmark"


def hosts(lab: Lab) -> list[dict[str, Any]]:
    """A row per node and client: Name, Role, Address, State, Datapath, Namespace."""
    return [_row(lab, host.name) for host in lab.hosts]


def state(lab: Lab) -> str:
    """`up` when every node is, without its manager perhaps, else how many are; and whether a benchmark's lab is in use,
    or left."""
    if benchmarks.is_benchmark(lab.name, lab.directory):
        return LEFT if benchmarks.is_left(lab.name) else f"{_state_of_nodes(lab)}, a benchmark's"
    return _state_of_nodes(lab)


def _state_of_nodes(lab: Lab) -> str:
    states = [row["State"] for row in hosts(lab) if row["Role"] != "client"]
    running = sum(one in (UP, NO_MANAGER) for one in states)
    if running < len(states):
        return f"{running} of {len(states)} nodes up"
    return NO_MANAGER if NO_MANAGER in states else UP


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
    """`up`; `up, no manager`: that of it which is the manager's does not run; `stopped`: its agent does not run;
    `cut off`: its cable is unplugged (which only root sees); `killed`: both."""
    running = node is None or processes.alive(lab.name, name, daemons.AGENT)
    plugged = os.geteuid() != 0 or topology.is_plugged(lab, name)
    if running and plugged:
        managed = node is None or node.role != "manager" or processes.alive(lab.name, name, daemons.MANAGER)
        return UP if managed else NO_MANAGER
    return {(False, True): "stopped", (True, False): "cut off"}.get((running, plugged), "killed")
