"""The objects of the store: their kinds, keys and bytes, the ids and the times they carry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol

from meshnet.clusterspec import ClusterSpec
from meshnet.codec import compact, from_json
from meshnet.model import TERMINAL_STATES, Config, Network, Node, Secret, Service, Task, Version

BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The swarm itself; there is one."""

    id: str = field(default="", metadata={"name": "ID"})
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: ClusterSpec = ClusterSpec()


@dataclass(frozen=True, slots=True)
class Cursor:
    """What was handed out last of something that is handed out serially: `id` is `vni`, `subnet`, a network ..."""

    id: str = field(default="", metadata={"name": "ID"})
    version: Version = Version()
    last: str = ""


@dataclass(frozen=True, slots=True)
class SealedTrust:
    """The swarm's secrets, sealed (see `trust`): authority, tokens, gossip keys. There is one, with the swarm's id.

    `exposed`: a node that was removed knows the newest gossip key.
    """

    id: str = field(default="", metadata={"name": "ID"})
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    sealed: str = ""
    exposed: bool = False


Object = Node | Network | Service | Task | Cluster | Cursor | SealedTrust | Secret | Config
KINDS: dict[str, type] = {
    "cluster": Cluster,
    "config": Config,
    "cursor": Cursor,
    "network": Network,
    "node": Node,
    "secret": Secret,
    "service": Service,
    "task": Task,
    "trust": SealedTrust,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Changes:
    """Objects to write (new or replaced) and to delete, given as the objects themselves."""

    put: tuple[Object, ...] = ()
    drop: tuple[Object, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


@dataclass(frozen=True, slots=True)
class Change:
    """One object before and after; `after` None means deleted, `before` None means new."""

    before: Object | None
    after: Object | None


def kind_of(thing: Object) -> str:
    return _KIND_OF[type(thing)]


def key_of(thing: Object) -> str:
    """The object's key in the store: `<kind>/<id>`."""
    return f"{_KIND_OF[type(thing)]}/{thing.id}"


def encode(thing: Object) -> bytes:
    """The object as stored. Its version is not: the store knows it."""
    data = compact(thing)
    data.pop("Version", None)
    return json.dumps(data, separators=(",", ":")).encode()


def decode(key: str, value: bytes, rev: int) -> Object:
    """The object under a key, with the revision of its last change as version."""
    cls = KINDS[key.partition("/")[0]]
    data: dict[str, Any] = json.loads(value)
    data["Version"] = {"Index": rev}
    thing: Object = from_json(cls, data)
    return thing


class Chooser(Protocol):
    """What an id is made with; `random.SystemRandom` is one."""

    def choices(self, population: str, /, *, k: int) -> Sequence[str]: ...


def new_id(rng: Chooser) -> str:
    """An id like Swarm's: 25 characters of base 36."""
    return "".join(rng.choices(BASE36, k=ID_LENGTH))


def stamp(now: float) -> str:
    """Seconds since the epoch as the Engine writes times: RFC 3339 in UTC with nanoseconds."""
    moment = EPOCH + timedelta(microseconds=round(now * 1e6))
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}000Z"


@lru_cache(maxsize=16384)
def seconds(text: str) -> float:
    """An RFC 3339 time as seconds since the epoch; 0.0 for one that is empty or unreadable."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        return (moment - EPOCH).total_seconds() + (float(f"0.{fraction}") if fraction else 0.0)
    except ValueError:
        return 0.0


def touched(thing: Object, now: float) -> Object:
    """The object with its times set: `updated_at` is now, and `created_at` too if it is new; a task's own times too."""
    if isinstance(thing, Cursor):
        return thing
    text = stamp(now)
    if isinstance(thing, Task):
        runs, over = thing.status.state == "running", thing.status.state in TERMINAL_STATES
        return dataclasses.replace(
            thing,
            created_at=thing.created_at or text,
            updated_at=text,
            running_since=thing.running_since or (text if runs else ""),
            ended_at=thing.ended_at or (text if over else ""),
        )
    if isinstance(thing, Service) and thing.job_status is not None and not thing.job_status.last_execution:
        thing = dataclasses.replace(thing, job_status=dataclasses.replace(thing.job_status, last_execution=text))
    return dataclasses.replace(thing, created_at=thing.created_at or text, updated_at=text)


def ended_at(task: Task) -> float:
    """When a task that has ended did so, in seconds since the epoch by the manager's clock."""
    return seconds(task.ended_at or task.status.timestamp)
