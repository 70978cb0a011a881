"""What a node says of itself when it joins a swarm."""

from __future__ import annotations

import os

from meshnet.agent.settings import AgentSettings
from meshnet.control.operations import Join
from meshnet.model import Engine, NodeDescription, Plugin, Resources

# What a node has built in, as the Engine lists it.
PLUGINS = {"Log": ("json-file",), "Network": ("bridge", "host", "null", "overlay"), "Volume": ("local",)}


def description(settings: AgentSettings) -> Join:
    """The node as its settings and its machine make it."""
    plugins = tuple(Plugin(kind, name) for kind, names in PLUGINS.items() for name in names)
    engine = Engine("meshnet", {"datapath": settings.datapath}, plugins)
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
