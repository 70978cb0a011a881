"""What an agent is told at its start. Everything else comes from its manager and from the other members."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`lab` is `host` outside a lab. `managers` and `join` are `address:port`. `gossip_key` is base64 of 16, 24 or
    32 bytes, or "" for plain text. `images` is a lab's catalogue. `resolvers` answer unknown names; none means
    that unknown names get SERVFAIL at once. `map_sizes`: entries by name of a BPF map that shall be larger or
    smaller than bpf/meshnet.h says; takes effect at the next start, and keeps what is in the map. `neighbours`:
    how many nodes share a lab's machine."""

    lab: str
    node: str
    address: str
    run_dir: str
    underlay: str = "eth0"
    role: str = "worker"
    labels: dict[str, str] = field(default_factory=dict)
    managers: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    images: dict[str, Any] = field(default_factory=dict)
    datapath: str = "ebpf"
    direct_return: bool = False
    gossip_key: str = ""
    vxlan_port: int = 4789
    map_sizes: dict[str, int] = field(default_factory=dict)
    neighbours: int = 0

    def save(self, path: str | Path) -> None:
        """Writes the settings for a later start, readable by root only: they hold the gossip key."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=2)

    @classmethod
    def load(cls, path: str | Path) -> AgentSettings:
        """Reads what `save` wrote. MeshnetError if the file is missing or is not that."""
        try:
            values = json.loads(Path(path).read_text())
            for name in ("managers", "join", "resolvers"):
                values[name] = tuple(values.get(name, ()))
            return cls(**values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise MeshnetError(f"{path}: not the settings of an agent: {error}") from None
