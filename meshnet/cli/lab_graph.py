"""`meshnet lab graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshnet.cli import options, render
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.graph import Picture
    from meshnet.lab.spec import Lab


@click.command(short_help="Draw the topology of a lab.")
@click.argument("what", required=False, metavar="[DIR|NAME]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "mermaid", "dot", "json"]),
    default="svg",
    help="What to write (svg).",
)
@options.in_lab
def graph(what: str | None, form: str, lab_name: str | None) -> None:
    """Draw the topology of a lab on stdout.

    With DIR, what its files say, whether it is up or not; with the NAME of a lab that is up, what runs in it now.
    """
    from meshnet.lab import graph as pictures
    from meshnet.lab import graph_svg

    shown = _picture(what, lab_name)
    if form == "json":
        render.as_json(pictures.as_data(shown))
    else:
        draw = {"svg": graph_svg.svg, "mermaid": pictures.mermaid, "dot": pictures.dot}[form]
        print(draw(shown), end="")


def _picture(what: str | None, lab_name: str | None) -> Picture:
    from pathlib import Path

    from meshnet.lab import file, state
    from meshnet.lab import graph as pictures

    if what and what not in state.up() and (Path(what).exists() or file.packaged(what)):
        return pictures.picture(file.load(what))
    return _live(state.current(what or lab_name))


def _live(lab: Lab) -> Picture:
    from meshnet.lab import engine, tasks
    from meshnet.lab import graph as pictures

    on: dict[str, list[str]] = {}
    for task in tasks.all_tasks(lab):
        on.setdefault(task.node, []).append(task.short)
    try:
        manager = engine.of_lab(lab)
        specs = pictures.running(manager.services(), manager.networks())
    except MeshnetError as error:
        raise MeshnetError(f"{error}; the files alone are drawn with: meshnet lab graph {lab.directory}") from None
    return pictures.picture(lab, specs, on)
