"""`meshnet service ls`, `ps` and `inspect`."""

from __future__ import annotations

import click

from meshnet.cli import human, options, render
from meshnet.model import TERMINAL_STATES, Service, Task


@click.command()
@options.in_lab
@options.on_node
@options.as_json
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
def ls(lab_name: str | None, node_name: str | None, json_output: bool, quiet: bool) -> None:
    """List services."""
    from meshnet.lab import converge, engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    if json_output:
        render.as_json(manager.get("/services"))
        return
    tasks, nodes = manager.tasks(), manager.nodes()
    services = sorted(manager.services(), key=lambda service: service.spec.name)
    if quiet:
        print("\n".join(human.short(service.id) for service in services))
        return
    rows = []
    for service in services:
        now = converge.progress(service, tasks, nodes)
        rows.append(
            (
                human.short(service.id),
                service.spec.name,
                "global" if service.spec.mode.global_ is not None else "replicated",
                f"{now.running}/{now.wanted}",
                service.spec.task_template.container_spec.image,
                ports(service),
            )
        )
    render.table(("ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"), rows)


def ports(service: Service) -> str:
    """Published ports in docker's notation: `*:8000->8000/tcp`."""
    return ", ".join(
        f"*:{port.published_port}->{port.target_port}/{port.protocol}"
        for port in service.endpoint.ports
        if port.publish_mode == "ingress"
    )


@click.command()
@options.in_lab
@options.on_node
@options.as_json
@click.option("--no-trunc", is_flag=True, help="Print whole ids and errors.")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def ps(lab_name: str | None, node_name: str | None, json_output: bool, no_trunc: bool, names: tuple[str, ...]) -> None:
    """List the tasks of services, with those they replaced."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    services = {service.id: service for service in (manager.service(name) for name in names)}
    if json_output:
        render.as_json([task for task in manager.get("/tasks") if task.get("ServiceID") in services])
        return
    hosts = {node.id: node.description.hostname for node in manager.nodes()}
    tasks = [task for task in manager.tasks() if task.service_id in services]
    render.table(TASK_COLUMNS, task_rows(tasks, services, hosts, no_trunc))


WIDEST_ERROR = 80  # docker's 30 characters would end before crun's reasons begin
TASK_COLUMNS = ("ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS")


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
        name = _slot_name(task, services)
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
                "",
            )
        )
        before = name
    return rows


def _place(task: Task, services: dict[str, Service]) -> tuple[str, int, str]:
    """Where a task stands in the table: web.2 before web.10."""
    return _slot_name(task, services).partition(".")[0], task.slot, task.node_id if not task.slot else ""


def _slot_name(task: Task, services: dict[str, Service]) -> str:
    service = services.get(task.service_id)
    return f"{service.spec.name if service else task.service_id}.{task.slot or task.node_id}"


@click.command()
@options.in_lab
@options.on_node
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def inspect(lab_name: str | None, node_name: str | None, names: tuple[str, ...]) -> None:
    """Show services as JSON, in the Engine API's form."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    render.as_json([manager.get(f"/services/{manager.service(name).id}") for name in names])
