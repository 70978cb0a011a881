"""Which namespaces and addresses of a lab a trace is about: all, a task's, or a service's."""

from __future__ import annotations

import os
from collections.abc import Iterable

from meshnet import names
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.kernel import netns
from meshnet.lab import engine
from meshnet.lab.spec import Lab
from meshnet.lab.tasks import LabTask, all_tasks, find
from meshnet.observe.drops import Scope


def scope(lab: Lab, task: str = "", service: str = "") -> Scope:
    """The scope of a trace now. NotFoundError for a task or service that does not exist."""
    tasks = all_tasks(lab)
    spaces = {names.node_netns(lab.name, host.name): host.name for host in lab.hosts}
    spaces[names.underlay_netns(lab.name)] = "underlay"
    spaces |= {one.spec.netns: one.name.rpartition(".")[0] for one in tasks}
    numbers = {number: name for space, name in spaces.items() if (number := _number(space))}
    if not task and not service:
        return Scope(numbers)
    about = [find(lab, task)] if task else [one for one in tasks if one.service == service]
    addresses = _addresses(lab, about, service)
    if not about and not addresses:
        raise NotFoundError(f"the lab {lab.name} has no service {service} with a task or a VIP")
    whole = frozenset(number for one in about if (number := _number(one.spec.netns)))
    return Scope(numbers, True, whole, frozenset(addresses))


def _number(space: str) -> int:
    """The inode of a namespace, or 0 if it is gone."""
    try:
        return os.stat(netns.path(space)).st_ino
    except FileNotFoundError:
        return 0


def _addresses(lab: Lab, tasks: Iterable[LabTask], service: str) -> set[str]:
    """Addresses of tasks and VIPs of a service, as the nodes know them that answer."""
    found: set[str] = set()
    wanted = {task.name for task in tasks}
    for node in lab.nodes:
        try:
            found |= {row["IP"] for row in engine.agent(lab, node.name, "/inspect/endpoints") if row["Task"] in wanted}
            rows = engine.agent(lab, node.name, "/inspect/lb") if service else []
        except MeshnetError:
            continue
        found |= {row["Address"] for row in rows if row["Service"] == service and row["Address"] != "*"}
    return found
