"""`meshnet service ls`, `ps` and `inspect`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import human, options, render

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("MODE", "Mode"),
    ("REPLICAS", "Replicas"),
    ("IMAGE", "Image"),
    ("PORTS", "Ports"),
)


@click.command()
@options.asks
@options.listing
def ls(engine: Engine, shown: Listing) -> None:
    """List services."""
    show(shown, engine.get("/services", status="true", **shown.query()))


def show(shown: Listing, found: Iterable[dict[str, Any]]) -> None:
    """Prints services, which the Engine gave with their status, as docker lists them."""
    from meshnet.cli.tasks import ports
    from meshnet.codec import from_json
    from meshnet.model import Service

    ordered = sorted(found, key=lambda one: str(one["Spec"]["Name"]))
    if shown.json_output:
        render.as_json(ordered)
        return
    rows = []
    for one in ordered:
        service = from_json(Service, one)
        mode, replicas = _mode(service), _replicas(service, one.get("ServiceStatus", {}))
        ident = service.id if shown.no_trunc else human.short(service.id)
        image = service.spec.task_template.container_spec.image
        rows.append((ident, service.spec.name, mode, replicas, image, ports(service)))
    render.listing(shown, COLUMNS, rows)


def _mode(service: Any) -> str:
    word = "global" if service.spec.mode.everywhere else "replicated"
    return f"{word} job" if service.spec.mode.job else word


def _replicas(service: Any, status: dict[str, int]) -> str:
    """How many run of how many that shall, and what limits or completes them."""
    running, desired, done = (status.get(f"{name}Tasks", 0) for name in ("Running", "Desired", "Completed"))
    job, most = service.spec.mode.replicated_job, service.spec.task_template.placement.max_replicas
    text = f"{running}/{desired}"
    if job is not None:
        return f"{text} ({done}/{job.total_completions or 0} completed)"
    if service.spec.mode.global_job is not None:
        return f"{text} ({done}/{desired + done} completed)"
    return f"{text} (max {most} per node)" if most else text


@click.command()
@options.asks
@options.listing
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def ps(engine: Engine, shown: Listing, names: tuple[str, ...]) -> None:
    """List the tasks of services, with those they replaced."""
    from meshnet.cli import tasks

    query = shown.query()
    query.setdefault("filters", {})["service"] = {engine.service(name).id: True for name in names}
    tasks.show(engine, shown, query)


@click.command()
@options.asks
@options.template
@click.option("--pretty", is_flag=True, help="Print what is said of it in words.")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
def inspect(engine: Engine, template: str, pretty: bool, names: tuple[str, ...]) -> None:
    """Show services as JSON, in the Engine API's form."""
    from meshnet.cli import pretty as words

    query = {"insertDefaults": "true"} if pretty else {}

    def show(found: list[Any]) -> None:
        if not pretty:
            render.objects(found, template)
            return
        networks = {one["Id"]: one["Name"] for one in engine.networks()}
        for one in found:
            print(words.service(one, networks))

    options.inspected(names, lambda name: engine.get(f"/services/{engine.service(name).id}", **query), show)
