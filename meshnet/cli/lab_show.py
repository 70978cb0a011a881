"""`meshnet lab ls`, `inspect` and `env`."""

from __future__ import annotations

from typing import Any

import click

from meshnet.cli import options, render


@click.command()
@options.as_json
def ls(json_output: bool) -> None:
    """List the labs that are up."""
    from meshnet.lab import state, view

    labs = state.all_up()
    if json_output:
        render.as_json(
            [
                {
                    "Name": lab.name,
                    "State": view.state(lab),
                    "Nodes": len(lab.nodes),
                    "Clients": len(lab.clients),
                    "Underlay": lab.subnet,
                    "Directory": lab.directory,
                }
                for lab in labs
            ]
        )
        return
    rows = [(lab.name, view.state(lab), len(lab.nodes), len(lab.clients), lab.subnet, lab.directory) for lab in labs]
    render.table(("NAME", "STATE", "NODES", "CLIENTS", "UNDERLAY", "DIRECTORY"), rows)


@click.command()
@click.argument("name", required=False)
@options.in_lab
@options.as_json
def inspect(name: str | None, lab_name: str | None, json_output: bool) -> None:
    """Show a lab's nodes and clients."""
    from meshnet.lab import state
    from meshnet.lab.view import hosts

    lab = state.current(name or lab_name)
    rows = hosts(lab)
    if json_output:
        render.as_json({"Name": lab.name, "Directory": lab.directory, "Underlay": lab.subnet, "Hosts": rows})
        return
    columns = ("Name", "Role", "Address", "State", "Datapath", "Namespace")
    render.table([column.upper() for column in columns], [_cells(row, columns) for row in rows])


def _cells(row: dict[str, Any], columns: tuple[str, ...]) -> list[str]:
    return [str(row[column]) for column in columns]


@click.command(short_help="Print the line that makes docker talk to NODE.")
@click.argument("node")
@options.in_lab
def env(node: str, lab_name: str | None) -> None:
    """Print shell lines that make docker, and all that speaks its API, talk to NODE: eval "$(meshnet lab env NODE)"."""
    from meshnet import names
    from meshnet.lab import state

    lab = state.current(lab_name)
    host = state.node_of(lab, node)
    print(f"export MESHNET_LAB={lab.name}")
    print(f"export DOCKER_HOST=unix://{names.node_dir(lab.name, host.name)}/docker.sock")
    print(f'# Run this to use it: eval "$(meshnet lab env {host.name})"')
