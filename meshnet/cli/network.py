"""`meshnet network`: overlay networks with docker's names and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import human, options, render
from meshnet.cli.confirm import agreed
from meshnet.cli.main import LazyGroup
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {
    "create": "meshnet.cli.network:create",
    "ls": "meshnet.cli.network:ls",
    "inspect": "meshnet.cli.network:inspect",
    "connect": "meshnet.cli.network:connect",
    "disconnect": "meshnet.cli.network:disconnect",
    "prune": "meshnet.cli.network:prune",
    "rm": "meshnet.cli.network:rm",
}

INGRESS = "ingress"
COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))


@click.group(cls=LazyGroup, verbs=VERBS)
def network() -> None:
    """Overlay networks of a swarm."""


@click.command()
@options.asks
@click.option("-d", "--driver", type=click.Choice(["overlay"]), default="overlay", show_default=True)
@click.option("--subnet", default="", help="Subnet, such as 10.0.9.0/24; chosen by the manager if not given.")
@click.option("--gateway", default="", help="Gateway of the subnet.")
@click.option("--ip-range", default="", help="Part of the subnet that tasks get addresses from.")
@click.option("--internal", is_flag=True, help="No way from this network to the outside.")
@click.option("--attachable", is_flag=True, help="Containers outside services may attach.")
@click.option("--label", multiple=True, help="Labels.")
@click.option("-o", "--opt", multiple=True, help="Driver options.")
@click.argument("name")
def create(engine: Engine, subnet: str, gateway: str, ip_range: str, driver: str, **given: Any) -> None:
    """Create an overlay network."""
    from meshnet.cli import service_values
    from meshnet.model import IPAMConfig, IPAMOptions, NetworkSpec

    if (gateway or ip_range) and not subnet:
        raise click.UsageError("--gateway and --ip-range need --subnet", click.get_current_context())
    spec = NetworkSpec(
        name=given["name"],
        labels=service_values.pairs(given["label"], "--label"),
        internal=given["internal"],
        attachable=given["attachable"],
        options=service_values.pairs(given["opt"], "--opt"),
        ipam_options=IPAMOptions((IPAMConfig(subnet, ip_range, gateway),) if subnet else ()),
    )
    print(engine.create_network(spec))


@click.command()
@options.asks
@options.listing
def ls(engine: Engine, shown: Listing) -> None:
    """List networks."""
    found = sorted(engine.get("/networks", **shown.query()), key=lambda one: str(one["Name"]))
    if shown.json_output:
        render.as_json(found)
        return
    short = (lambda ident: ident) if shown.no_trunc else human.short
    rows = [(short(one["Id"]), one["Name"], one["Driver"], one["Scope"]) for one in found]
    render.listing(shown, COLUMNS, rows)


@click.command()
@options.asks
@options.template
@click.option("-v", "--verbose", is_flag=True, help="With the services and tasks on it.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def inspect(engine: Engine, template: str, verbose: bool, names: tuple[str, ...]) -> None:
    """Show networks as JSON, in the Engine API's form."""
    query = {"verbose": "true"} if verbose else {}
    options.inspected(
        names,
        lambda name: engine.get(f"/networks/{engine.network(name)['Id']}", **query),
        lambda found: render.objects(found, template),
    )


@click.command()
@options.asks
@click.option("--alias", multiple=True, help="A further name of the container on the network.")
@click.option("--ip", default="", help="Its address there.")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
def connect(engine: Engine, alias: tuple[str, ...], ip: str, name: str, container: str) -> None:
    """Attach a container of your own to a network."""
    config = {"Aliases": list(alias), "IPAMConfig": {"IPv4Address": ip} if ip else None}
    body = {"Container": container, "EndpointConfig": config}
    engine.post(f"/networks/{engine.network(name)['Id']}/connect", body)


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Detach it although it runs.")
@click.argument("name", metavar="NETWORK")
@click.argument("container")
def disconnect(engine: Engine, force: bool, name: str, container: str) -> None:
    """Detach a container of your own from a network."""
    engine.post(f"/networks/{engine.network(name)['Id']}/disconnect", {"Container": container, "Force": force})


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(engine: Engine, force: bool) -> None:
    """Remove all networks that nothing uses."""
    if not force and not agreed("This will remove all custom networks not used by at least one container."):
        return
    for name in engine.post("/networks/prune").get("NetworksDeleted") or ():
        print(name)


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Remove even the ingress network.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def rm(engine: Engine, force: bool, names: tuple[str, ...]) -> None:
    """Remove networks that nothing uses."""

    def remove(name: str) -> None:
        if name == INGRESS and not force:
            raise MeshnetError(f"without {INGRESS} no port can be published; to remove it all the same, add --force")
        engine.remove_network(name)

    options.each(names, remove)
