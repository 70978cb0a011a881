"""What a failed lab test prints: tasks, what stands behind VIPs, records, counters, logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshnet.testing.labs import LabUnderTest

VIEWS = ("lb", "endpoints", "members", "statistics")
TAIL = 4000  # characters of an agent's log


def describe(lab: LabUnderTest) -> str:
    """What a person would look at first, of the manager and of each node, as text. Raises nothing."""
    from meshnet.lab import processes

    parts = [_tasks(lab)]
    for node in lab.spec.nodes:
        parts += [f"--- {node.name} {view}: {_view(lab, node.name, view)}" for view in VIEWS]
        log = processes.log_path(lab.name, node.name, "agent")
        parts.append(f"--- {node.name} log: {log.read_text(errors='replace')[-TAIL:] if log.exists() else 'none'}")
    return "\n".join(parts)


def _tasks(lab: LabUnderTest) -> str:
    from meshnet.errors import MeshnetError

    try:
        services = {service.id: service.spec.name for service in lab.engine.services()}
        hosts = {node.id: node.description.hostname for node in lab.engine.nodes()}
        return "\n".join(
            f"{services.get(task.service_id)}.{task.slot}.{task.id[:12]} on {hosts.get(task.node_id)}: "
            f"{task.status.state}, wanted {task.desired_state} {task.status.err}"
            for task in lab.engine.tasks()
        )
    except MeshnetError as error:
        return str(error)


def _view(lab: LabUnderTest, node: str, view: str) -> str:
    from meshnet.errors import MeshnetError

    try:
        return json.dumps(lab.inspect(node, view))
    except MeshnetError as error:
        return str(error)
