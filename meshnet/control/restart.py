"""Whether and when a task that ended gets a successor (swarmkit manager/orchestrator/restart).

Everything follows from the objects: the tasks of one slot and the clock. A task that ended by itself (complete, failed,
rejected) is followed after the policy's delay; one that was told to stop, or whose node is lost, at once. A successor
waits until its predecessor has stopped, unless that one's node is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.control.defaults import restart_delay, restart_of
from meshnet.control.objects import seconds
from meshnet.control.view import alive
from meshnet.model import SECOND, Node, RestartPolicy, Task

ENDED_ALONE = frozenset({"complete", "failed", "rejected"})


def restarts(policy: RestartPolicy, task: Task, slot: Iterable[Task]) -> bool:
    """Whether `task`, which ended by itself, is followed by another. `slot` holds it and its predecessors."""
    if policy.condition == "none" or (policy.condition == "on-failure" and task.status.state == "complete"):
        return False
    if policy.max_attempts <= 0:
        return True
    since = seconds(task.status.timestamp) - policy.window / SECOND if policy.window else 0.0
    ended = [
        item
        for item in slot
        if item.status.state in ENDED_ALONE and item.spec == task.spec and seconds(item.status.timestamp) >= since
    ]
    return len(ended) <= policy.max_attempts


def lost(task: Task, nodes: Mapping[str, Node]) -> bool:
    """Whether the task's node is down or gone, so that nobody will say that the task stopped."""
    if not task.node_id:
        return False
    node = nodes.get(task.node_id)
    return node is None or node.status.state == "down"


def starts_at(task: Task, slot: Iterable[Task], nodes: Mapping[str, Node]) -> float | None:
    """When `task` may start, in seconds since the epoch (0.0: now); None until a predecessor has stopped."""
    others = [item for item in slot if item.id != task.id]
    if any(alive(item) and not lost(item, nodes) for item in others):
        return None
    ended = [item for item in others if not alive(item)]
    if not ended:
        return 0.0
    latest = max(ended, key=lambda item: (seconds(item.status.timestamp), item.id))
    if latest.status.state not in ENDED_ALONE or latest.spec != task.spec:
        return 0.0
    return seconds(latest.status.timestamp) + restart_delay(restart_of(task.spec))
