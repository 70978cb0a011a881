"""Whether and when a task that ended gets a successor (swarmkit manager/orchestrator/restart).

Everything follows from the objects: the tasks of one slot and the clock. A task that ended by itself (complete, failed,
rejected) is followed after the policy's delay, which doubles with every failure in a row (beyond Swarm, whose delay is
always the same); one that was told to stop, or whose node is lost, at once. A successor waits until its predecessor has
stopped, unless that one's node is lost, or it is to go on until the successor runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.control.defaults import restart_delay, restart_of, same
from meshnet.control.objects import ended_at, seconds
from meshnet.control.view import alive, wanted
from meshnet.model import SECOND, Node, RestartPolicy, Task, TaskSpec

ENDED_ALONE = frozenset({"complete", "failed", "rejected"})
STEADY = 60.0  # seconds: a task that ran for so long did not fail at once, and the delay begins anew
LEAST_BACKOFF = 1.0
MOST_BACKOFF = 300.0


def restarts(policy: RestartPolicy, task: Task, slot: Iterable[Task]) -> bool:
    """Whether `task`, which ended by itself, is followed by another. `slot` holds it and its predecessors."""
    if policy.condition == "none" or (policy.condition == "on-failure" and task.status.state == "complete"):
        return False
    if policy.max_attempts <= 0:
        return True
    since = ended_at(task) - policy.window / SECOND if policy.window else 0.0
    ended = [
        item
        for item in slot
        if item.status.state in ENDED_ALONE and same(item.spec, task.spec) and ended_at(item) >= since
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
    if any(alive(item) and not wanted(item) and not lost(item, nodes) for item in others):
        return None
    ended = [item for item in others if not alive(item)]
    if not ended:
        return 0.0
    latest = max(ended, key=lambda item: (ended_at(item), item.id))
    if latest.status.state not in ENDED_ALONE or not same(latest.spec, task.spec):
        return 0.0
    return ended_at(latest) + _delay(task)


def failures_before(slot: Iterable[Task], spec: TaskSpec) -> int:
    """How many tasks of the spec failed in a row before a new one for the slot, each soon after it began to run."""
    ended = [item for item in slot if not alive(item) and item.status.state in ENDED_ALONE and same(item.spec, spec)]
    if not ended:
        return 0
    latest = max(ended, key=lambda item: (ended_at(item), item.id))
    steady = latest.running_since and ended_at(latest) - seconds(latest.running_since) >= STEADY
    return 0 if steady else latest.failures + 1


def _delay(task: Task) -> float:
    """Seconds to wait: the policy's delay for the first failure, twice as long for each further one in a row."""
    delay = restart_delay(restart_of(task.spec))
    if task.failures <= 1:
        return delay
    return min(max(delay, LEAST_BACKOFF) * 2.0 ** min(task.failures - 1, 30), max(delay, MOST_BACKOFF))
