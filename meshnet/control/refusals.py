"""Refusals as Swarm's manager words them: its errors reach a user through the Engine API as `rpc error: ...`."""

from __future__ import annotations

from meshnet.errors import ConflictError, MeshnetError
from meshnet.model import Version


def invalid(text: str) -> MeshnetError:
    """Swarm's InvalidArgument."""
    return MeshnetError(f"rpc error: code = InvalidArgument desc = {text}", 400)


def precondition(text: str) -> MeshnetError:
    """Swarm's FailedPrecondition."""
    return MeshnetError(f"rpc error: code = FailedPrecondition desc = {text}", 400)


def exists(text: str) -> MeshnetError:
    """Swarm's AlreadyExists."""
    return ConflictError(f"rpc error: code = AlreadyExists desc = {text}")


def check_version(version: int, present: Version) -> None:
    """Refuses a change of an object that was read before its last change."""
    if version != present.index:
        raise MeshnetError("rpc error: code = Unknown desc = update out of sequence", 500)
