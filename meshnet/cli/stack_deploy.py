"""`meshnet stack deploy`.

What is refused is said with its place in the file, whoever refuses it: the reader of the file, the rehearsal, or the
engine, which may know of other services that hold a port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options
from meshnet.cli.render import message
from meshnet.cli.stack import query
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.compose import Stack
    from meshnet.lab.engine import Engine
    from meshnet.lab.yamlnodes import Problems, Value
    from meshnet.model import Service, ServiceSpec

NOBODY = (503, 504)  # statuses of an engine that does not answer, which is nothing about the file
MAKE = {
    "networks": "meshnet network create {}",
    "secrets": "meshnet secret create {} FILE",
    "configs": "meshnet config create {} FILE",
}


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

    found, problems = _read(file, name, engine.lab.subnet)
    for warning in found.warnings:
        message(warning)
    ids = {kind: _idents(engine, kind) for kind in MAKE}
    _check(engine, found, ids)
    problems.check()
    done: list[str] = []
    try:
        _make_networks(engine, found, ids["networks"], done)
        for kind in ("secret", "config"):
            _make_files(engine, kind, found, ids[f"{kind}s"], done)
        if prune:
            _prune(engine, name, {service.name for service in found.services}, done)
        _make_services(engine, found, ids, done)
    except MeshnetError as error:
        raise MeshnetError(f"{error}\n{_left(name, done)}", error.status) from None
    except KeyboardInterrupt as error:
        error.add_note(_left(name, done))
        raise
    for service in found.services if not detach else ():
        converge.wait(engine, service.name, quiet)


def _read(file: Path, name: str, underlay: str) -> tuple[Stack, Problems]:
    """The compose file as a stack of that name, and where complaints about its values go.

    Raises LabFileError with a line per mistake, MeshnetError.
    """
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
    return found, problems


def _idents(engine: Engine, kind: str) -> dict[str, str]:
    """What there is of a kind: name -> id."""
    if kind == "networks":
        return {one["Name"]: str(one["Id"]) for one in engine.networks()}
    return {one["Spec"]["Name"]: str(one["ID"]) for one in engine.get(f"/{kind}")}


def _check(engine: Engine, found: Stack, ids: Mapping[str, Mapping[str, str]]) -> None:
    """Complains, before anything is made, of images and external things that are nowhere."""
    from meshnet.lab.engine import check_image

    for place, image in found.images:
        try:
            check_image(engine.lab, image)
        except MeshnetError as error:
            place.error(str(error))
    for place, name in found.external:
        kind = place.name.partition(".")[0]
        if name not in ids[kind]:
            place.error(f"there is no {kind.removesuffix('s')} {name}; make it with: {MAKE[kind].format(name)}")


@contextmanager
def _placed(place: Value, what: str) -> Iterator[None]:
    """A refusal gets the place in the file that it is about. Raises LabFileError, or MeshnetError if nobody answers."""
    try:
        yield
    except MeshnetError as error:
        if error.status in NOBODY:
            raise
        place.error(str(error) if place.name else f"{what}: {error}")
    place.problems.check()


def _left(name: str, done: list[str]) -> str:
    """What a deployment that failed leaves behind, and how it goes."""
    if not done:
        return "nothing was made or changed"
    return f"made or changed before that: {', '.join(done)}; to remove the whole stack: meshnet stack rm {name}"


def _make_networks(engine: Engine, found: Stack, there: Mapping[str, str], done: list[str]) -> None:
    for place, network in found.placed_networks:
        if network.name not in there:
            what = f"network {network.name}"
            print(f"Creating {what}", flush=True)
            with _placed(place, what):
                engine.create_network(network)
            done.append(what)


def _make_files(engine: Engine, kind: str, found: Stack, ids: dict[str, str], done: list[str]) -> None:
    """Makes the secrets or configs that are not there yet, and notes their ids in `ids`."""
    known = {one["Spec"]["Name"]: one for one in engine.get(f"/{kind}s")} if ids else {}
    for place, spec in found.placed_secrets if kind == "secret" else found.placed_configs:
        what = f"{kind} {spec.name}"
        with _placed(place, what):
            if spec.name in known:
                engine.update_file(known[spec.name], spec)
                continue
            print(f"Creating {what}", flush=True)
            ids[spec.name] = engine.create_file(spec)
        done.append(what)


def _make_services(engine: Engine, found: Stack, ids: Mapping[str, Mapping[str, str]], done: list[str]) -> None:
    from meshnet.lab.references import with_ids

    there = {service.spec.name: service for service in engine.services()}
    for place, service in found.placed_services:
        what, warnings = f"service {service.name}", list[str]()
        with _placed(place, what):
            spec = with_ids(service, ids["secrets"], ids["configs"])
            _make_service(engine, spec, there.get(service.name), warnings.append)
        for text in warnings:
            message(place.warning(text))
        done.append(what)


def _make_service(engine: Engine, spec: ServiceSpec, before: Service | None, warned: Callable[[str], Any]) -> None:
    if before is None:
        print(f"Creating service {spec.name}", flush=True)
        engine.create_service(spec, warned)
    else:
        print(f"Updating service {spec.name} (id: {before.id})", flush=True)
        engine.update_service(before, _kept(spec, before.spec), warned)


def _prune(engine: Engine, name: str, wanted: set[str], done: list[str]) -> None:
    for one in engine.get("/services", **query(name)):
        if one["Spec"]["Name"] not in wanted:
            what = f"service {one['Spec']['Name']}"
            print(f"Removing {what}", flush=True)
            engine.delete(f"/services/{one['ID']}")
            done.append(f"{what} (removed)")


def _kept(spec: ServiceSpec, before: ServiceSpec) -> ServiceSpec:
    """The new spec; how often tasks were replaced by force goes on, or they would be replaced once more."""
    from dataclasses import replace

    task = replace(spec.task_template, force_update=before.task_template.force_update)
    return replace(spec, task_template=task)
