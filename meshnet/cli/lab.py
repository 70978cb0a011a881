"""`meshnet lab`: bringing labs up and down, and looking around in them."""

from __future__ import annotations

import os

import click

from meshnet.cli import options
from meshnet.cli.main import LazyGroup

VERBS = {
    "up": "meshnet.cli.lab_up:up",
    "down": "meshnet.cli.lab_up:down",
    "ls": "meshnet.cli.lab_show:ls",
    "inspect": "meshnet.cli.lab_show:inspect",
    "env": "meshnet.cli.lab_show:env",
    "exec": "meshnet.cli.lab_exec:execute",
    "logs": "meshnet.cli.lab_logs:logs",
    "stop": "meshnet.cli.lab_node:stop",
    "kill": "meshnet.cli.lab_node:kill",
    "start": "meshnet.cli.lab_node:start",
    "check": "meshnet.cli.lab_check:check",
    "load": "meshnet.cli.lab_load:load",
    "graph": "meshnet.cli.lab_graph:graph",
    "get": "meshnet.cli.lab_up:get",
}


@click.group(cls=LazyGroup, verbs=VERBS)
@options.in_lab
def lab(lab_name: str | None) -> None:
    """Labs: many nodes in network namespaces on this machine."""
    if lab_name:
        os.environ["MESHNET_LAB"] = lab_name
