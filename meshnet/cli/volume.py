"""`meshnet volume`: volumes of a node, with docker's names and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshnet.cli import options, render
from meshnet.cli.confirm import agreed
from meshnet.cli.main import LazyGroup

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {name: f"meshnet.cli.volume:{name}" for name in ("create", "ls", "inspect", "prune", "rm")}
COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


@click.group(cls=LazyGroup, verbs=VERBS)
def volume() -> None:
    """Volumes of a node."""


@click.command()
@options.asks
@click.option("-d", "--driver", default="local", show_default=True, help="Who keeps it.")
@click.option("--label", multiple=True, help="Labels.")
@click.option("-o", "--opt", multiple=True, help="Driver options.")
@click.argument("name", default="", metavar="[VOLUME]")
def create(engine: Engine, driver: str, label: tuple[str, ...], opt: tuple[str, ...], name: str) -> None:
    """Create a volume."""
    from meshnet.cli.service_values import pairs

    body = {"Name": name, "Driver": driver, "Labels": pairs(label, "--label"), "DriverOpts": pairs(opt, "--opt")}
    print(engine.post("/volumes/create", body)["Name"])


@click.command()
@options.asks
@options.listing
def ls(engine: Engine, shown: Listing) -> None:
    """List volumes."""
    found = sorted(engine.get("/volumes", **shown.query())["Volumes"] or (), key=lambda one: str(one["Name"]))
    if shown.json_output:
        render.as_json(found)
    elif shown.quiet:
        for one in found:
            print(one["Name"])
    else:
        render.listing(shown, COLUMNS, [(one["Driver"], one["Name"]) for one in found])


@click.command()
@options.asks
@options.template
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def inspect(engine: Engine, template: str, names: tuple[str, ...]) -> None:
    """Show volumes as JSON, in the Engine API's form."""
    options.inspected(names, lambda name: engine.get(f"/volumes/{name}"), lambda found: render.objects(found, template))


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-a", "--all", is_flag=True, expose_value=False, help="Those with a name, too: they always go.")
def prune(engine: Engine, force: bool) -> None:
    """Remove the volumes that nothing uses."""
    if not force and not agreed("This will remove all local volumes not used by at least one container."):
        return
    for name in engine.post("/volumes/prune").get("VolumesDeleted") or ():
        print(name)


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Take one that is not there for removed.")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
def rm(engine: Engine, force: bool, names: tuple[str, ...]) -> None:
    """Remove volumes that nothing uses."""
    query = {"force": "true"} if force else {}
    options.each(names, lambda name: engine.delete(f"/volumes/{name}", **query))
