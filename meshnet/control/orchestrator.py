"""Which tasks a service has: makes them, replaces them, ends them, forgets them (swarmkit manager/orchestrator).

`reconcile` is a function of one service, its tasks, the nodes and the clock, and is called again after each change; it
keeps nothing. A *place* is what a task fills: a slot of a replicated service, a node for a global one. Each place
has at most one task that is wanted (`ready` waits for its delay or its predecessor, `running` may run) and a
history of tasks that are not (`shutdown`). A task to be `remove`d belongs to no place any more and is deleted when
it has ended.

A task of an older spec is replaced as the `updater` says, which may leave the old one wanted beside the new one.
A lost node's tasks are replaced at once: the delay paces what fails again and again, and a node does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from meshnet.control.allocator import task_networks
from meshnet.control.constraints import satisfied
from meshnet.control.defaults import restart_of, same
from meshnet.control.jobs import to_start
from meshnet.control.objects import seconds, stamp
from meshnet.control.restart import ENDED_ALONE, failures_before, restarts, starts_at
from meshnet.control.scheduler import eligible
from meshnet.control.updater import ACTIVE, Place, advance
from meshnet.control.view import View, alive, iteration_of, wanted
from meshnet.model import Node, Service, Task, TaskStatus


@dataclass(slots=True)
class Outcome:
    """What to change: tasks to write and to delete, the service if its update got on, and when to look again (seconds
    since the epoch) if nothing else happens before."""

    put: dict[str, Task] = field(default_factory=dict)
    drop: dict[str, Task] = field(default_factory=dict)
    wake: float | None = None
    service: Service | None = None

    def look_again(self, at: float) -> None:
        self.wake = at if self.wake is None else min(self.wake, at)


def reconcile(view: View, service_id: str, now: float, new_id: Callable[[], str], history: int = 5) -> Outcome:
    """What the service's tasks must become. `history` is how many tasks a place keeps, the running one included."""
    if not service_id:
        return Outcome()  # containers that people started: see control/attachments.py
    service = view.services.get(service_id)
    tasks = view.tasks_of.get(service_id, {}).values()
    work = _Work(view, service, now, new_id, history)
    for task in tasks:
        if service is None and task.desired_state != "remove":
            work.end(task, "remove")
        elif task.desired_state == "remove":
            work.forget_if_over(task)
        elif task.node_id and task.node_id not in view.nodes:
            work.orphan(task)
    if service is not None:
        work.fill(service)
    return work.outcome


