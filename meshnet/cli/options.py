"""Options that several verbs share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from meshnet.errors import MeshnetError

F = TypeVar("F", bound=Callable[..., Any])


def in_lab(command: F) -> F:
    """Adds `--lab NAME`: the lab that is meant when several are up."""
    return click.option("--lab", "lab_name", metavar="NAME", help="The lab, if several are up ($MESHNET_LAB).")(command)


def asks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--lab NAME` and `--node NAME`, and gives the command the engine of that node as its first argument.

    Options below this one in the list of decorators are passed on as they are.
    """

    @in_lab
    @click.option("--node", "node_name", metavar="NODE", help="The node to ask; a manager by default.")
    @functools.wraps(command)
    def asking(lab_name: str | None, node_name: str | None, **given: Any) -> Any:
        from meshnet.lab import engine, state

        return command(engine.of_node(state.current(lab_name), node_name), **given)

    return asking


def as_json(command: F) -> F:
    """Adds `--json`."""
    return click.option("--json", "json_output", is_flag=True, help="Print JSON instead of a table.")(command)


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is to be shown: the Engine's own JSON, a template for each row, ids alone, long texts whole."""

    json_output: bool = False
    template: str = ""
    quiet: bool = False
    no_trunc: bool = False
    filters: tuple[str, ...] = ()

    def query(self) -> dict[str, Any]:
        """The `filters` parameter of the Engine API. Raises click.UsageError for what is not key=value."""
        found: dict[str, dict[str, bool]] = {}
        for text in self.filters:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise click.UsageError(f"--filter {text!r}: write key=value", click.get_current_context())
            found.setdefault(key.strip().lower(), {})[value.strip()] = True
        return {"filters": found} if found else {}


def listing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what docker's lists take, as the argument `shown`."""

    @as_json
    @click.option("--format", "template", default="", metavar="TEMPLATE", help="json, or text with {{.Field}}.")
    @click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
    @click.option("--no-trunc", is_flag=True, help="Print whole ids and texts.")
    @click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only what matches.")
    @functools.wraps(command)
    def listed(
        *asked: Any, json_output: bool, template: str, quiet: bool, no_trunc: bool, filters: Any, **given: Any
    ) -> Any:
        return command(*asked, shown=Listing(json_output, template, quiet, no_trunc, filters), **given)

    return listed


def template(command: F) -> F:
    """Adds `--format` to a verb that shows single objects."""
    words = "Text with {{.Field}} and {{json .Field}}; JSON by default."
    return click.option("-f", "--format", "template", default="", metavar="TEMPLATE", help=words)(command)


def detach(command: F) -> F:
    """Adds docker's `--detach` and `--quiet`."""
    command = click.option("-q", "--quiet", is_flag=True, help="Wait without showing progress.")(command)
    return click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks run.")(command)


def each(names: Iterable[str], act: Callable[[str], object], quiet: bool = False) -> None:
    """Does something to each name and, if not `quiet`, prints those that were done; raises after the last if any was
    refused."""
    refused = []
    for name in names:
        try:
            act(name)
            if not quiet:
                print(name, flush=True)
        except MeshnetError as error:
            refused.append(str(error))
    if refused:
        raise MeshnetError("\n".join(refused))


def inspected(names: Iterable[str], get: Callable[[str], Any], show: Callable[[list[Any]], object]) -> None:
    """docker's `inspect`: shows those of `names` that are there, then raises MeshnetError for those that are not."""
    found: list[Any] = []
    try:
        each(names, lambda name: found.append(get(name)), quiet=True)
    except MeshnetError:
        if found:
            show(found)
        raise
    show(found)
