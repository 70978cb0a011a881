"""What is compared: tables of paths, each with the baseline that its ratios are to. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TOLERANCE = 0.02
BULK = 128 << 10  # bytes

# Operation -> what it is. The first letters are the operations of pp.c.
OPERATIONS = {
    "request": "request/response, 100/200 bytes",
    "bulk": "bulk, 128 KiB one way",
    "udp": "UDP, 64 bytes there and back",
    "connect": "connect, request/response, close",
}


@dataclass(frozen=True, slots=True)
class Way:
    """One path as the prober drives it: a client in one namespace asks `address`:`port`, and what it sends arrives at
    `server_port` in another. `process` is a proxy on the way, whose CPU time counts, 0 for none. `addresses` and
    `ports`: so many from the first on, of which each connect takes another. `group` is the cgroup whose sockets are
    the client's, where it is not the table's."""

    client: str
    server: str
    address: str
    port: int
    server_port: int
    operations: str = "rbuc"
    process: int = 0
    addresses: int = 1
    ports: int = 1
    group: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A path of a table. `baseline` is the key of the row that its ratios are to; a hidden row is only a baseline.

    `aim`: the ratios that the project wants to reach, by operation; within `tolerance` they are reached.
    """

    key: str
    title: str
    way: Way
    baseline: str
    aim: Mapping[str, float] = field(default_factory=dict)
    hidden: bool = False
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Missing:
    """A path that cannot be measured here: why, and how to get it."""

    title: str
    reason: str
    fix: str


def quietly(package: str) -> str:
    """How to get a Debian package whose installation would start a service, without that."""
    return f"scripts/setup .venv {package} (it starts no service, as apt-get alone would)"


@dataclass(frozen=True, slots=True)
class Table:
    """Paths that are measured together, in turns."""

    key: str
    title: str
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...] = ()
