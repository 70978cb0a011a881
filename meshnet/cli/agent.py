"""`meshnet agent` and `meshnet manager`: one process of a node in the foreground."""

from __future__ import annotations

import click


@click.command(short_help="Run a node's agent in the foreground.")
@click.option("--settings", required=True, type=click.Path(), metavar="FILE", help="What the agent is told (JSON).")
def agent(settings: str) -> None:
    """Run the agent of a lab's node in the foreground until SIGTERM."""
    from meshnet.agent.settings import AgentSettings
    from meshnet.lab import daemons

    told = AgentSettings.load(settings)
    daemons.settle_here(told.lab, told.node, daemons.AGENT)
    daemons.run_agent(told)


@click.command(short_help="Run a node's manager in the foreground.")
@click.option("--settings", required=True, type=click.Path(), metavar="FILE", help="What the manager is told (JSON).")
def manager(settings: str) -> None:
    """Run the manager of a lab's node in the foreground until SIGTERM."""
    from meshnet.agent.settings import ManagerSettings
    from meshnet.lab import daemons

    told = ManagerSettings.load(settings)
    daemons.settle_here(told.lab, told.node, daemons.MANAGER)
    daemons.run_manager(told)
