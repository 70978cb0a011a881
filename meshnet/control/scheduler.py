"""Which node a task runs on: leave out the nodes that cannot take it, then choose (swarmkit manager/scheduler).

Filters in order: ready and active, resources that nobody has reserved, placement constraints, platform, host-published
ports, replicas per node. Among what is left the task goes where, level by level of its spread preferences, the fewest
tasks of its service are; then to a node where it did not fail five times in five minutes; then as the service's label
`meshnet.placement` says (beyond Swarm, which only spreads):

- `spread`: to the node with fewer tasks of the service, then with fewer tasks at all;
- `binpack`: to the node that is fullest, by what is reserved there and then by tasks, so that others stay free;
- `random`: to any of them alike.

At last the hostname decides. Nothing that runs is moved. A task that goes as soon as the newer one of its place runs
(start-first) counts no more where tasks are spread, or an update would leave them uneven; what it holds, it holds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from hashlib import sha256

from meshnet.control.constraints import label, platform_fits, satisfied
from meshnet.control.defaults import placement_of, reservations_of
from meshnet.control.objects import seconds, stamp
from meshnet.control.resources import Room, nothing
from meshnet.control.view import View, alive, counts, wanted
from meshnet.model import Node, Service, Task, TaskStatus

FAILURES = 5
FAILURE_WINDOW = 300.0
NOT_AVAILABLE = "{} not available for new tasks"
NO_RESOURCES = "insufficient resources on {}"
NOT_SATISFIED = "scheduling constraints not satisfied on {}"
NO_PLATFORM = "unsupported platform on {}"
PORT_IN_USE = "host-mode port already in use on {}"
TOO_MANY = "max replicas per node limit exceed"
SCHEDULED = "scheduler assigned task to node"
Order = Callable[[Node], tuple[object, ...]]


def eligible(node: Node, constraints: Iterable[str]) -> bool:
    """Whether new tasks may start on the node at all."""
    return node.status.state == "ready" and node.spec.availability == "active" and satisfied(constraints, node)


class Scheduler:
    """Places tasks one after the other; each placement counts for the next. Built on a view for one decision.

    `leaving` are tasks of the view that the same decision ends: they count for no node any more. `yielding` are those
    that will end because of a newer task of their place: they count no more for the spread.
    """

    def __init__(self, view: View, now: float, leaving: Iterable[Task] = (), yielding: Iterable[Task] = ()) -> None:
        self._view = view
        self._now = now
        self._leaving = {task.id: task for task in leaving if counts(task)}
        self._total = Counter(view.load)
        self._total.subtract(task.node_id for task in self._leaving.values())
        self._yielding: dict[str, Counter[str]] = defaultdict(Counter)
        for task in yielding:
            if counts(task) and task.id not in self._leaving:
                self._total[task.node_id] -= 1
                self._yielding[task.service_id][task.node_id] += 1
        self._extra: dict[str, list[Task]] = defaultdict(list)
        self._per_node: dict[str, Counter[str]] = {}
        self._failed: dict[str, Counter[str]] = {}
        self._rooms: dict[str, Room] = {}
        self._hopeless: dict[tuple[str, int], str] = {}

    def place(self, task: Task, service: Service) -> Task:
        """The task assigned to a node, or still pending with the reason; the same object if nothing changed.

        A task of a global service has its node already, and waits until that can take it.
        """
        if not task.node_id:
            return self._place_anywhere(task, service)
        node = self._view.nodes.get(task.node_id)
        nodes, reasons = self._candidates(task, service, [node] if node else [])
        return self._assign(task, nodes[0]) if nodes else self._postpone(task, _explain(reasons))

    def _place_anywhere(self, task: Task, service: Service) -> Task:
        # Room only shrinks in one decision: where one task of a spec found no node, the next does not either.
        key = (service.id, id(task.spec))
        if key in self._hopeless:
            return self._postpone(task, self._hopeless[key])
        nodes, reasons = self._candidates(task, service, self._view.nodes.values())
        if nodes:
            return self._assign(task, min(nodes, key=self._order(task, service)))
        self._hopeless[key] = _explain(reasons)
        return self._postpone(task, self._hopeless[key])

    def _assign(self, task: Task, node: Node) -> Task:
        self._total[node.id] += 1
        status = TaskStatus(stamp(self._now), "assigned", SCHEDULED)
        placed = dataclasses.replace(task, node_id=node.id, status=status)
        # A task with a node counted in the view already.
        if not task.node_id:
            self._tasks_per_node(task.service_id)[node.id] += 1
        self._extra[node.id].append(placed)
        needed = reservations_of(task.spec)
        if not nothing(needed):
            self._room(node).take(needed)
        return placed

    def _postpone(self, task: Task, reason: str) -> Task:
        if task.status.state == "pending" and task.status.err == reason:
            return task
        status = TaskStatus(stamp(self._now), "pending", "pending task scheduling", reason)
        return dataclasses.replace(task, status=status)

    def _candidates(self, task: Task, service: Service, among: Iterable[Node]) -> tuple[list[Node], Counter[str]]:
        placement = task.spec.placement
        per_node = self._tasks_per_node(service.id)
        ports = {(port.protocol, port.published_port) for port in service.endpoint.ports if port.publish_mode == "host"}
        ports = {port for port in ports if port[1]}
        needed = reservations_of(task.spec)
        nodes, reasons = [], Counter[str]()
        for node in among:
            if node.status.state != "ready" or node.spec.availability != "active":
                reasons[NOT_AVAILABLE] += 1
            elif not (nothing(needed) or self._room(node).holds(needed)):
                reasons[NO_RESOURCES] += 1
            elif not satisfied(placement.constraints, node):
                reasons[NOT_SATISFIED] += 1
            elif not platform_fits(placement.platforms, node.description.platform):
                reasons[NO_PLATFORM] += 1
            elif ports and ports & self._host_ports(node.id, task.id):
                reasons[PORT_IN_USE] += 1
            elif not task.node_id and 0 < placement.max_replicas <= per_node[node.id]:
                reasons[TOO_MANY] += 1
            else:
                nodes.append(node)
        return nodes, reasons

    def _order(self, task: Task, service: Service) -> Order:
        """Sorts the nodes that can take a task, best first."""
        per_node, failures = self._spread(service.id), self._failures(service)
        levels = self._levels(task, per_node)
        strategy = placement_of(service.spec.labels)

        def preference(node: Node) -> tuple[object, ...]:
            if strategy == "binpack":
                return (-self._room(node).reserved_share(), -self._total[node.id])
            if strategy == "random":
                return (sha256(f"{task.id}/{node.id}".encode()).digest(),)
            return (per_node[node.id], self._total[node.id])

        def order(node: Node) -> tuple[object, ...]:
            failing = failures[node.id] >= FAILURES
            return (levels(node), failing, *preference(node), node.description.hostname, node.id)

        return order

    def _levels(self, task: Task, per_node: Counter[str]) -> Callable[[Node], tuple[object, ...]]:
        """How many tasks of the service are where a node is, per level of the task's spread preferences."""
        keys = [item.spread.spread_descriptor for item in task.spec.placement.preferences if item.spread]
        if not keys:
            return lambda node: ()
        branch = {node.id: tuple(label(node, key) for key in keys) for node in self._view.nodes.values()}
        per_branch: Counter[tuple[str, ...]] = Counter()
        for node_id, number in per_node.items():
            for depth in range(1, len(keys) + 1):
                per_branch[branch.get(node_id, ())[:depth]] += number
        return lambda node: tuple(
            (per_branch[branch[node.id][:depth]], branch[node.id][:depth]) for depth in range(1, len(keys) + 1)
        )

    def _tasks_per_node(self, service_id: str) -> Counter[str]:
        if service_id not in self._per_node:
            known = self._view.tasks_of.get(service_id, {}).values()
            staying = (task for task in known if counts(task) and task.id not in self._leaving)
            self._per_node[service_id] = Counter(task.node_id for task in staying)
        return self._per_node[service_id]

    def _spread(self, service_id: str) -> Counter[str]:
        """The service's tasks per node, as they will be when those that yield are gone."""
        per_node = self._tasks_per_node(service_id)
        return per_node - self._yielding[service_id] if service_id in self._yielding else per_node

    def _room(self, node: Node) -> Room:
        if node.id not in self._rooms:
            room = Room(node.description.resources)
            for task in self._view.tasks_on.get(node.id, {}).values():
                if alive(task) and task.status.state not in ("new", "pending"):
                    room.take(reservations_of(task.spec))
            self._rooms[node.id] = room
        return self._rooms[node.id]

    def _failures(self, service: Service) -> Counter[str]:
        """How often tasks of the service failed lately, per node."""
        if service.id not in self._failed:
            self._failed[service.id] = Counter(
                task.node_id
                for task in self._view.tasks_of.get(service.id, {}).values()
                if task.status.state in ("failed", "rejected")
                and seconds(task.status.timestamp) > self._now - FAILURE_WINDOW
            )
        return self._failed[service.id]

    def _host_ports(self, node_id: str, task_id: str) -> set[tuple[str, int]]:
        """The host-published ports that other tasks on the node have, or are about to give back."""
        known = self._view.tasks_on.get(node_id, {}).values()
        here = [task for task in known if alive(task) and task.id != task_id]
        services = {task.service_id for task in (*here, *self._extra[node_id])}
        return {
            (port.protocol, port.published_port)
            for service_id in services
            if (service := self._view.services.get(service_id))
            for port in service.endpoint.ports
            if port.publish_mode == "host"
        }


def outlived(view: View, fresh: Iterable[Task]) -> list[Task]:
    """Tasks that are wanted beside a newer one of their place: start-first ends them when that runs.

    Looked for in the services of the tasks `fresh`, which may be newer than those of the view.
    """
    services: dict[str, dict[str, Task]] = {}
    for task in fresh:
        if task.service_id:  # containers that people started have no place
            if task.service_id not in services:
                services[task.service_id] = dict(view.tasks_of.get(task.service_id, {}))
            services[task.service_id][task.id] = task
    found: list[Task] = []
    for tasks in services.values():
        places: dict[int | str, list[Task]] = defaultdict(list)
        for task in tasks.values():
            if wanted(task) and alive(task):
                places[task.slot or task.node_id].append(task)
        for rivals in places.values():
            found += sorted(rivals, key=lambda task: (task.created_at or "~", task.id))[:-1]
    return found


def _explain(reasons: Counter[str]) -> str:
    """Swarm's words, with what excludes most nodes first."""
    if not reasons:
        return "no suitable node"
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    parts = [reason.format(f"{count} node{'s' if count != 1 else ''}") for reason, count in ordered]
    return f"no suitable node ({'; '.join(parts)})"
