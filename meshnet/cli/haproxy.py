"""`meshnet haproxy`: configurations for a HAProxy in front of a service, and what it says of lost requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshnet import names
from meshnet.cli import options, render
from meshnet.cli.main import LazyGroup
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine

VERBS = {"config": "meshnet.cli.haproxy:config", "stats": "meshnet.cli.haproxy:stats"}
_STATE = ("published", "dns")


@click.group(cls=LazyGroup, verbs=VERBS)
def haproxy() -> None:
    """HAProxy in front of a service."""


@click.command(short_help="Write a configuration for a service.")
@click.argument("service")
@click.option("--mode", type=click.Choice(_STATE), default=_STATE[0], help="Ask nodes' ports, or tasks by name.")
@click.option("--bind", default=":80", metavar="[ADDRESS]:PORT", help="Where HAProxy listens (:80).")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="The port, if the service has several.")
@click.option("--send-proxy", "proxy", flag_value="send-proxy", help="Tell servers the client's address (PROXY).")
@click.option("--send-proxy-v2", "proxy", flag_value="send-proxy-v2", help="The same, in the protocol's version 2.")
@click.option("--tcp", is_flag=True, help="Pass connections on as they are; HTTP otherwise.")
@click.option("--srv", is_flag=True, help="With --mode dns, ask for SRV records.")
@click.option(
    "--outside/--inside", default=False, help="With --mode dns, where HAProxy is: asks nodes' resolvers, or is a task."
)
@click.option("--slots", type=click.IntRange(1, 1000), default=10, help="With --mode dns, room for tasks (10).")
@click.option("--socket", "path", default="", metavar="PATH", help="HAProxy's stats socket.")
@options.asks
def config(
    engine: Engine,
    service: str,
    mode: str,
    bind: str,
    port: int | None,
    proxy: str | None,
    tcp: bool,
    srv: bool,
    outside: bool,
    slots: int,
    path: str,
) -> None:
    """Write a HAProxy configuration for SERVICE on stdout.

    With --mode published, HAProxy stands outside and asks the published port on every node. With --mode dns, it is a
    task on a network of the service and balances over the tasks that 127.0.0.11 names; with --outside, it balances over
    the nodes where the published port answers, which their resolvers name.
    """
    from meshnet.lab import haproxy as configurations

    host, colon, number = bind.rpartition(":")
    if (
        not colon
        or not number.isdecimal()
        or not 0 < int(number) < 65536
        or any(character.isspace() for character in bind)
    ):
        raise click.UsageError(f"--bind {bind!r}: write :80 or ADDRESS:80", click.get_current_context())
    if outside and mode != "dns":
        raise click.UsageError("--outside goes with --mode dns", click.get_current_context())
    if outside and not engine.lab.resolver:
        raise MeshnetError(
            f"the nodes of {engine.lab.name} answer no names outside; write `resolver: 53` into its lab.yml, and "
            "bring it up again"
        )
    if not path:
        path = (
            "/run/haproxy.sock" if mode == "dns" and not outside else f"{names.lab_dir(engine.lab.name)}/haproxy.sock"
        )
    if any(character.isspace() for character in path):
        raise click.UsageError("--socket: a path without blanks is needed", click.get_current_context())
    resolver = engine.lab.resolver if outside else 0
    wanted = configurations.Wanted(mode, f"{host}:{number}", path, slots, proxy or "", tcp, srv, resolver)
    found = engine.service(service)
    members = {node.description.hostname for node in engine.nodes()}
    nodes = [(node.name, node.address) for node in engine.lab.nodes if node.name in members]
    print(configurations.config(found, nodes, wanted, port or 0), end="")


@click.command(short_help="Show what a HAProxy counted.")
@click.argument("path", required=False, metavar="[SOCKET]")
@click.option("--task", default="", metavar="TASK", help="The socket is in this task.")
@click.option("--zero", default="", metavar="COLUMNS", help="Fail unless these are 0; `losses`, `retries`.")
@click.option("--clear", is_flag=True, help="Set all counters to 0 instead.")
@options.in_lab
@options.as_json
def stats(path: str | None, task: str, zero: str, clear: bool, lab_name: str | None, json_output: bool) -> None:
    """Show what the HAProxy counted whose stats socket is SOCKET, by its own column names.

    \b
    losses    econ      requests for which no connection to a server came about
              eresp     answers that broke off
              hrsp_5xx  answers with a status of 500 and up
    retries   wretr     connections that were tried again
              wredis    and went to another server
    """
    from meshnet.lab import haproxy as statistics
    from meshnet.lab import state, tasks

    where = ""
    if task:
        found = tasks.find(state.current(lab_name), task)
        inside = path or "/run/haproxy.sock"
        path, where = f"{tasks.root(found)}/{inside.lstrip('/')}", f"{inside} in {found.short}"
    path = path or f"{names.lab_dir(state.current(lab_name).name)}/haproxy.sock"
    if clear:
        statistics.ask(path, "clear counters all", where)
        return
    table = statistics.rows(statistics.ask(path, "show stat", where))
    if json_output:
        render.as_json(table)
    else:
        render.table(statistics.SHOWN, [[row.get(column, "") for column in statistics.SHOWN] for row in table])
    groups = {"losses": statistics.LOSSES, "retries": statistics.RETRIES}
    columns = [column for word in zero.split(",") if word for column in groups.get(word, (word,))]
    if said := statistics.lost(table, columns):
        raise MeshnetError(f"not 0: {', '.join(said)}")
