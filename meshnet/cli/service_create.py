"""`meshnet service create`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options, render, service_flags

if TYPE_CHECKING:
    from meshnet.cli.service_apply import Known
    from meshnet.lab.engine import Engine

MODES = ["replicated", "global", "replicated-job", "global-job"]


@click.command(context_settings={"allow_interspersed_args": False})
@options.asks
@options.detach
@click.option("--name", help="Service name.")
@click.option("--mode", type=click.Choice(MODES), default="replicated", show_default=True)
@click.option("--env-file", multiple=True, type=click.Path(exists=True, dir_okay=False), help="File of NAME=value.")
@service_flags.create
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
def create(
    engine: Engine, detach: bool, quiet: bool, env_file: tuple[str, ...], command: tuple[str, ...], **given: Any
) -> None:
    """Create a service and wait until its tasks run."""
    from meshnet.cli import converge
    from meshnet.cli.service_apply import changed
    from meshnet.lab.engine import check_image
    from meshnet.model import ServiceSpec

    given["env_add"] = environment((*_lines(env_file), *given["env_add"]))
    given["args"] = command or None
    wanted = changed(ServiceSpec(), given, known(engine, given))
    check_image(engine.lab, given["image"])
    ident = engine.create_service(wanted, render.warning)
    print(ident, flush=True)
    if not detach:
        converge.wait(engine, engine.service(ident).spec.name, quiet)


def known(engine: Engine, given: dict[str, Any]) -> Known:
    """The ids of what the flags name, asked for only when they do."""
    from meshnet.cli.service_apply import Known

    def ids(kind: str, *flags: str) -> dict[str, str]:
        if not any(given.get(flag) for flag in flags):
            return {}
        return {one["Spec"]["Name"]: one["ID"] for one in engine.get(f"/{kind}")}

    networks: dict[str, str] = {}
    if given.get("network_rm") or (given.get("network_add") and "name" not in given):
        networks = {one["Name"]: one["Id"] for one in engine.networks()}
    return Known(networks, ids("secrets", "secret_add"), ids("configs", "config_add"))


def environment(entries: tuple[str, ...]) -> tuple[str, ...]:
    """NAME=value as it is; of a NAME alone the value here, and nothing if it has none here (as docker does)."""
    named = [entry if "=" in entry or not entry else f"{entry}={os.environ.get(entry, '')}" for entry in entries]
    return tuple(new for new, old in zip(named, entries, strict=True) if "=" in old or not old or old in os.environ)


def _lines(files: tuple[str, ...]) -> list[str]:
    found = [line.strip() for file in files for line in Path(file).read_text().splitlines()]
    return [line for line in found if line and not line.startswith("#")]
