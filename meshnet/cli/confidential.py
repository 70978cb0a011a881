"""`meshnet secret` and `meshnet config`: data that a swarm keeps for its tasks, with docker's names and flags."""

from __future__ import annotations

import sys
from base64 import b64encode
from typing import TYPE_CHECKING

import click

from meshnet.cli import human, options, render
from meshnet.errors import MeshnetError, NotFoundError

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

LARGEST = 1_024_000  # bytes, of a config; the manager knows what a secret may have
SECRETS = (("ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("CREATED", "CreatedAt"), ("UPDATED", "UpdatedAt"))
CONFIGS = tuple(column for column in SECRETS if column[0] != "DRIVER")


def _group(kind: str) -> click.Group:
    """The verbs of one kind: `secret` or `config`."""

    @click.group(name=kind, help=f"{kind.capitalize()}s of a swarm: data that tasks get as files.")
    def group() -> None: ...

    group.add_command(_create(kind))
    group.add_command(_ls(kind))
    group.add_command(_inspect(kind))
    group.add_command(_rm(kind))
    return group


def _create(kind: str) -> click.Command:
    @click.command(help=f"Create a {kind} from a file, or from what comes in with -.")
    @options.asks
    @click.option("-l", "--label", multiple=True, help="Labels.")
    @click.option("--template-driver", type=click.Choice(["golang"]), help="Whose placeholders its data has.")
    @click.argument("name", metavar=kind.upper())
    @click.argument("file", type=click.Path(), metavar="FILE|-")
    def create(engine: Engine, label: tuple[str, ...], template_driver: str | None, name: str, file: str) -> None:
        from meshnet.cli import service_values

        body = {"Name": name, "Labels": service_values.pairs(label, "--label"), "Data": _data(file)}
        if template_driver:
            body["Templating"] = {"Name": template_driver}
        print(engine.post(f"/{kind}s/create", body)["ID"])

    return create


def _data(file: str) -> str:
    """A file's content, or stdin's, in base64; never more of it than could be taken. Raises MeshnetError."""
    try:
        if file == "-":
            content = sys.stdin.buffer.read(LARGEST + 1)
            if not content:
                raise MeshnetError("nothing came in: pipe the data into this command, or name a file instead of -")
        else:
            with open(file, "rb") as stream:
                content = stream.read(LARGEST + 1)
    except OSError as error:
        raise MeshnetError(f"{file}: {error.strerror}") from None
    return b64encode(content).decode()


def _ls(kind: str) -> click.Command:
    @click.command(help=f"List {kind}s.")
    @options.asks
    @options.listing
    def ls(engine: Engine, shown: Listing) -> None:
        found = sorted(engine.get(f"/{kind}s", **shown.query()), key=lambda one: str(one["Spec"]["Name"]))
        if shown.json_output:
            render.as_json(found)
            return
        driver = [""] if kind == "secret" else []
        rows = [
            (one["ID"], one["Spec"]["Name"], *driver, human.ago(one["CreatedAt"]), human.ago(one["UpdatedAt"]))
            for one in found
        ]
        render.listing(shown, SECRETS if kind == "secret" else CONFIGS, rows)

    return ls


def _inspect(kind: str) -> click.Command:
    said = "JSON" + (", without their data" if kind == "secret" else ", in the Engine API's form")

    @click.command(help=f"Show {kind}s as {said}.")
    @options.asks
    @options.template
    @click.argument("names", nargs=-1, required=True, metavar=f"{kind.upper()}...")
    def inspect(engine: Engine, template: str, names: tuple[str, ...]) -> None:
        options.inspected(
            names,
            lambda name: engine.get(f"/{kind}s/{find(engine, kind, name)['ID']}"),
            lambda found: render.objects(found, template),
        )

    return inspect


def _rm(kind: str) -> click.Command:
    @click.command(help=f"Remove {kind}s that no service uses.")
    @options.asks
    @click.argument("names", nargs=-1, required=True, metavar=f"{kind.upper()}...")
    def rm(engine: Engine, names: tuple[str, ...]) -> None:
        options.each(names, lambda name: engine.delete(f"/{kind}s/{find(engine, kind, name)['ID']}"))

    return rm


def find(engine: Engine, kind: str, name: str) -> dict[str, object]:
    """A secret or config by name, id, or the beginning of an id. Raises NotFoundError in the Engine's words."""
    found: list[dict[str, object]] = engine.get(f"/{kind}s")
    for matches in (
        lambda one: name in (one["ID"], one["Spec"]["Name"]),
        lambda one: bool(name) and one["ID"].startswith(name),
    ):
        chosen = [one for one in found if matches(one)]
        if len(chosen) == 1:
            return chosen[0]
    raise NotFoundError(f"{kind} {name} not found")


secret, config = _group("secret"), _group("config")
