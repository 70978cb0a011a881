"""`meshnet logs` and `meshnet service logs`: what containers and services have written, with docker's flags."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import human, options
from meshnet.errors import NotFoundError

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine

TASK = "com.docker.swarm.task.id="
NODE = "com.docker.swarm.node.id="


def _asked(command: Any) -> Any:
    """Adds what both verbs take, as the argument `given`."""
    command = click.option("-t", "--timestamps", is_flag=True, help="Print when each line was written.")(command)
    command = click.option("-n", "--tail", default="all", help="Only the last lines.")(command)
    command = click.option("--since", default="", help="Only since a time, or for so long (42m).")(command)
    return click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")(command)


def _query(given: dict[str, Any]) -> dict[str, str]:
    found = {"stdout": "1", "stderr": "1", "tail": given["tail"]}
    found |= {name: "1" for name in ("follow", "timestamps") if given[name]}
    return found | {name: given[name] for name in ("since", "until") if given.get(name)}


@click.command("logs", short_help="Show what a container wrote.")
@options.asks
@_asked
@click.option("--until", default="", help="Only before a time, or so long ago (42m).")
@click.argument("name", metavar="CONTAINER")
def of_container(engine: Engine, name: str, **given: Any) -> None:
    """Show what a container of a node has written."""
    found = engine.get(f"/containers/{name}/json")
    _pass_on(engine.stream(f"/containers/{name}/logs", not found["Config"]["Tty"], **_query(given)))


def _pass_on(stream: Iterable[tuple[int, bytes]]) -> None:
    for number, piece in stream:
        out = (sys.stderr if number == 2 else sys.stdout).buffer
        out.write(piece)
        out.flush()


@click.command("logs")
@options.asks
@_asked
@click.option("--no-trunc", is_flag=True, help="Print whole ids.")
@click.option("--no-task-ids", is_flag=True, help="Print tasks without their ids.")
@click.option("--raw", is_flag=True, help="Print the lines alone.")
@click.argument("name", metavar="SERVICE|TASK")
def of_service(engine: Engine, name: str, no_trunc: bool, no_task_ids: bool, raw: bool, **given: Any) -> None:
    """Show what the tasks of a service, or one task, have written."""
    try:
        target = f"/services/{engine.service(name).id}/logs"
    except NotFoundError as error:
        found = [one["ID"] for one in engine.get("/tasks") if name and one["ID"].startswith(name)]
        if len(found) != 1:
            raise NotFoundError(f"no such task or service: {name}") from error
        target = f"/tasks/{found[0]}/logs"
    if raw:
        _pass_on(engine.stream(target, True, **_query(given)))
        return
    label = Labels(engine, no_trunc, no_task_ids)
    for number, line in _lines(engine.stream(target, True, details="1", **_query(given))):
        text = labelled(line, label, given["timestamps"])
        print(text, file=sys.stderr if number == 2 else sys.stdout, flush=True)


def _lines(stream: Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, str]]:
    """Whole lines; a frame holds one, and a long one comes in pieces."""
    kept = {1: b"", 2: b""}
    for number, piece in stream:
        whole, end, rest = (kept.get(number, b"") + piece).rpartition(b"\n")
        kept[number] = rest
        for line in whole.split(b"\n") if end else ():
            yield number, line.decode(errors="replace")


def labelled(line: str, label: Callable[[str, str], str], timestamps: bool) -> str:
    """A line as docker shows it: of which task, when if that was asked, and the text.

    It comes as [time] details text.
    """
    time, line = line.split(" ", 1) if timestamps else ("", line)
    details, _, text = line.partition(" ")
    parts = details.split(",")
    task = next((part.removeprefix(TASK) for part in parts if part.startswith(TASK)), "")
    node = next((part.removeprefix(NODE) for part in parts if part.startswith(NODE)), "")
    return (f"{time} " if time else "") + f"{label(task, node)}    | {text}"


class Labels:
    """`web.1.abcdef123456@node` for the ids of a task and its node; each is asked for once."""

    def __init__(self, engine: Engine, no_trunc: bool, no_task_ids: bool) -> None:
        self._engine = engine
        self._no_trunc = no_trunc
        self._no_task_ids = no_task_ids
        self._known: dict[str, str] = {}

    def __call__(self, task: str, node: str) -> str:
        if task not in self._known:
            self._known[task] = self._made(task, node)
        return self._known[task]

    def _made(self, ident: str, node: str) -> str:
        task = self._engine.get(f"/tasks/{ident}")
        service = self._engine.get(f"/services/{task['ServiceID']}")["Spec"]["Name"]
        name = f"{service}.{task.get('Slot') or node}"
        if not self._no_task_ids:
            name += f".{ident if self._no_trunc else human.short(ident)}"
        return f"{name}@{self._engine.get(f'/nodes/{node}')['Description']['Hostname']}"
