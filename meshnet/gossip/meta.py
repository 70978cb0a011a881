"""Member metadata: what a node says of itself in its memberlist `Meta` field (at most 512 bytes)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack

from meshnet.errors import MeshnetError

META_LIMIT = 512
"""Bytes that memberlist allows for a member's metadata."""

EPOCH_LIMIT = 1 << 43
"""Epochs are below this: enough for milliseconds since 1970 until the year 2248."""
LIFE_BITS = 20

_MAGIC = b"MN\x01"
_TEXTS = {
    "r": "role",
    "t": "tunnel",
    "d": "datapath",
    "a": "api",
    "i": "node_id",
    "h": "hostname",
    "v": "version",
}


@dataclass(frozen=True, slots=True)
class MemberMeta:
    """What every member knows of another without asking.

    `epoch` counts the node's starts (persisted by the agent), and `life` is a random number that tells two starts
    apart which took the same epoch since the state was lost. `tunnel` is the VTEP's address, `datapath` is
    `ebpf` or `ipvs`, `api` the address of its Engine API or manager.
    """

    version: str = ""
    epoch: int = 0
    life: int = 0
    role: str = "worker"
    tunnel: str = ""
    datapath: str = ""
    api: str = ""
    node_id: str = ""
    hostname: str = ""

    @property
    def log_epoch(self) -> int:
        """The epoch of the node's log: `epoch` first, `life` to break ties."""
        return self.epoch << LIFE_BITS | self.life


def encode_meta(meta: MemberMeta) -> bytes:
    """The metadata as memberlist's Meta bytes. Raises MeshnetError when they exceed 512 bytes."""
    fields: dict[str, object] = {short: getattr(meta, name) for short, name in _TEXTS.items() if getattr(meta, name)}
    fields |= {"e": meta.epoch, "l": meta.life}
    packed = _MAGIC + bytes(msgpack.packb(fields))
    if len(packed) > META_LIMIT:
        raise MeshnetError(f"member metadata takes {len(packed)} bytes, the limit is {META_LIMIT}: shorten its names")
    return packed


@lru_cache(maxsize=4096)
def decode_meta(data: bytes) -> MemberMeta | None:
    """The metadata in `data`, or None when a member that is not a meshnet node wrote it."""
    if not data.startswith(_MAGIC) or len(data) > META_LIMIT:
        return None
    try:
        fields: Any = msgpack.unpackb(data[len(_MAGIC) :])
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException):
        return None
    if not isinstance(fields, dict):
        return None
    epoch, life = fields.get("e", 0), fields.get("l", 0)
    texts = {name: fields.get(short, "") for short, name in _TEXTS.items()}
    if not _below(epoch, EPOCH_LIMIT) or not _below(life, 1 << LIFE_BITS):
        return None
    if not all(isinstance(text, str) for text in texts.values()):
        return None
    return MemberMeta(epoch=epoch, life=life, **texts)


def _below(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
