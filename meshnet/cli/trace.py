"""`meshnet trace`: what happens to packets, as it happens."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import click

from meshnet.cli import options, render
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.observe.drops import Drop

_REFRESH = 1.0  # s between looks at which tasks there are


@click.group()
def trace() -> None:
    """What happens to packets, as it happens."""


@trace.command(short_help="Show packets that are dropped, and why.")
@options.in_lab
@click.option("--task", metavar="TASK", help="Only packets of this task (service.slot, or an id).")
@click.option("--service", metavar="SERVICE", help="Only packets of this service's tasks and VIPs.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what ends connections, and was received.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON object per line.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N drops.")
def drops(
    lab_name: str | None, task: str | None, service: str | None, everything: bool, json_output: bool, count: int | None
) -> None:
    """Show every packet that is dropped in a lab, by the kernel or by meshnet, with the reason, until Ctrl-C.

    A connection that meshnet refuses (with RST or port unreachable) is an answer, no drop: see meshnet inspect
    statistics. One that the kernel refuses since nobody listens is shown, as no_socket. The last FIN or RST of a
    connection that its program has closed was received, and is shown with --all only.
    """
    from meshnet.cli.trace_scope import scope
    from meshnet.lab import state
    from meshnet.observe.drops import DropTrace

    if task and service:
        raise click.UsageError("--task and --service cannot be used together")
    lab = state.current(lab_name)
    looked_at, left = scope(lab, task or "", service or ""), count
    with DropTrace(looked_at, everything) as running:
        render.message(f"meshnet: tracing drops in {lab.name}; Ctrl-C ends it")
        looked = time.monotonic()
        while left is None or left > 0:
            for drop in running.read(_REFRESH)[:left]:
                print(json.dumps(_named(drop)) if json_output else _line(drop), flush=True)
                left = None if left is None else left - 1
            if running.lost:
                render.message(f"meshnet: {running.lost} drops came too fast to be shown; a filter helps")
                running.lost = 0
            if time.monotonic() - looked >= _REFRESH:
                try:
                    now = scope(lab, task or "", service or "")
                except (MeshnetError, OSError):
                    state.load(lab.name)  # raises if the lab went down
                    now = looked_at  # the task has ended: what was its own still is
                if now != looked_at:
                    running.look_at(now)
                looked_at, looked = now, time.monotonic()


def _named(drop: Drop) -> dict[str, object]:
    return {key.capitalize(): value for key, value in dataclasses.asdict(drop).items()}


def _line(drop: Drop) -> str:
    """Time, place, reason, packet, meaning."""
    clock = time.strftime("%H:%M:%S", time.localtime(drop.time)) + f".{int(drop.time * 1000) % 1000:03d}"
    place = f"{drop.where} {drop.device}".strip()
    return f"{clock}  {place:<24} {drop.reason:<18} {drop.packet}  ({drop.length} bytes; {drop.meaning})"
