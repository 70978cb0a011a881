"""`meshnet swarm`: making a swarm, joining and leaving it, with docker's names and flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import options, render
from meshnet.cli.main import LazyGroup
from meshnet.cli.params import Duration
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine

VERBS = {
    "init": "meshnet.cli.swarm:init",
    "join": "meshnet.cli.swarm:join",
    "join-token": "meshnet.cli.swarm:join_token",
    "leave": "meshnet.cli.swarm:leave",
    "update": "meshnet.cli.swarm:update",
    "ca": "meshnet.cli.swarm:ca",
}
AVAILABILITY = click.Choice(["active", "pause", "drain"])
TIME = Duration()


@click.group(cls=LazyGroup, verbs=VERBS)
def swarm() -> None:
    """The swarm that nodes make or join."""


def _membership(command: Any) -> Any:
    """Adds what init and join say of the node."""
    command = click.option("--availability", type=AVAILABILITY, default="active", show_default=True)(command)
    command = click.option("--listen-addr", default="0.0.0.0:2377", show_default=True)(command)
    command = click.option("--data-path-addr", default="", help="Address or interface of the overlays.")(command)
    return click.option("--advertise-addr", default="", help="Address or interface that others are told.")(command)


def _spec(command: Any) -> Any:
    """Adds what init and update say of the swarm."""
    limit = click.option("--task-history-limit", type=int, help="Tasks kept of each place (5).")
    beat = click.option("--dispatcher-heartbeat", type=TIME, help="How often nodes say that they are there (5s).")
    return click.option("--cert-expiry", type=TIME, help="Life of nodes' certificates (2160h).")(beat(limit(command)))


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The parts of a swarm's spec that were given."""
    found: dict[str, Any] = {}
    if given["task_history_limit"] is not None:
        found["Orchestration"] = {"TaskHistoryRetentionLimit": given["task_history_limit"]}
    if given["dispatcher_heartbeat"] is not None:
        found["Dispatcher"] = {"HeartbeatPeriod": given["dispatcher_heartbeat"]}
    if given["cert_expiry"] is not None:
        found["CAConfig"] = {"NodeCertExpiry": given["cert_expiry"]}
    return found


@click.command()
@options.asks
@_membership
@_spec
@click.option("--data-path-port", type=click.IntRange(0, 65535), default=0, help="UDP port of the overlays (4789).")
@click.option("--default-addr-pool", multiple=True, metavar="SUBNET", help="What networks get their subnets from.")
@click.option("--default-addr-pool-mask-length", type=click.IntRange(1, 32), default=24, show_default=True)
def init(engine: Engine, **given: Any) -> None:
    """Make a swarm, with the node as its manager."""
    body = {
        "ListenAddr": given["listen_addr"],
        "AdvertiseAddr": given["advertise_addr"],
        "DataPathAddr": given["data_path_addr"],
        "DataPathPort": given["data_path_port"],
        "DefaultAddrPool": list(given["default_addr_pool"]),
        "SubnetSize": given["default_addr_pool_mask_length"],
        "Availability": given["availability"],
        "Spec": _asked(given),
    }
    ident = engine.post("/swarm/init", body)
    print(f"Swarm initialized: current node ({ident}) is now a manager.\n")
    _how_to_join(engine, "worker")
    print("To add a manager to this swarm, run 'meshnet swarm join-token manager' and follow the instructions.\n")


def _how_to_join(engine: Engine, role: str) -> None:
    token = engine.get("/swarm")["JoinTokens"][role.capitalize()]
    own = engine.get("/info")["Swarm"]["NodeID"]
    address = engine.get(f"/nodes/{own}")["ManagerStatus"]["Addr"]
    print(f"To add a {role} to this swarm, run the following command:\n")
    print(f"    meshnet swarm join --node NODE --token {token} {address}\n")


