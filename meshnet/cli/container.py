"""`meshnet container`, and `meshnet ps`, `exec` and `rm`: the containers of a node with docker's names and flags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import human, options, render
from meshnet.cli.main import LazyGroup

if TYPE_CHECKING:
    from meshnet.cli.options import Listing
    from meshnet.lab.engine import Engine

VERBS = {
    "ls": "meshnet.cli.container:ps",
    "logs": "meshnet.cli.logs:of_container",
    "exec": "meshnet.cli.container:execute",
    "inspect": "meshnet.cli.container:inspect",
    "top": "meshnet.cli.container:top",
    "stop": "meshnet.cli.container:stop",
    "rm": "meshnet.cli.container:rm",
}
COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)
WIDEST_COMMAND = 20


@click.group(cls=LazyGroup, verbs=VERBS)
def container() -> None:
    """Containers of a node: those of its tasks, and your own."""


@click.command()
@options.asks
@options.listing
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("-n", "--last", type=int, default=-1, help="The last ones only, in any state.")
def ps(engine: Engine, shown: Listing, everything: bool, last: int) -> None:
    """List the containers of a node."""
    query = shown.query() | ({"all": "1"} if everything else {}) | ({"limit": str(last)} if last > 0 else {})
    found = engine.get("/containers/json", **query)
    if shown.json_output:
        render.as_json(found)
        return
    render.listing(shown, COLUMNS, [_row(one, shown.no_trunc) for one in found])


def _row(one: dict[str, Any], no_trunc: bool) -> tuple[str, ...]:
    command = one["Command"]
    if not no_trunc and len(command) > WIDEST_COMMAND:
        command = command[: WIDEST_COMMAND - 1] + "…"
    created = human.ago(datetime.fromtimestamp(one["Created"], UTC).isoformat())
    ports = ", ".join(map(_port, one.get("Ports") or ()))
    names = ",".join(name.removeprefix("/") for name in one["Names"])
    ident = one["Id"] if no_trunc else human.short(one["Id"])
    return ident, one["Image"], f'"{command}"', created[:1].upper() + created[1:], one["Status"], ports, names


def _port(port: dict[str, Any]) -> str:
    inner = f"{port['PrivatePort']}/{port['Type']}"
    return f"{port.get('IP', '0.0.0.0')}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner


@click.command()
@options.asks
@options.template
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def inspect(engine: Engine, template: str, names: tuple[str, ...]) -> None:
    """Show containers as JSON, in the Engine API's form."""
    options.inspected(
        names, lambda name: engine.get(f"/containers/{name}/json"), lambda found: render.objects(found, template)
    )


@click.command()
@options.asks
@click.argument("name", metavar="CONTAINER")
def top(engine: Engine, name: str) -> None:
    """List the processes of a container."""
    found = engine.get(f"/containers/{name}/top")
    render.table(found["Titles"], found["Processes"])


@click.command(short_help="Stop containers.")
@options.asks
@click.option("-t", "--time", "seconds", type=click.IntRange(0), help="Seconds before it is killed (10).")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def stop(engine: Engine, seconds: int | None, names: tuple[str, ...]) -> None:
    """Stop containers; the swarm starts another task for one of its own."""
    query = {} if seconds is None else {"t": str(seconds)}
    options.each(names, lambda name: engine.post(f"/containers/{name}/stop", None, **query))


@click.command(short_help="Remove containers.")
@options.asks
@click.option("-f", "--force", is_flag=True, help="Kill one that runs.")
@click.option("-v", "--volumes", is_flag=True, help="With its volumes that have no name.")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def rm(engine: Engine, force: bool, volumes: bool, names: tuple[str, ...]) -> None:
    """Remove containers; the swarm starts another task for one of its own."""
    query = ({"force": "1"} if force else {}) | ({"v": "1"} if volumes else {})
    options.each(names, lambda name: engine.delete(f"/containers/{name}", **query))


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    short_help="Run a command in a container.",
)
@options.asks
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on what comes in.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, help="Environment: NAME=value.")
@click.option("-u", "--user", default="", help="User name or id.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.argument("name", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]")
def execute(engine: Engine, detach: bool, interactive: bool, tty: bool, **given: Any) -> None:
    """Run a command in a container of a node; the exit status is the command's."""
    from meshnet.cli import terminal

    if tty and interactive:
        terminal.check()
    body = {
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Env": list(given["env"]),
        "Cmd": list(given["command"]),
        "User": given["user"],
        "WorkingDir": given["workdir"],
    }
    ident = engine.post(f"/containers/{given['name']}/exec", body)["Id"]
    if detach:
        engine.post(f"/exec/{ident}/start", {"Detach": True, "Tty": tty})
        return
    taken, rest = engine.taken(f"/exec/{ident}/start", {"Detach": False, "Tty": tty})
    with taken:
        terminal.relay(taken, rest, interactive, tty, lambda **size: engine.post(f"/exec/{ident}/resize", None, **size))
    click.get_current_context().exit(engine.get(f"/exec/{ident}/json")["ExitCode"] or 0)
