"""`meshnet service`: services with docker's names and flags."""

from __future__ import annotations

import click

from meshnet.cli.main import LazyGroup

VERBS = {
    "create": "meshnet.cli.service_create:create",
    "ls": "meshnet.cli.service_show:ls",
    "ps": "meshnet.cli.service_show:ps",
    "inspect": "meshnet.cli.service_show:inspect",
    "logs": "meshnet.cli.logs:of_service",
    "scale": "meshnet.cli.service_change:scale",
    "update": "meshnet.cli.service_change:update",
    "rollback": "meshnet.cli.service_change:rollback",
    "rm": "meshnet.cli.service_change:rm",
}


@click.group(cls=LazyGroup, verbs=VERBS)
def service() -> None:
    """Services of a swarm."""
