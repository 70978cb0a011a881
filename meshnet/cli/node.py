"""`meshnet node`: the members of the swarm with docker's names and flags."""

from __future__ import annotations

import dataclasses

import click

from meshnet.cli import human, options, render
from meshnet.cli.main import LazyGroup

VERBS = {
    "ls": "meshnet.cli.node:ls",
    "ps": "meshnet.cli.node:ps",
    "inspect": "meshnet.cli.node:inspect",
    "update": "meshnet.cli.node:update",
}


@click.group(cls=LazyGroup, verbs=VERBS)
def node() -> None:
    """Nodes of a lab's swarm."""


@click.command()
@options.in_lab
@options.on_node
@options.as_json
def ls(lab_name: str | None, node_name: str | None, json_output: bool) -> None:
    """List nodes."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    if json_output:
        render.as_json(manager.get("/nodes"))
        return
    rows = []
    for one in sorted(manager.nodes(), key=lambda one: one.description.hostname):
        role = one.manager_status
        leading = "Leader" if role and role.leader else role.reachability.capitalize() if role else ""
        rows.append(
            (
                human.short(one.id),
                one.description.hostname,
                one.status.state.capitalize(),
                one.spec.availability.capitalize(),
                leading,
                one.status.addr,
                one.description.engine.engine_version,
            )
        )
    columns = ("ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ADDRESS", "ENGINE VERSION")
    render.table(columns, rows)


@click.command()
@options.in_lab
@options.on_node
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def ps(lab_name: str | None, node_name: str | None, names: tuple[str, ...]) -> None:
    """List the tasks on nodes."""
    from meshnet.cli.service_show import TASK_COLUMNS, task_rows
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    wanted = {manager.node(name).id for name in names}
    hosts = {one.id: one.description.hostname for one in manager.nodes()}
    services = {service.id: service for service in manager.services()}
    tasks = [task for task in manager.tasks() if task.node_id in wanted]
    render.table(TASK_COLUMNS, task_rows(tasks, services, hosts))


@click.command()
@options.in_lab
@options.on_node
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def inspect(lab_name: str | None, node_name: str | None, names: tuple[str, ...]) -> None:
    """Show nodes as JSON, in the Engine API's form."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    render.as_json([manager.get(f"/nodes/{manager.node(name).id}") for name in names])


@click.command()
@options.in_lab
@options.on_node
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="Whether it gets tasks.")
@click.option("--label-add", multiple=True, help="Add or change a label: NAME=value.")
@click.option("--label-rm", multiple=True, help="Remove a label.")
@click.argument("name", metavar="NODE")
def update(
    lab_name: str | None,
    node_name: str | None,
    availability: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
    name: str,
) -> None:
    """Change a node."""
    from meshnet.cli import service_spec
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    one = manager.node(name)
    labels = {key: value for key, value in one.spec.labels.items() if key not in label_rm}
    labels |= service_spec.pairs(label_add, "--label-add")
    spec = dataclasses.replace(one.spec, labels=labels, availability=availability or one.spec.availability)
    manager.update_node(one, spec)
    print(name)
