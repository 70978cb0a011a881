"""Restart policies of containers that people started: whether one that has ended begins again, and when (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from meshnet.errors import MeshnetError

NAMES = ("", "no", "always", "unless-stopped", "on-failure")
FIRST, LONGEST = 0.1, 60.0  # s of delay; doubled from one to the other with every restart in a row
STEADY = 10.0  # s that a run must last for the delay to begin anew


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """As of `docker run --restart`; `maximum_retry_count` 0 is no limit."""

    name: str = ""
    maximum_retry_count: int = 0

    @property
    def never(self) -> bool:
        return self.name in ("", "no")


def check(policy: RestartPolicy, auto_remove: bool) -> None:
    """MeshnetError in the Engine's words for a policy that cannot be."""
    if policy.name not in NAMES:
        raise MeshnetError(f"invalid restart policy '{policy.name}'")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise MeshnetError(f"maximum retry count cannot be used with restart policy '{policy.name}'")
    if policy.maximum_retry_count < 0:
        raise MeshnetError("maximum retry count cannot be negative")
    if auto_remove and not policy.never:
        raise MeshnetError("can't create 'AutoRemove' container with restart policy")


def again(policy: RestartPolicy, code: int, restarts: int) -> bool:
    """Whether a container that ended by itself, with this exit code and after so many restarts, begins again."""
    if policy.name == "on-failure":
        return code != 0 and (not policy.maximum_retry_count or restarts < policy.maximum_retry_count)
    return not policy.never


def at_boot(policy: RestartPolicy, stopped: bool, code: int, restarts: int) -> bool:
    """Whether one that does not run begins again with its node; `stopped`: somebody had stopped it."""
    return policy.name == "always" or (not stopped and again(policy, code, restarts))


def delay(in_a_row: int) -> float:
    """Seconds before the restart that is the first, second ... in a row."""
    return float(min(FIRST * 2 ** min(in_a_row - 1, 16), LONGEST))
