"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from meshnet.errors import MeshnetError

F = TypeVar("F", bound=Callable[..., Any])


def in_lab(command: F) -> F:
    """Adds `--lab NAME`: the lab that is meant when several are up."""
    return click.option("--lab", "lab_name", metavar="NAME", help="The lab, if several are up ($MESHNET_LAB).")(command)


def on_node(command: F) -> F:
    """Adds `--node NAME`: the node that is asked."""
    return click.option("--node", "node_name", metavar="NAME", help="The node to ask; a manager by default.")(command)


def as_json(command: F) -> F:
    """Adds `--json`."""
    return click.option("--json", "json_output", is_flag=True, help="Print JSON instead of a table.")(command)


def detach(command: F) -> F:
    """Adds docker's `--detach` and `--quiet`."""
    command = click.option("-q", "--quiet", is_flag=True, help="Wait without showing progress.")(command)
    return click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks run.")(command)


def each(names: tuple[str, ...], act: Callable[[str], object]) -> None:
    """Does something to each name and prints those that were done; raises after the last if any was refused."""
    refused = []
    for name in names:
        try:
            act(name)
            print(name, flush=True)
        except MeshnetError as error:
            refused.append(str(error))
    if refused:
        raise MeshnetError("\n".join(refused))
