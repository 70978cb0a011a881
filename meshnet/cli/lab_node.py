"""`meshnet lab stop`, `kill` and `start`."""

from __future__ import annotations

import click

from meshnet.cli import options
from meshnet.cli.render import Progress, message


@click.command()
@options.in_lab
@click.argument("node")
def stop(lab_name: str | None, node: str) -> None:
    """End a node in order: its tasks, its agent, its manager."""
    from meshnet.lab import nodes, state

    lab = state.current(lab_name)
    with Progress() as progress:
        nodes.stop(lab, node, progress)
    print(node)


@click.command(short_help="End a node like a power cut, or a task.")
@options.in_lab
@click.argument("what", metavar="NODE|TASK")
def kill(lab_name: str | None, what: str) -> None:
    """End a node like a power cut does, its cable cut and everything on it killed; or kill one task."""
    from meshnet.lab import nodes, state

    lab = state.current(lab_name)
    if lab.node(what) is not None:
        was = nodes.kill(lab, what)
        print(what)
        message(nodes.after_kill(lab, what, was))
    else:
        print(nodes.kill_task(lab, what))


@click.command(short_help="Start a node again, wait until it is ready.")
@options.in_lab
@click.argument("node")
def start(lab_name: str | None, node: str) -> None:
    """Connect a node again, start what of it does not run, and wait until it is ready."""
    from meshnet.lab import nodes, state

    lab = state.current(lab_name)
    with Progress() as progress:
        note = nodes.start(lab, node, progress)
    print(node)
    if note:
        message(note)
