"""`meshnet service scale`, `update` and `rm`."""

from __future__ import annotations

import dataclasses

import click

from meshnet.cli import options
from meshnet.errors import MeshnetError
from meshnet.model import Replicated, ServiceMode, ServiceSpec


@click.command()
@options.in_lab
@options.on_node
@options.detach
@click.argument("wanted", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
def scale(lab_name: str | None, node_name: str | None, detach: bool, quiet: bool, wanted: tuple[str, ...]) -> None:
    """Change the number of tasks of services and wait until they run."""
    from meshnet.cli import converge
    from meshnet.lab import engine, state

    numbers = [_wanted(text) for text in wanted]
    manager = engine.of_lab(state.current(lab_name), node_name)
    for name, replicas in numbers:
        service = manager.service(name)
        manager.update_service(service, _scaled(service.spec, name, replicas))
        print(f"{name} scaled to {replicas}", flush=True)
    for name, _ in numbers:
        if not detach:
            converge.wait(manager, manager.service(name).spec.name, quiet)


def _wanted(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isascii() or not number.isdecimal():
        raise click.UsageError(f"{text!r}: write SERVICE=REPLICAS", click.get_current_context())
    return name, int(number)


def _scaled(spec: ServiceSpec, name: str, replicas: int) -> ServiceSpec:
    if spec.mode.replicated is None:
        raise MeshnetError(f"{name}: scale can only be used with replicated or replicated-job mode")
    return dataclasses.replace(spec, mode=ServiceMode(Replicated(replicas)))


@click.command()
@options.in_lab
@options.on_node
@options.detach
@click.option("--replicas", type=click.IntRange(0), help="Number of tasks.")
@click.option("--image", help="Image of the new tasks.")
@click.option("--force", is_flag=True, help="Replace the tasks although nothing changed.")
@click.argument("name", metavar="SERVICE")
def update(
    lab_name: str | None,
    node_name: str | None,
    detach: bool,
    quiet: bool,
    replicas: int | None,
    image: str | None,
    force: bool,
    name: str,
) -> None:
    """Change a service and wait until it runs as wanted."""
    from meshnet.cli import converge
    from meshnet.lab import engine, state

    lab = state.current(lab_name)
    manager = engine.of_lab(lab, node_name)
    service = manager.service(name)
    if image:
        engine.check_image(lab, image)
    spec = service.spec if replicas is None else _scaled(service.spec, name, replicas)
    task = spec.task_template
    if image:
        task = dataclasses.replace(task, container_spec=dataclasses.replace(task.container_spec, image=image))
    if force:
        task = dataclasses.replace(task, force_update=task.force_update + 1)
    manager.update_service(service, dataclasses.replace(spec, task_template=task))
    print(name, flush=True)
    if not detach:
        converge.wait(manager, service.spec.name, quiet)


@click.command()
@options.in_lab
@options.on_node
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def rm(lab_name: str | None, node_name: str | None, names: tuple[str, ...]) -> None:
    """Remove services."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    options.each(names, manager.remove_service)
