"""`meshnet inspect`: what a node knows and has programmed, asked of its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options, render
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.cli.inspect_views import Look
    from meshnet.lab.spec import Lab

VIEWS = ("lb", "dns", "members", "endpoints", "statistics", "capabilities")


@click.command(short_help="Show what nodes know and have programmed.")
@options.in_lab
@options.as_json
@click.option("--node", "node_name", metavar="NAME", help="The node to ask; every node by default.")
@click.option("--no-trunc", is_flag=True, help="Print whole ids and names of tasks.")
@click.option("-a", "--all", "everything", is_flag=True, help="Print counters that are zero and every form of a name.")
@click.argument("view", type=click.Choice(VIEWS))
def inspect(
    lab_name: str | None, json_output: bool, node_name: str | None, no_trunc: bool, everything: bool, view: str
) -> None:
    """Show what nodes have: lb (VIPs and their backends), dns, members, endpoints, statistics, capabilities.

    A node that does not answer hides no other; the exit status is 1 then.
    """
    from meshnet.cli.inspect_views import Look
    from meshnet.lab import engine, state

    lab = state.current(lab_name)
    asked = [state.node_of(lab, node_name)] if node_name else list(lab.nodes)
    found, silent = engine.agents(lab, f"/inspect/{view}", [node.name for node in asked])
    if json_output and (found or not node_name):
        render.as_json(found[node_name] if node_name else found)
    elif not json_output and found:
        look = Look(_names(lab), no_trunc, everything)
        for node in asked:
            print(_heading(node.name, silent.get(node.name)))
            if node.name in found:
                _show(view, found[node.name], look)
    if silent:
        raise MeshnetError("\n".join(dict.fromkeys(str(error) for error in silent.values())))


def _heading(node: str, error: MeshnetError | None) -> str:
    """A node's name, and why nothing follows, if nothing does."""
    from meshnet.lab import engine

    if error is None:
        return f"--- {node}"
    return f"--- {node}: {'is in no swarm' if error.status == engine.UNAVAILABLE else 'does not answer'}"


def _names(lab: Lab) -> dict[str, str]:
    """What ids stand for, as far as the manager answers: a node knows only what concerns it."""
    from meshnet.lab import engine

    manager = engine.of_lab(lab)
    try:
        found = {service.id: service.spec.name for service in manager.services()}
        found |= {node.id: node.description.hostname for node in manager.nodes()}
        return found | {network["Id"]: network["Name"] for network in manager.get("/networks")}
    except MeshnetError:
        return {}


def _show(view: str, answer: Any, look: Look) -> None:
    from meshnet.cli import inspect_views

    for table in inspect_views.tables(view, answer, look):
        if table.heading:
            print(table.heading)
        if table.columns:
            render.table(table.columns, table.rows)
