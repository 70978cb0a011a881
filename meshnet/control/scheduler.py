"""Which node a task runs on: leave out the nodes that cannot take it, then spread (swarmkit manager/scheduler).

Filters in order: ready and active, placement constraints, host-published ports, replicas per node. Among what is left
the task goes where, level by level of its spread preferences, the fewest tasks of its service are; then to a node where
it did not fail five times in five minutes; then to the one with fewer tasks of the service, then fewer tasks at all;
then by hostname. Nothing that runs is moved.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable

from meshnet.control.constraints import label, satisfied
from meshnet.control.objects import seconds, stamp
from meshnet.control.view import View, alive, counts
from meshnet.model import Node, Service, Task, TaskStatus

FAILURES = 5
FAILURE_WINDOW = 300.0
NOT_AVAILABLE = "{} not available for new tasks"
NOT_SATISFIED = "scheduling constraints not satisfied on {}"
PORT_IN_USE = "host-mode port already in use on {}"
TOO_MANY = "max replicas per node limit exceed"
SCHEDULED = "scheduler assigned task to node"


def eligible(node: Node, constraints: Iterable[str]) -> bool:
    """Whether new tasks may start on the node at all."""
    return node.status.state == "ready" and node.spec.availability == "active" and satisfied(constraints, node)


class Scheduler:
    """Places tasks one after the other; each placement counts for the next. Built on a view for one decision."""

    def __init__(self, view: View, now: float) -> None:
        self._view = view
        self._now = now
        self._total = Counter(view.load)
        self._extra: dict[str, list[Task]] = defaultdict(list)

    def place(self, task: Task, service: Service) -> Task:
        """The task assigned to a node, or still pending with the reason; the same object if nothing changed.

        A task of a global service has its node already and is only passed on.
        """
        if task.node_id:
            return self._assign(task, task.node_id)
        nodes, reasons = self._candidates(task, service)
        if not nodes:
            return self._postpone(task, _explain(reasons))
        return self._assign(task, self._best(nodes, task, service).id)

    def _assign(self, task: Task, node_id: str) -> Task:
        self._total[node_id] += 1
        status = TaskStatus(stamp(self._now), "assigned", SCHEDULED)
        placed = dataclasses.replace(task, node_id=node_id, status=status)
        self._extra[task.service_id].append(placed)
        return placed

    def _postpone(self, task: Task, reason: str) -> Task:
        if task.status.state == "pending" and task.status.err == reason:
            return task
        status = TaskStatus(stamp(self._now), "pending", "pending task scheduling", reason)
        return dataclasses.replace(task, status=status)

    def _candidates(self, task: Task, service: Service) -> tuple[list[Node], Counter[str]]:
        placement = task.spec.placement
        per_node = self._per_node(service)
        ports = {(port.protocol, port.published_port) for port in service.endpoint.ports if port.publish_mode == "host"}
        nodes, reasons = [], Counter[str]()
        for node in self._view.nodes.values():
            if node.status.state != "ready" or node.spec.availability != "active":
                reasons[NOT_AVAILABLE] += 1
            elif not satisfied(placement.constraints, node):
                reasons[NOT_SATISFIED] += 1
            elif ports and ports & self._host_ports(node.id):
                reasons[PORT_IN_USE] += 1
            elif 0 < placement.max_replicas <= per_node[node.id]:
                reasons[TOO_MANY] += 1
            else:
                nodes.append(node)
        return nodes, reasons

    def _best(self, nodes: list[Node], task: Task, service: Service) -> Node:
        per_node, failures = self._per_node(service), self._failures(service)
        keys = [p.spread.spread_descriptor for p in task.spec.placement.preferences if p.spread]
        branch = {node.id: tuple(label(node, key) for key in keys) for node in self._view.nodes.values()}
        per_branch: Counter[tuple[str, ...]] = Counter()
        for node_id, count in per_node.items():
            for depth in range(1, len(keys) + 1):
                per_branch[branch.get(node_id, ())[:depth]] += count

        def order(node: Node) -> tuple[object, ...]:
            path = branch[node.id]
            levels = tuple((per_branch[path[:depth]], path[:depth]) for depth in range(1, len(keys) + 1))
            failing = failures[node.id] >= FAILURES
            return (levels, failing, per_node[node.id], self._total[node.id], node.description.hostname, node.id)

        return min(nodes, key=order)

    def _per_node(self, service: Service) -> Counter[str]:
        known = self._view.tasks_of.get(service.id, {}).values()
        return Counter(task.node_id for task in (*known, *self._extra[service.id]) if counts(task))

    def _failures(self, service: Service) -> Counter[str]:
        """How often tasks of the service failed lately, per node."""
        return Counter(
            task.node_id
            for task in self._view.tasks_of.get(service.id, {}).values()
            if task.status.state in ("failed", "rejected")
            and seconds(task.status.timestamp) > self._now - FAILURE_WINDOW
        )

    def _host_ports(self, node_id: str) -> set[tuple[str, int]]:
        """The host-published ports that tasks on the node have, or are about to give back."""
        here = [task for task in self._view.tasks_on.get(node_id, {}).values() if alive(task)]
        here += [task for tasks in self._extra.values() for task in tasks if task.node_id == node_id]
        services = {task.service_id for task in here}
        return {
            (port.protocol, port.published_port)
            for service_id in services
            if (service := self._view.services.get(service_id))
            for port in service.endpoint.ports
            if port.publish_mode == "host"
        }


def _explain(reasons: Counter[str]) -> str:
    """Swarm's words, with what excludes most nodes first."""
    if not reasons:
        return "no suitable node"
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    parts = [reason.format(f"{count} node{'s' if count != 1 else ''}") for reason, count in ordered]
    return f"no suitable node ({'; '.join(parts)})"
