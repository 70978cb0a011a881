"""The objects of the store: their kinds, keys and bytes, the ids and the times they carry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from meshnet.codec import from_json, to_json
from meshnet.model import Network, Node, Service, Task, Version

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


@dataclass(frozen=True, slots=True)
class Cursor:
    """What was handed out last of something that is handed out serially: `id` is `vni`, `subnet`, a network ..."""

    id: str = field(default="", metadata={"name": "ID"})
    version: Version = Version()
    last: str = ""


Object = Node | Network | Service | Task | Cluster | Cursor
KINDS: dict[str, type] = {
    "cluster": Cluster,
    "cursor": Cursor,
    "network": Network,
    "node": Node,
    "service": Service,
    "task": Task,
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
    data = to_json(thing)
    del data["Version"]
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


def seconds(text: str) -> float:
    """An RFC 3339 time as seconds since the epoch; 0.0 for one that is empty or unreadable."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        return (moment - EPOCH).total_seconds() + (float(f"0.{fraction}") if fraction else 0.0)
    except ValueError:
        return 0.0


def touched(thing: Object, now: float) -> Object:
    """The object with its times set: `updated_at` is now, and `created_at` too if it is new."""
    if isinstance(thing, Cursor):
        return thing
    text = stamp(now)
    return dataclasses.replace(thing, created_at=thing.created_at or text, updated_at=text)