@click.command()
@options.asks
@_membership
@click.option("--token", default="", help="What lets it in.")
@click.argument("address", metavar="HOST:PORT")
def join(engine: Engine, address: str, token: str, **given: Any) -> None:
    """Join the swarm of a manager."""
    body = {
        "RemoteAddrs": [address],
        "JoinToken": token,
        "ListenAddr": given["listen_addr"],
        "AdvertiseAddr": given["advertise_addr"],
        "DataPathAddr": given["data_path_addr"],
        "Availability": given["availability"],
    }
    engine.post("/swarm/join", body)
    manages = engine.get("/info")["Swarm"].get("ControlAvailable")
    print(f"This node joined a swarm as a {'manager' if manages else 'worker'}.")


@click.command("join-token")
@options.asks
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone.")
@click.option("--rotate", is_flag=True, help="Make another one; the old one lets nobody in.")
@click.argument("role", type=click.Choice(["worker", "manager"]))
def join_token(engine: Engine, quiet: bool, rotate: bool, role: str) -> None:
    """Show, or change, what lets nodes join."""
    if rotate:
        _update(engine, {}, **{f"rotate{role.capitalize()}Token": "true"})
        if not quiet:
            print(f"Successfully rotated {role} join token.\n")
    if quiet:
        print(engine.get("/swarm")["JoinTokens"][role.capitalize()])
    else:
        _how_to_join(engine, role)
        if role == "manager":
            render.message("a swarm has one manager so far: nobody can join with this one yet")


@click.command()
@options.asks
@click.option("-f", "--force", is_flag=True, help="Leave although this node is the last manager.")
def leave(engine: Engine, force: bool) -> None:
    """Leave the swarm."""
    engine.post("/swarm/leave", None, **({"force": "true"} if force else {}))
    print("Node left the swarm.")


@click.command()
@options.asks
@_spec
def update(engine: Engine, **given: Any) -> None:
    """Change what holds for the whole swarm."""
    change = _asked(given)
    if not change:
        raise click.UsageError("say what to change", click.get_current_context())
    _update(engine, change)
    print("Swarm updated.")


def _update(engine: Engine, change: dict[str, Any], **query: str) -> None:
    """Puts a change into the swarm's spec as it is now."""
    found = engine.get("/swarm")
    spec = {**found["Spec"], **{key: {**found["Spec"].get(key, {}), **part} for key, part in change.items()}}
    engine.post("/swarm/update", spec, version=found["Version"]["Index"], **query)


@click.command()
@options.asks
@click.option("--rotate", is_flag=True, help="Make another CA, or take the one that is given.")
@click.option("--ca-cert", type=click.Path(path_type=Path), help="PEM file of a CA's certificate.")
@click.option("--ca-key", type=click.Path(path_type=Path), help="PEM file of its key.")
@click.option("--cert-expiry", type=TIME, help="Life of nodes' certificates.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until all nodes trust it.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without a word.")
def ca(
    engine: Engine,
    rotate: bool,
    ca_cert: Path | None,
    ca_key: Path | None,
    cert_expiry: int | None,
    detach: bool,
    quiet: bool,
) -> None:
    """Show the CA's certificate, or change the CA."""
    if not rotate:
        if ca_cert or ca_key or cert_expiry is not None:
            raise click.UsageError("--ca-cert, --ca-key and --cert-expiry need --rotate", click.get_current_context())
        print(engine.get("/swarm")["TLSInfo"]["TrustRoot"], end="")
        return
    before = engine.get("/swarm")["Spec"]["CAConfig"].get("ForceRotate", 0)
    config: dict[str, Any] = {"ForceRotate": before + 1}
    for name, file in (("SigningCACert", ca_cert), ("SigningCAKey", ca_key)):
        config |= {name: _read(file)} if file else {}
    config |= {"NodeCertExpiry": cert_expiry} if cert_expiry is not None else {}
    _update(engine, {"CAConfig": config})
    if not detach:
        from meshnet.lab import converge

        converge.wait_rotated(engine)
    if not quiet:
        print(engine.get("/swarm")["TLSInfo"]["TrustRoot"], end="")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MeshnetError(f"{file}: {getattr(error, 'strerror', None) or 'no text'}") from None
