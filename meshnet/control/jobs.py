"""Which tasks of a job must start: those that ran to their end stay ended (swarmkit manager/orchestrator/jobs).

A job's task that ends well is done; one that fails is followed by another as the restart policy says, where `any` means
what `on-failure` means. A place is a slot from 1 to the number of completions, or a node for a global job. All tasks
belong to one *iteration*; a changed template begins the next one and everything of the last one goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.control.defaults import restart_of
from meshnet.control.objects import ended_at
from meshnet.control.restart import ENDED_ALONE, restarts
from meshnet.control.view import alive, wanted
from meshnet.model import Service, Task

Place = int | str


def to_start(service: Service, places: Mapping[Place, Mapping[str, Task]], nodes: Iterable[str]) -> list[Place]:
    """The places that need a task now. `nodes` are the ids of those that can take tasks of a global job."""
    job = service.spec.mode.replicated_job
    if job is None:
        return [node for node in nodes if _open(service, places.get(node, {}).values())]
    active = sum(any(wanted(task) and alive(task) for task in tasks.values()) for tasks in places.values())
    room = max(0, (job.max_concurrent or 0) - active)
    slots = range(1, (job.total_completions or 0) + 1)
    needed: list[Place] = []
    for slot in slots:
        if len(needed) == room:
            break
        if _open(service, places.get(slot, {}).values()):
            needed.append(slot)
    return needed


def _open(service: Service, tasks: Iterable[Task]) -> bool:
    """Whether a place has neither a task that may still end well, nor one that did, nor one that ended for good."""
    tasks = list(tasks)
    if any(task.status.state == "complete" or (wanted(task) and alive(task)) for task in tasks):
        return False
    ended = [task for task in tasks if not alive(task)]
    if not ended:
        # Only tasks that are about to stop, such as those of a drained node: the next waits for them.
        return True
    latest = max(ended, key=ended_at)
    policy = restart_of(service.spec.task_template)
    return latest.status.state not in ENDED_ALONE or restarts(policy, latest, tasks)
