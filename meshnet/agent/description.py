"""What a node says of itself when it joins a swarm."""

from __future__ import annotations

import os

from meshnet.agent.settings import AgentSettings
from meshnet.control.operations import Join
from meshnet.model import Engine, NodeDescription, Resources


def description(settings: AgentSettings) -> Join:
    """The node as its settings and its machine make it."""
    engine = Engine("meshnet", {"datapath": settings.datapath})
    return Join(
        addr=settings.address,
        role=settings.role,
        labels=settings.labels,
        description=NodeDescription(hostname=settings.node, engine=engine, resources=_resources()),
    )


def _resources() -> Resources:
    """The machine's processors and memory, as the Engine counts them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources((os.cpu_count() or 1) * 1_000_000_000, memory)
