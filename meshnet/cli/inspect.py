"""`meshnet inspect`: what a node knows and has programmed, asked of its agent."""

from __future__ import annotations

from typing import Any

import click

from meshnet.cli import options, render
from meshnet.errors import MeshnetError

VIEWS = ("lb", "dns", "members", "endpoints", "statistics", "capabilities")


@click.command(short_help="Show what nodes know and have programmed.")
@options.in_lab
@options.as_json
@click.option("--node", "node_name", metavar="NAME", help="The node to ask; every node by default.")
@click.argument("view", type=click.Choice(VIEWS))
def inspect(lab_name: str | None, json_output: bool, node_name: str | None, view: str) -> None:
    """Show what nodes have: lb (VIPs and their backends), dns, members, endpoints, statistics, capabilities."""
    from meshnet.lab import engine, state

    lab = state.current(lab_name)
    if node_name:
        answer = engine.agent(lab, state.node_of(lab, node_name).name, f"/inspect/{view}")
        if json_output:
            render.as_json(answer)
        else:
            print(f"--- {node_name}")
            _show(answer)
        return
    found, silent = engine.agents(lab, f"/inspect/{view}")
    if json_output:
        render.as_json(found)
    for name in () if json_output else (node.name for node in lab.nodes):
        print(f"--- {name}{': does not answer' if name in silent else ''}")
        if name in found:
            _show(found[name])
    if silent:
        raise MeshnetError("\n".join(dict.fromkeys(str(error) for error in silent.values())))


def _show(answer: Any) -> None:
    if isinstance(answer, list):
        columns = list(dict.fromkeys(key for row in answer for key in row))
        if columns:
            render.table(
                [key.upper() for key in columns], [[_cell(row.get(key, "")) for key in columns] for row in answer]
            )
        return
    for group, counters in answer.items():
        entries = counters.items() if isinstance(counters, dict) else [("", counters)]
        render.table((group.upper(), ""), sorted((str(key), _cell(value)) for key, value in entries))


def _cell(value: Any) -> str:
    """A cell: lists one after another, mappings by their values (a backend is its address, task and node)."""
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(str(item) for item in value.values() if item != "")
    return str(value)
