"""`meshnet lab up` and `meshnet lab down`."""

from __future__ import annotations

import time

import click

from meshnet.cli.render import Progress, message


@click.command()
@click.argument("directory", default=".", metavar="[DIR]")
def up(directory: str) -> None:
    """Bring up the lab in DIR (the current folder by default) and wait until it works."""
    from meshnet.lab import file
    from meshnet.lab.up import up as bring_up

    lab = file.load(directory)
    for warning in lab.warnings:
        message(f"warning: {warning}")
    begun = time.monotonic()
    with Progress() as progress:
        bring_up(lab, progress)
    message(f"{lab.name} is up: {len(lab.nodes)} nodes, {len(lab.clients)} clients ({time.monotonic() - begun:.1f} s)")
    message(f"look around: meshnet lab inspect {lab.name}; meshnet lab exec {lab.hosts[-1].name} -- ip addr")
    message(f"take it down: meshnet lab down {lab.name}")


@click.command()
@click.argument("what", default=".", metavar="[DIR|NAME]")
def down(what: str) -> None:
    """Take down the lab called NAME, or the lab in DIR, and remove all it made."""
    from meshnet.lab import down as downs

    name = downs.resolve(what)
    begun = time.monotonic()
    downs.down(name)
    message(f"{name} is down ({time.monotonic() - begun:.1f} s)")
