"""`meshnet lab exec`."""

from __future__ import annotations

import sys

import click

from meshnet.cli import options


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    short_help="Run a command on a node, client or task.",
)
@options.in_lab
@click.argument("where", metavar="NODE|CLIENT|TASK")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG...]")
def execute(lab_name: str | None, where: str, command: tuple[str, ...]) -> None:
    """Run a command on a node, on a client, or in a task; the exit status is the command's."""
    from meshnet.lab import enter, state, tasks

    lab = state.current(lab_name)
    words = list(command[1:] if command[:1] == ("--",) else command)
    if not words:
        raise click.UsageError("a command is missing", click.get_current_context())
    if lab.host(where) is not None:
        enter.enter_host(lab, where)
        enter.become(words)
    task = tasks.find(lab, where)
    enter.check_program(task, words[0])
    enter.enter_task(task)
    enter.become(enter.task_command(task, words, sys.stdin.isatty() and sys.stdout.isatty()))
