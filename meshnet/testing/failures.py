"""What a failed lab test prints: tasks, what stands behind VIPs, records, counters, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshnet.testing.labs import LabUnderTest

VIEWS = ("lb", "endpoints", "members", "statistics")
TAIL = 2000  # characters of an agent's log
MOST = 4000  # characters of a view; a lab with hundreds of endpoints would bury the failure


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
        text = "\n".join(["", *lines(lab.inspect(node, view))])
    except MeshnetError as error:
        return str(error)
    if len(text) <= MOST:
        return text
    return f"{text[:MOST]}\n({len(text) - MOST} characters more: meshnet inspect {view})"


def lines(answer: Any) -> list[str]:
    """An agent's view as aligned columns: a line per row, or per counter that is not zero."""
    rows: list[tuple[str, ...]]
    if isinstance(answer, dict):
        counters = [(group, found) for group, found in answer.items() if group != "Meanings"]
        rows = [
            (group, name, str(value)) for group, found in counters for name, value in sorted(found.items()) if value
        ]
    else:
        columns = tuple(dict.fromkeys(key for row in answer for key in row))
        rows = [columns, *(tuple(_cell(row.get(key, "")) for key in columns) for row in answer)] if columns else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: Any) -> str:
    """A backend is its address, task and node; several stand one after another."""
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
