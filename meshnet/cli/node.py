"""`meshnet node`: the members of the swarm with docker's names and flags."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import human, options, render
from meshnet.cli.main import LazyGroup

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {
    "ls": "meshnet.cli.node:ls",
    "ps": "meshnet.cli.node:ps",
    "inspect": "meshnet.cli.node:inspect",
    "update": "meshnet.cli.node:update",
    "promote": "meshnet.cli.node:promote",
    "demote": "meshnet.cli.node:demote",
    "rm": "meshnet.cli.node:rm",
}
COLUMNS = (
    ("ID", "ID"),
    ("HOSTNAME", "Hostname"),
    ("STATUS", "Status"),
    ("AVAILABILITY", "Availability"),
    ("MANAGER STATUS", "ManagerStatus"),
    ("ADDRESS", "Address"),
    ("ENGINE VERSION", "EngineVersion"),
)


@click.group(cls=LazyGroup, verbs=VERBS)
def node() -> None:
    """Nodes of a swarm."""


@click.command()
@options.asks
@options.listing
def ls(engine: Engine, shown: Listing) -> None:
    """List nodes."""
    from meshnet.codec import from_json
    from meshnet.model import Node

    found = engine.get("/nodes", **shown.query())
    if shown.json_output:
        render.as_json(found)
        return
    rows = []
    for one in sorted((from_json(Node, one) for one in found), key=lambda one: one.description.hostname):
        role = one.manager_status
        leading = "Leader" if role and role.leader else role.reachability.capitalize() if role else ""
        rows.append(
            (
                one.id if shown.no_trunc else human.short(one.id),
                one.description.hostname,
                one.status.state.capitalize(),
                one.spec.availability.capitalize(),
                leading,
                one.status.addr,
                one.description.engine.engine_version,
            )
        )
    render.listing(shown, COLUMNS, rows)


@click.command()
@options.asks
@options.listing
@click.argument("names", nargs=-1, metavar="[NODE...]")
def ps(engine: Engine, shown: Listing, names: tuple[str, ...]) -> None:
    """List the tasks on nodes, by default on the one that is asked."""
    from meshnet.cli import tasks

    query = shown.query()
    idents = [engine.node(_named(engine, name)).id for name in names or ("self",)]
    query.setdefault("filters", {})["node"] = dict.fromkeys(idents, True)
    tasks.show(engine, shown, query)


@click.command()
@options.asks
@options.template
@click.option("--pretty", is_flag=True, help="Print what is said of it in words.")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def inspect(engine: Engine, template: str, pretty: bool, names: tuple[str, ...]) -> None:
    """Show nodes as JSON; self is the one that is asked."""
    from meshnet.cli import pretty as words

    def show(found: list[Any]) -> None:
        if not pretty:
            render.objects(found, template)
        for one in found if pretty else ():
            print(words.node(one))

    options.inspected(names, lambda name: engine.get(f"/nodes/{engine.node(_named(engine, name)).id}"), show)


def _named(engine: Engine, name: str) -> str:
    """docker's `self` is the node whose engine is asked."""
    return str(engine.get("/info")["Swarm"]["NodeID"]) if name == "self" else name


@click.command()
@options.asks
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="Whether it gets tasks.")
@click.option("--label-add", multiple=True, help="Add or change a label: NAME=value.")
@click.option("--label-rm", multiple=True, help="Remove a label.")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="Its role in the swarm.")
@click.argument("name", metavar="NODE")
def update(
    engine: Engine,
    availability: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
    role: str | None,
    name: str,
) -> None:
    """Change a node."""
    from meshnet.cli import service_values

    one = engine.node(_named(engine, name))
    labels = {key: value for key, value in one.spec.labels.items() if key not in label_rm}
    labels |= service_values.pairs(label_add, "--label-add")
    spec = dataclasses.replace(
        one.spec, labels=labels, availability=availability or one.spec.availability, role=role or one.spec.role
    )
    engine.update_node(one, spec)
    print(name)


@click.command()
@options.asks
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def promote(engine: Engine, names: tuple[str, ...]) -> None:
    """Make managers of nodes."""
    for name in names:
        _set_role(engine, name, "manager", "promoted to a manager in the swarm")


@click.command()
@options.asks
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def demote(engine: Engine, names: tuple[str, ...]) -> None:
    """Make workers of nodes."""
    for name in names:
        _set_role(engine, name, "worker", "demoted in the swarm")


def _set_role(engine: Engine, name: str, role: str, done: str) -> None:
    one = engine.node(_named(engine, name))
    if one.spec.role == role:
        print(f"Node {name} is already a {role}.")
        return
    engine.update_node(one, dataclasses.replace(one.spec, role=role))
    print(f"{'Manager' if role == 'worker' else 'Node'} {name} {done}.")


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Remove a node although it is not down.")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
def rm(engine: Engine, force: bool, names: tuple[str, ...]) -> None:
    """Remove nodes from the swarm."""

    def remove(name: str) -> None:
        engine.delete(f"/nodes/{engine.node(name).id}", **({"force": "true"} if force else {}))

    options.each(names, remove)
