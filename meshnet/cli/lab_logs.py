"""`meshnet lab logs`."""

from __future__ import annotations

import click

from meshnet.cli import options, render


@click.command(short_help="Show what a node, task or service wrote.")
@options.in_lab
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-n", "--tail", type=click.IntRange(0), help="Only the last lines of each log.")
@click.argument("what", metavar="NODE|TASK|SERVICE")
def logs(lab_name: str | None, follow: bool, tail: int | None, what: str) -> None:
    """Show what a node's agent and manager, a task, or the tasks of a service have written."""
    from meshnet.lab import logs as readers
    from meshnet.lab import state

    found = readers.sources(state.current(lab_name), what)
    if follow:
        readers.follow(found, tail)
    elif not readers.show(found, tail):
        render.message(f"{what} has written nothing")
