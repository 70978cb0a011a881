"""`meshnet stack`: services of a compose file as one thing, with docker's names and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options, render
from meshnet.cli.main import LazyGroup
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {
    "deploy": "meshnet.cli.stack_deploy:deploy",
    "ls": "meshnet.cli.stack:ls",
    "ps": "meshnet.cli.stack:ps",
    "services": "meshnet.cli.stack:services",
    "rm": "meshnet.cli.stack:rm",
}
LABEL = "com.docker.stack.namespace"
COLUMNS = (("NAME", "Name"), ("SERVICES", "Services"))
# What a stack is made of, in the order in which it goes: a network or a secret cannot go before its services.
PARTS = ("services", "secrets", "configs", "networks")


@click.group(cls=LazyGroup, verbs=VERBS)
def stack() -> None:
    """Stacks: the services of a compose file."""


def query(name: str) -> dict[str, Any]:
    """What is part of a stack, as the Engine is asked for it."""
    return {"filters": {"label": {f"{LABEL}={name}": True}}}


def name_of(part: dict[str, Any]) -> str:
    """The name of a part: networks are not shaped like the others."""
    return str(part["Name"] if "Name" in part else part["Spec"]["Name"])


@click.command()
@options.asks
@options.listing
def ls(engine: Engine, shown: Listing) -> None:
    """List stacks."""
    counts: dict[str, int] = {}
    for one in engine.get("/services", filters={"label": {LABEL: True}}):
        name = one["Spec"]["Labels"][LABEL]
        counts[name] = counts.get(name, 0) + 1
    if shown.json_output:
        render.as_json([{"Name": name, "Services": count} for name, count in sorted(counts.items())])
        return
    render.listing(shown, COLUMNS, [(name, str(count)) for name, count in sorted(counts.items())])


@click.command()
@options.asks
@options.listing
@click.argument("name", metavar="STACK")
def ps(engine: Engine, shown: Listing, name: str) -> None:
    """List the tasks of a stack."""
    from meshnet.cli import tasks

    _must_be(engine, name)
    tasks.show(engine, shown, _with(shown, name))


@click.command()
@options.asks
@options.listing
@click.argument("name", metavar="STACK")
def services(engine: Engine, shown: Listing, name: str) -> None:
    """List the services of a stack."""
    from meshnet.cli import service_show

    _must_be(engine, name)
    service_show.show(shown, engine.get("/services", status="true", **_with(shown, name)))


def _with(shown: Listing, name: str) -> dict[str, Any]:
    asked = shown.query()
    asked.setdefault("filters", {}).setdefault("label", {})[f"{LABEL}={name}"] = True
    return asked


def _must_be(engine: Engine, name: str) -> None:
    if not engine.get("/services", **query(name)):
        raise MeshnetError(f"nothing found in stack: {name}", 404)


@click.command()
@options.asks
@click.argument("names", nargs=-1, required=True, metavar="STACK...")
def rm(engine: Engine, names: tuple[str, ...]) -> None:
    """Remove stacks, with all that they made."""
    options.each(names, lambda name: _remove(engine, name), quiet=True)


def _remove(engine: Engine, name: str) -> None:
    """Removes what can be removed of a stack. Raises MeshnetError with what could not."""
    found = {kind: engine.get(f"/{kind}", **query(name)) for kind in PARTS}
    if not any(found.values()):
        raise MeshnetError(f"nothing found in stack: {name}", 404)
    parts = {
        f"{kind.removesuffix('s')} {name_of(part)}": f"/{kind}/{part['Id' if kind == 'networks' else 'ID']}"
        for kind in PARTS
        for part in sorted(found[kind], key=name_of)
    }

    def remove(what: str) -> None:
        print(f"Removing {what}", flush=True)
        try:
            engine.delete(parts[what])
        except MeshnetError as error:
            raise MeshnetError(f"{what}: {error}", error.status) from None

    options.each(parts, remove, quiet=True)
