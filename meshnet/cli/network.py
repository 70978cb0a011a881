"""`meshnet network`: overlay networks with docker's names and flags."""

from __future__ import annotations

import click

from meshnet.cli import human, options, render
from meshnet.cli.main import LazyGroup
from meshnet.errors import MeshnetError

VERBS = {
    "create": "meshnet.cli.network:create",
    "ls": "meshnet.cli.network:ls",
    "inspect": "meshnet.cli.network:inspect",
    "rm": "meshnet.cli.network:rm",
}

INGRESS = "ingress"


@click.group(cls=LazyGroup, verbs=VERBS)
def network() -> None:
    """Overlay networks of a lab's swarm."""


@click.command()
@options.in_lab
@options.on_node
@click.option("-d", "--driver", type=click.Choice(["overlay"]), default="overlay", show_default=True)
@click.option("--subnet", default="", help="Subnet, such as 10.0.9.0/24; chosen by the manager if not given.")
@click.option("--gateway", default="", help="Gateway of the subnet.")
@click.option("--ip-range", default="", help="Part of the subnet that tasks get addresses from.")
@click.option("--internal", is_flag=True, help="No way from this network to the outside.")
@click.option("--attachable", is_flag=True, help="Containers outside services may attach.")
@click.option("--label", multiple=True, help="Labels.")
@click.option("-o", "--opt", multiple=True, help="Driver options.")
@click.argument("name")
def create(
    lab_name: str | None,
    node_name: str | None,
    driver: str,
    subnet: str,
    gateway: str,
    ip_range: str,
    internal: bool,
    attachable: bool,
    label: tuple[str, ...],
    opt: tuple[str, ...],
    name: str,
) -> None:
    """Create an overlay network."""
    from meshnet.cli import service_spec
    from meshnet.lab import engine, state
    from meshnet.model import IPAMConfig, IPAMOptions, NetworkSpec

    if (gateway or ip_range) and not subnet:
        raise click.UsageError("--gateway and --ip-range need --subnet", click.get_current_context())
    spec = NetworkSpec(
        name=name,
        labels=service_spec.pairs(label, "--label"),
        internal=internal,
        attachable=attachable,
        options=service_spec.pairs(opt, "--opt"),
        ipam_options=IPAMOptions((IPAMConfig(subnet, ip_range, gateway),) if subnet else ()),
    )
    print(engine.of_lab(state.current(lab_name), node_name).create_network(spec))


@click.command()
@options.in_lab
@options.on_node
@options.as_json
def ls(lab_name: str | None, node_name: str | None, json_output: bool) -> None:
    """List networks."""
    from meshnet.lab import engine, state

    found = sorted(engine.of_lab(state.current(lab_name), node_name).networks(), key=lambda one: str(one["Name"]))
    if json_output:
        render.as_json(found)
        return
    rows = [(human.short(one["Id"]), one["Name"], one["Driver"], one["Scope"]) for one in found]
    render.table(("NETWORK ID", "NAME", "DRIVER", "SCOPE"), rows)


@click.command()
@options.in_lab
@options.on_node
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def inspect(lab_name: str | None, node_name: str | None, names: tuple[str, ...]) -> None:
    """Show networks as JSON, in the Engine API's form."""
    from meshnet.lab import engine, state

    manager = engine.of_lab(state.current(lab_name), node_name)
    render.as_json([manager.get(f"/networks/{manager.network(name)['Id']}") for name in names])


@click.command()
@options.in_lab
@options.on_node
@click.option("-f", "--force", is_flag=True, help="Remove even the ingress network.")
@click.argument("names", nargs=-1, required=True, metavar="NETWORK...")
def rm(lab_name: str | None, node_name: str | None, force: bool, names: tuple[str, ...]) -> None:
    """Remove networks that nothing uses."""
    from meshnet.lab import engine, state

    if INGRESS in names and not force:
        raise MeshnetError(f"without {INGRESS} no port can be published; to remove it all the same, add --force")
    options.each(names, engine.of_lab(state.current(lab_name), node_name).remove_network)
