"""Tasks in docker's rows, for `service ps`, `node ps` and `stack ps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshnet.cli import human, render
from meshnet.cli.options import Listing
from meshnet.codec import from_json
from meshnet.model import TERMINAL_STATES, Service, Task

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine

WIDEST_ERROR = 80  # docker's 30 characters would end before crun's reasons begin
COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("NODE", "Node"),
    ("DESIRED STATE", "DesiredState"),
    ("CURRENT STATE", "CurrentState"),
    ("ERROR", "Error"),
    ("PORTS", "Ports"),
)


def show(engine: Engine, shown: Listing, query: Mapping[str, Any]) -> None:
    """Prints the tasks that the Engine gives for a query, with those that they replaced."""
    found = engine.get("/tasks", **query)
    if shown.json_output:
        render.as_json(found)
        return
    services = {service.id: service for service in engine.services()}
    hosts = {node.id: node.description.hostname for node in engine.nodes()}
    rows = task_rows([from_json(Task, one) for one in found], services, hosts, shown.no_trunc)
    render.listing(shown, COLUMNS, rows)


def task_rows(
    tasks: list[Task], services: dict[str, Service], hosts: dict[str, str], no_trunc: bool = False
) -> list[tuple[str, ...]]:
    """docker's rows: a slot's newest task first, those before it set in below."""
    # The newest first within a slot; Python's sort is stable.
    newest = sorted(tasks, key=lambda task: task.created_at, reverse=True)
    ordered = sorted(newest, key=lambda task: (_place(task, services), task.desired_state in TERMINAL_STATES))
    rows: list[tuple[str, ...]] = []
    before = ""
    for task in ordered:
        name = slot_name(task, services)
        error = f'"{task.status.err}"' if task.status.err else ""
        rows.append(
            (
                task.id if no_trunc else human.short(task.id),
                rf" \_ {name}" if name == before else name,
                task.spec.container_spec.image,
                hosts.get(task.node_id, ""),
                task.desired_state.capitalize(),
                human.state(task.status.state, task.status.timestamp),
                error if no_trunc or len(error) <= WIDEST_ERROR else error[: WIDEST_ERROR - 2] + '…"',
                _ports(task, services),
            )
        )
        before = name
    return rows


def _place(task: Task, services: dict[str, Service]) -> tuple[str, int, str]:
    """Where a task stands in the table: web.2 before web.10."""
    return slot_name(task, services).partition(".")[0], task.slot, task.node_id if not task.slot else ""


def slot_name(task: Task, services: dict[str, Service]) -> str:
    """`service.slot`, or `service.node` for a task of a global service."""
    service = services.get(task.service_id)
    return f"{service.spec.name if service else task.service_id}.{task.slot or task.node_id}"


def _ports(task: Task, services: dict[str, Service]) -> str:
    """The ports of its node that lead to a running task alone."""
    service = services.get(task.service_id)
    if service is None or task.status.state != "running":
        return ""
    return ports(service, "host")


def ports(service: Service, mode: str = "ingress") -> str:
    """Published ports of one mode in docker's notation: `*:8000->8000/tcp`."""
    return ", ".join(
        f"*:{port.published_port}->{port.target_port}/{port.protocol}"
        for port in service.endpoint.ports
        if port.publish_mode == mode
    )
