"""`meshnet image`: the images that a node's tasks can run, with docker's names and flags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from meshnet.cli import human, options, render
from meshnet.cli.main import LazyGroup

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {name: f"meshnet.cli.image:{name}" for name in ("ls", "inspect", "tag", "rm")}
COLUMNS = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)


@click.group(cls=LazyGroup, verbs=VERBS)
def image() -> None:
    """Images: the lab's catalogue, and what was loaded or imported."""


@click.command()
@options.asks
@options.listing
@click.argument("repository", default="", metavar="[REPOSITORY[:TAG]]")
def ls(engine: Engine, shown: Listing, repository: str) -> None:
    """List images."""
    query = shown.query()
    if repository:
        query.setdefault("filters", {})["reference"] = {repository: True}
    found = engine.get("/images/json", **query)
    if shown.json_output:
        render.as_json(found)
        return
    rows = []
    for one in found:
        ident = one["Id"] if shown.no_trunc else human.short(one["Id"].removeprefix("sha256:"))
        created = human.ago(datetime.fromtimestamp(one["Created"], UTC).isoformat()) if one["Created"] > 0 else "N/A"
        for name in one.get("RepoTags") or ["<none>:<none>"]:
            repo, _, tag = name.rpartition(":")
            rows.append((repo, tag, ident, created[:1].upper() + created[1:], human.decimal_size(one["Size"])))
    if shown.quiet:
        for ident in dict.fromkeys(row[2] for row in rows):
            print(ident)
        return
    render.listing(shown, COLUMNS, sorted(rows))


@click.command()
@options.asks
@options.template
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def inspect(engine: Engine, template: str, names: tuple[str, ...]) -> None:
    """Show images as JSON, in the Engine API's form."""
    options.inspected(
        names, lambda name: engine.get(f"/images/{name}/json"), lambda found: render.objects(found, template)
    )


@click.command()
@options.asks
@click.argument("source", metavar="IMAGE")
@click.argument("target", metavar="NAME[:TAG]")
def tag(engine: Engine, source: str, target: str) -> None:
    """Give an image another name."""
    last = target.rpartition("/")[2]
    name, word = (target.rsplit(":", 1)) if ":" in last else (target, "latest")
    engine.post(f"/images/{source}/tag", None, repo=name, tag=word)


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Remove it although it has several names.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
def rm(engine: Engine, force: bool, names: tuple[str, ...]) -> None:
    """Remove names of images, and with its last name the image."""
    query = {"force": "1"} if force else {}

    def remove(name: str) -> None:
        for done in engine.delete(f"/images/{name}", **query) or ():
            for word, what in done.items():
                print(f"{word}: {what}", flush=True)

    options.each(names, remove, quiet=True)
