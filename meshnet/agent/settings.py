"""What an agent and a manager are told at their start. All else of an agent comes from its manager and the members."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError
from meshnet.files import replace_text

AGENT_FILE, MANAGER_FILE = "settings.json", "manager.json"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`lab` is `host` outside a lab. `managers` and `join` are `address:port`; without managers, the node is in no
    swarm until it is told to make or to join one. `token` lets it become a member of the managers' swarm.

    `images` is a lab's catalogue; `layers` are directories that its host images show over the machine's root.
    `resolvers` answer unknown names; none means that unknown names get SERVFAIL at once.
    `map_sizes`: entries by name of a BPF map that shall be larger or smaller than bpf/meshnet.h says; takes effect at
    the next start, and keeps what is in the map. `resolver`: the port, UDP and TCP, where clients outside the swarm may
    look up services and nodes; 0 is none. `neighbours`: how many nodes share a lab's machine. `avoid` (subnets that no
    network may meet) and `heartbeat` (s) are for a swarm that the node makes."""

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
    layers: tuple[str, ...] = ()
    datapath: str = "ebpf"
    direct_return: bool = False
    token: str = ""
    vxlan_port: int = 4789
    map_sizes: dict[str, int] = field(default_factory=dict)
    neighbours: int = 0
    avoid: tuple[str, ...] = ()
    heartbeat: float = 5.0
    resolver: int = 0

    def save(self, path: str | Path) -> None:
        """Writes the settings for a later start, readable by root only: they hold a join token."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=2)

    @classmethod
    def load(cls, path: str | Path) -> AgentSettings:
        """Reads what `save` wrote. MeshnetError if the file is missing or is not that."""
        try:
            values = json.loads(Path(path).read_text())
            for name in ("managers", "join", "resolvers", "avoid", "layers"):
                values[name] = tuple(values.get(name, ()))
            return cls(**values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise MeshnetError(f"{path}: not the settings of an agent: {error}") from None


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """One manager: `listen` is address:port for agents, `advertise` the same as they reach it, if it differs.

    `avoid` are subnets that no network may meet. `heartbeat` in s, `expiry` of certificates in ns, `key_period` of
    gossip keys in s; `pools` and `pool_size` are where networks get their subnets from. Empty and 0 stand for the
    defaults. `resolver` is the port of nodes' resolvers for clients outside, which no service may publish. `images` are
    the names of the catalogue, which its nodes answer to at any tag.
    """

    lab: str
    node: str
    run_dir: str
    listen: str
    advertise: str = ""
    avoid: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    heartbeat: float = 5.0
    pools: tuple[str, ...] = ()
    pool_size: int = 0
    expiry: int = 0
    key_period: float = 0.0
    data_path_port: int = 4789
    resolver: int = 0

    @classmethod
    def load(cls, path: str | Path) -> ManagerSettings:
        """Reads what `save` wrote. MeshnetError if the file is missing or is not that."""
        try:
            values = json.loads(Path(path).read_text())
            for name in ("avoid", "images", "pools"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MeshnetError(f"{path}: not the settings of a manager: {error}") from None

    def save(self) -> Path:
        """Writes the settings into the node's directory, for root only."""
        path = Path(self.run_dir, MANAGER_FILE)
        replace_text(path, json.dumps(dataclasses.asdict(self), indent=2))
        return path