class _Work:
    """One reconciliation. `now_is` reads a task as this reconciliation has changed it."""

    def __init__(
        self, view: View, service: Service | None, now: float, new_id: Callable[[], str], history: int
    ) -> None:
        self.view = view
        self.nodes: Mapping[str, Node] = view.nodes
        self.now = now
        self.new_id = new_id
        self.history = history
        self.outcome = Outcome()
        self.places: dict[Place, dict[str, Task]] = defaultdict(dict)
        if service is not None:
            for task in view.tasks_of.get(service.id, {}).values():
                if task.desired_state != "remove":
                    self.places[self.place_of(task)][task.id] = task

    def place_of(self, task: Task) -> Place:
        """A task of a global service has no slot; its place is its node."""
        return task.slot or task.node_id

    def fill(self, service: Service) -> None:
        """Brings every place of the service to what it must hold."""
        if service.spec.mode.job:
            self._fill_job(service)
            return
        for place, tasks in list(self.places.items()):
            for task in list(tasks.values()):
                if wanted(task) and not self._fit(service, task):
                    self._replace(service, place, task)
        if service.spec.mode.everywhere:
            self._fill_nodes(service)
        else:
            self._fill_slots(service, service.spec.mode.replicated.replicas if service.spec.mode.replicated else 1)
        self._update(service)
        for tasks in self.places.values():
            self._promote(tasks)
            self._prune(service, tasks)

    def write(self, task: Task, place: Place | None = None) -> None:
        self.outcome.put[task.id] = task
        if place is not None:
            self.places[place][task.id] = task

    def end(self, task: Task, desired: str) -> None:
        """Ends a task. One that no agent has heard of is over at once."""
        if not alive(task) or not task.node_id or task.desired_state == "ready":
            if desired == "remove":
                self.forget(task)
                return
            if alive(task):
                task = dataclasses.replace(task, status=TaskStatus(stamp(self.now), "shutdown", "never started"))
        self.write(dataclasses.replace(task, desired_state=desired))
        if desired == "remove":
            self.forget_if_over(self.outcome.put[task.id])

    def forget_if_over(self, task: Task) -> None:
        if not alive(task) or task.node_id not in self.nodes:
            self.forget(task)

    def forget(self, task: Task) -> None:
        """Deletes a task."""
        self.outcome.put.pop(task.id, None)
        if task.id in self.view.tasks:
            self.outcome.drop[task.id] = task

    def orphan(self, task: Task) -> None:
        """The task's node was removed from the swarm: nobody will report about it."""
        if isinstance(self.place_of(task), str):
            self.places.pop(task.node_id, None)
            self.forget(task)
            return
        if not alive(task):
            return
        status = dataclasses.replace(task.status, timestamp=stamp(self.now), state="orphaned", message="node removed")
        ended = dataclasses.replace(task, desired_state="shutdown", status=status)
        self.write(ended)
        self.places[self.place_of(task)][task.id] = ended

    def _fit(self, service: Service, task: Task) -> bool:
        """Whether the task may go on: it has not ended and its node may run it."""
        if not alive(task):
            return False
        node = self.nodes.get(task.node_id)
        if node is None:
            return not task.node_id
        # A replicated task is judged by its own constraints: those of a new spec are the updater's business.
        template = service.spec.task_template if service.spec.mode.everywhere else task.spec
        fine = node.status.state != "down" and node.spec.availability != "drain"
        return fine and satisfied(template.placement.constraints, node)

    def _shut(self, place: Place, task: Task) -> None:
        """Ends a task that stays in its place's history."""
        self.end(task, "shutdown")
        self.places[place][task.id] = self.outcome.put[task.id]

    def _replace(self, service: Service, place: Place, task: Task) -> None:
        self._shut(place, task)
        if service.spec.mode.everywhere:
            return
        template = service.spec.task_template
        tasks = self.places[place]
        if any(wanted(other) for other in tasks.values()):
            return
        if alive(task) or not same(task.spec, template) or restarts(restart_of(template), task, tasks.values()):
            self._create(service, place)

    def _create(self, service: Service, place: Place) -> None:
        """A new task for a place. It waits as `ready` if its predecessor makes it wait."""
        task = Task(
            id=self.new_id(),
            spec=service.spec.task_template,
            service_id=service.id,
            slot=place if isinstance(place, int) else 0,
            node_id=place if isinstance(place, str) else "",
            job_iteration=iteration_of(service),
            failures=failures_before(self.places[place].values(), service.spec.task_template),
            status=TaskStatus(stamp(self.now), "new", "created"),
            desired_state="ready",
        )
        self.write(task, place)

    def _fill_slots(self, service: Service, replicas: int) -> None:
        filled = {slot for slot, tasks in self.places.items() if self._filled(service, tasks)}
        slot = 0
        for _ in range(replicas - len(filled)):
            slot += 1
            while slot in filled:
                slot += 1
            self._create(service, slot)
        surplus = len(filled) - replicas
        if surplus > 0:
            for victim in self._least_useful_first(filled)[:surplus]:
                self._remove_place(victim)
        for slot_ in [slot_ for slot_ in self.places if slot_ not in filled and not self._wanted_in(slot_)]:
            self._remove_place(slot_)

    def _fill_job(self, service: Service) -> None:
        iteration = iteration_of(service)
        for place, tasks in list(self.places.items()):
            for task in list(tasks.values()):
                if task.job_iteration != iteration:
                    self.end(task, "remove")
                    del tasks[task.id]
                elif wanted(task) and task.status.state != "complete" and not self._fit(service, task):
                    self._shut(place, task)
        constraints = service.spec.task_template.placement.constraints
        nodes = [node.id for node in self.nodes.values() if eligible(node, constraints)]
        for place in to_start(service, self.places, nodes):
            self._create(service, place)
        for tasks in self.places.values():
            self._promote(tasks)
            self._prune(service, tasks)

    def _filled(self, service: Service, tasks: Mapping[str, Task]) -> bool:
        """A slot counts while it has a wanted task, or one that ended for good under the present spec."""
        if any(wanted(task) for task in tasks.values()):
            return True
        last = max(tasks.values(), key=_age)
        return last.status.state in ENDED_ALONE and same(last.spec, service.spec.task_template)

    def _least_useful_first(self, places: Iterable[Place]) -> list[Place]:
        """Slots without a running task, then the last of the nodes that have the most, so that what stays is spread."""
        order = []
        seen: dict[str, int] = defaultdict(int)
        for place in sorted(places, key=int):
            there = [t for t in self.places[place].values() if wanted(t) and t.status.state == "running"]
            node = there[0].node_id if there else ""
            seen[node] += 1
            order.append((bool(there), -seen[node], -int(place), place))
        return [place for *_, place in sorted(order)]

    def _wanted_in(self, place: Place) -> bool:
        return any(wanted(task) for task in self.places[place].values())

    def _remove_place(self, place: Place) -> None:
        for task in self.places.pop(place).values():
            self.end(task, "remove")

    def _fill_nodes(self, service: Service) -> None:
        template = service.spec.task_template
        for node in self.nodes.values():
            tasks = self.places[node.id]
            if self._wanted_in(node.id) or not eligible(node, template.placement.constraints):
                continue
            last = max(tasks.values(), key=_age, default=None)
            ended_alone = last is not None and last.status.state in ENDED_ALONE and same(last.spec, template)
            if last is None or not ended_alone or restarts(restart_of(template), last, tasks.values()):
                self._create(service, node.id)

    def _update(self, service: Service) -> None:
        """Takes the next step of an update."""
        networks = task_networks(self.view, service)
        step = advance(service, self.places, lambda task: outdated(self.view, service, task, networks), self.now)
        for place, task in step.end:
            self._shut(place, task)
        for place in step.start:
            self._create(service, place)
        if step.service is not service:
            self.outcome.service = step.service
        if step.wake is not None:
            self.outcome.look_again(step.wake)

    def _promote(self, tasks: dict[str, Task]) -> None:
        """Lets the waiting tasks of a place run whose time has come."""
        for task in [task for task in tasks.values() if task.desired_state == "ready" and alive(task)]:
            at = starts_at(task, tasks.values(), self.nodes)
            if at is None:
                continue
            if at > self.now:
                self.outcome.look_again(at)
                continue
            tasks[task.id] = dataclasses.replace(task, desired_state="running")
            self.write(tasks[task.id])

    def _prune(self, service: Service, tasks: dict[str, Task]) -> None:
        """Forgets the oldest ended tasks of a place; as many stay as counting attempts needs."""
        attempts = restart_of(service.spec.task_template).max_attempts
        status = service.update_status
        updating = status is not None and status.state in ACTIVE
        keep = max(self.history - 1, attempts + 1 if attempts > 0 else 0, int(updating))
        ended = [task for task in tasks.values() if not alive(task) and not wanted(task)]
        if len(ended) <= keep:
            return
        ended.sort(key=_age)
        for task in ended[: max(0, len(ended) - keep)]:
            self.forget(task)
            del tasks[task.id]


def _age(task: Task) -> tuple[float, float, str]:
    return seconds(task.created_at) or math.inf, seconds(task.status.timestamp), task.id


def outdated(view: View, service: Service, task: Task, networks: Iterable[str]) -> bool:
    """Whether the task does not follow the service's present spec. `networks` are those its tasks are on now.

    As in Swarm, another placement alone makes no task outdated whose node satisfies it.
    """
    template = service.spec.task_template
    if not same(task.spec, template):
        node = view.nodes.get(task.node_id)
        moved = dataclasses.replace(task.spec, placement=template.placement)
        if node is None or not same(moved, template) or not satisfied(template.placement.constraints, node):
            return True
    attached = {item.network_id for item in task.networks_attachments}
    return task.status.state != "new" and attached != set(networks)
