"""`meshnet service scale`, `update`, `rollback` and `rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options, render, service_flags
from meshnet.cli.params import Words
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine


@click.command()
@options.asks
@options.detach
@click.argument("wanted", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
def scale(engine: Engine, detach: bool, quiet: bool, wanted: tuple[str, ...]) -> None:
    """Change the number of tasks of services and wait until they run."""
    from meshnet.cli import converge
    from meshnet.cli.service_apply import scaled

    numbers = dict(_wanted(text) for text in wanted)
    changed = []

    def scale_one(name: str) -> None:
        try:
            service = engine.service(name)
            engine.update_service(service, scaled(service.spec, numbers[name]))
        except MeshnetError as error:
            said = str(error)
            raise MeshnetError(said if name in said.split() else f"{name}: {said}", error.status) from None
        print(f"{name} scaled to {numbers[name]}", flush=True)
        changed.append(service.spec.name)

    failed = []
    for names, act in ((numbers, scale_one), (changed, lambda name: converge.wait(engine, name, quiet))):
        try:
            options.each(() if detach and names is changed else names, act, quiet=True)
        except MeshnetError as error:
            failed.append(str(error))
    if failed:
        raise MeshnetError("\n".join(failed))


def _wanted(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isascii() or not number.isdecimal():
        raise click.UsageError(f"{text!r}: write SERVICE=REPLICAS", click.get_current_context())
    return name, int(number[:18])


@click.command()
@options.asks
@options.detach
@click.option("--image", help="Image of the new tasks.")
@click.option("--args", type=Words(), help="Arguments of the command.")
@click.option("--force", is_flag=True, help="Replace the tasks although nothing changed.")
@click.option("--rollback", "back", is_flag=True, help="Go back to the spec before this one.")
@service_flags.update
@click.argument("service", metavar="SERVICE")
def update(engine: Engine, detach: bool, quiet: bool, back: bool, service: str, **given: Any) -> None:
    """Change a service and wait until it runs as wanted."""
    from meshnet.cli import converge
    from meshnet.cli.service_apply import changed
    from meshnet.cli.service_create import environment, known
    from meshnet.lab.engine import check_image

    found = engine.service(service)
    if back:
        if any(value is not None and value is not False and value != () for value in given.values()):
            raise click.UsageError("other flags may not be combined with --rollback", click.get_current_context())
        engine.update_service(found, found.spec, rollback="previous")
    else:
        if given["image"]:
            check_image(engine.lab, given["image"])
        given["env_add"] = environment(given["env_add"])
        engine.update_service(found, changed(found.spec, given, known(engine, given)), render.warning)
    print(service, flush=True)
    if not detach:
        converge.wait(engine, found.spec.name, quiet, back)


@click.command()
@options.asks
@options.detach
@click.argument("service", metavar="SERVICE")
def rollback(engine: Engine, detach: bool, quiet: bool, service: str) -> None:
    """Go back to the spec before this one, and wait until it runs."""
    from meshnet.cli import converge

    found = engine.service(service)
    engine.update_service(found, found.spec, rollback="previous")
    print(service, flush=True)
    if not detach:
        converge.wait(engine, found.spec.name, quiet, back=True)


@click.command()
@options.asks
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def rm(engine: Engine, names: tuple[str, ...]) -> None:
    """Remove services."""
    options.each(names, engine.remove_service)
