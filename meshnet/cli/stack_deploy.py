"""`meshnet stack deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshnet.cli import options
from meshnet.cli.render import message
from meshnet.cli.stack import query
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.compose import Stack
    from meshnet.lab.engine import Engine
    from meshnet.model import ServiceSpec


@click.command()
@options.asks
@click.option("-c", "--compose-file", "file", required=True, type=click.Path(path_type=Path), help="The compose file.")
@click.option("--prune", is_flag=True, help="Remove services of the stack that the file does not name.")
@click.option("-d", "--detach/--no-detach", default=True, help="Do not wait until the tasks run (default).")
@click.option("-q", "--quiet", is_flag=True, help="Wait without showing progress.")
@click.argument("name", metavar="STACK")
def deploy(engine: Engine, file: Path, prune: bool, detach: bool, quiet: bool, name: str) -> None:
    """Make, or change, what a compose file describes."""
    from meshnet.cli import converge
    from meshnet.lab.engine import check_image
    from meshnet.lab.references import with_ids

    found = _read(file, name, engine.lab.subnet)
    for warning in found.warnings:
        message(f"warning: {warning}")
    for service in found.services:
        check_image(engine.lab, service.task_template.container_spec.image)
    secrets, configs = _make(engine, found, name)
    wanted = [with_ids(service, secrets, configs) for service in found.services]
    there = {service.spec.name: service for service in engine.services()}
    if prune:
        _prune(engine, name, {service.name for service in wanted})
    for spec in wanted:
        if spec.name in there:
            before = there[spec.name]
            print(f"Updating service {spec.name} (id: {before.id})", flush=True)
            engine.update_service(before, _kept(spec, before.spec))
        else:
            print(f"Creating service {spec.name}", flush=True)
            engine.create_service(spec)
    for spec in wanted if not detach else ():
        converge.wait(engine, spec.name, quiet)


def _read(file: Path, name: str, underlay: str) -> Stack:
    """The compose file as a stack of that name. Raises LabFileError with a line per mistake, MeshnetError."""
    from meshnet.lab import compose
    from meshnet.lab.rehearsal import rehearse
    from meshnet.lab.words import name_problem
    from meshnet.lab.yamlnodes import Problems
    from meshnet.lab.yamlnodes import read as read_yaml

    if problem := name_problem(name):
        raise MeshnetError(f"stack {name}: {problem}")
    problems = Problems()
    found = compose.parse(read_yaml(file, problems, pipes=True), file.parent, name)
    if not problems:
        rehearse(found, underlay)
    problems.check()
    return found


def _make(engine: Engine, found: Stack, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The networks, secrets and configs that are not there yet; ids by name of all secrets and configs."""
    there = {one["Name"] for one in engine.networks()}
    for network in found.networks:
        if network.name not in there:
            print(f"Creating network {network.name}", flush=True)
            engine.create_network(network)
    ids: list[dict[str, str]] = []
    for kind, specs in (("secret", found.secrets), ("config", found.configs)):
        known = {one["Spec"]["Name"]: one for one in engine.get(f"/{kind}s")}
        idents = {name: str(one["ID"]) for name, one in known.items()}
        for spec in specs:
            if spec.name in known:
                engine.update_file(known[spec.name], spec)
            else:
                print(f"Creating {kind} {spec.name}", flush=True)
                idents[spec.name] = engine.create_file(spec)
        ids.append(idents)
    return ids[0], ids[1]


def _prune(engine: Engine, name: str, wanted: set[str]) -> None:
    for one in engine.get("/services", **query(name)):
        if one["Spec"]["Name"] not in wanted:
            print(f"Removing service {one['Spec']['Name']}", flush=True)
            engine.delete(f"/services/{one['ID']}")


def _kept(spec: ServiceSpec, before: ServiceSpec) -> ServiceSpec:
    """The new spec; how often tasks were replaced by force goes on, or they would be replaced once more."""
    from dataclasses import replace

    task = replace(spec.task_template, force_update=before.task_template.force_update)
    return replace(spec, task_template=task)
