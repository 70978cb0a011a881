"""A swarm without sockets, store or clock: a view, the controllers, and agents that do as the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from meshnet.control import nodes, operations
from meshnet.control.allocator import DATAPATH_LABEL, Ledger
from meshnet.control.objects import Change, Changes, kind_of, new_id, stamp, touched
from meshnet.control.settle import settle
from meshnet.control.view import View, alive, wanted
from meshnet.model import (
    Engine,
    NetworkSpec,
    Node,
    NodeDescription,
    Resources,
    Service,
    ServiceSpec,
    Task,
    TaskStatus,
    Version,
)


class World:
    def __init__(self, size: int = 3, seed: int = 1, history: int = 5) -> None:
        self.view = View()
        self.now = 1_000_000.0
        self.rng = Random(seed)
        self.history = history
        self.changes: list[Change] = []
        self.commit(operations.start_cluster(self.view, self.ledger(), self.new_id))
        for number in range(size):
            self.node(f"docker-{number}")

    def new_id(self) -> str:
        return new_id(self.rng)

    def ledger(self) -> Ledger:
        return Ledger(self.view)

    def commit(self, changes: Changes) -> Changes:
        """Applies changes as the store would: one revision, times set. Says what an object became."""
        if not changes:
            return changes
        self.view.rev += 1
        self.now += 0.001
        written = []
        for thing in changes.put:
            stored = replace(touched(thing, self.now), version=Version(self.view.rev))
            self.changes.append(Change(self.view.apply(kind_of(stored), stored.id, stored), stored))
            written.append(stored)
        for thing in changes.drop:
            self.changes.append(Change(self.view.apply(kind_of(thing), thing.id, None), None))
        return Changes(tuple(written), changes.drop)

    def node(
        self,
        hostname: str,
        labels: dict[str, str] | None = None,
        datapath: str = "ebpf",
        resources: Resources = Resources(),  # noqa: B008 - it is frozen
    ) -> Node:
        number = len(self.view.nodes) + 2
        engine = Engine(labels={DATAPATH_LABEL: datapath})
        description = NodeDescription(hostname=hostname, engine=engine, resources=resources)
        join = operations.Join("", f"172.17.0.{number}", "worker", labels or {}, description)
        changes, ident = operations.join_node(self.view, join, self.ledger(), self.new_id, "")
        self.commit(changes)
        self.commit(Changes((nodes.ready(self.view.nodes[ident]),)))
        return self.view.nodes[ident]

    def network(self, name: str) -> str:
        changes = operations.create_network(self.view, NetworkSpec(name=name), self.ledger(), self.new_id)
        return self.commit(changes).put[0].id

    def service(self, spec: ServiceSpec) -> str:
        changes = operations.create_service(self.view, spec, self.ledger(), self.new_id)
        return self.commit(changes).put[0].id

    def update(self, service_id: str, change: Callable[[ServiceSpec], ServiceSpec]) -> None:
        service = self.view.services[service_id]
        spec = change(service.spec)
        index = service.version.index
        self.commit(operations.update_service(self.view, service, index, spec, self.ledger()))

    def rollback(self, service_id: str, steps: int = 1) -> None:
        service = self.view.services[service_id]
        index = service.version.index
        self.commit(operations.rollback_service(self.view, service, index, steps, self.ledger(), self.now))

    def remove(self, service_id: str) -> None:
        self.commit(operations.remove_service(self.view.services[service_id]))

    def set_node(self, hostname: str, state: str = "", availability: str = "") -> None:
        node = next(n for n in self.view.nodes.values() if n.description.hostname == hostname)
        status = replace(node.status, state=state or node.status.state)
        spec = replace(node.spec, availability=availability or node.spec.availability)
        self.commit(Changes((replace(node, status=status, spec=spec),)))

    def settle(self) -> float | None:
        """Rounds until nothing changes any more (ten are plenty); returns when the controllers want to look again."""
        services = {*self.view.services, *self.view.tasks_of}
        for _ in range(10):
            done = settle(self.view, services, self.ledger(), self.now, self.new_id, self.history)
            if not done.changes:
                return done.wake
            self.commit(done.changes)
        raise AssertionError(f"the controllers do not come to rest: {done.changes}")

    def report(self, task: Task, state: str) -> None:
        status = TaskStatus(stamp(self.now), state, state)
        self.commit(operations.report_tasks(self.view, task.node_id, {task.id: status}))

    def agents(
        self, fails: Callable[[Task], bool] = lambda _: False, ends: Callable[[Task], bool] = lambda _: False
    ) -> bool:
        """Every agent that is up does what it was told, and tasks that run and are to end do so. Returns whether
        anything happened."""
        before = self.view.rev
        for task in list(self.view.tasks.values()):
            node = self.view.nodes.get(task.node_id)
            if node is None or node.status.state == "down" or not alive(task) or task.desired_state == "ready":
                continue
            if not wanted(task):
                self.report(task, "shutdown")
            elif task.status.state == "assigned":
                self.report(task, "failed" if fails(task) else "running")
            elif task.status.state == "running" and ends(task):
                self.report(task, "complete")
        return self.view.rev != before

    def run(self, fails: Callable[[Task], bool] = lambda _: False, seconds: float = 600.0) -> None:
        """Controllers and agents in turn, and the clock when both rest, until nothing is left to do."""
        end = self.now + seconds
        for _ in range(2000):
            wake = self.settle()
            if self.agents(fails):
                continue
            if wake is None or wake > end:
                return
            self.now = max(self.now, wake)
        raise AssertionError("the swarm does not come to rest")

    def running(self, service_id: str) -> list[Task]:
        return [t for t in self.tasks(service_id) if wanted(t) and t.status.state == "running"]

    def tasks(self, service_id: str) -> list[Task]:
        tasks = self.view.tasks_of.get(service_id, {}).values()
        return sorted(tasks, key=lambda task: (task.slot, task.created_at, task.id))

    def get(self, service_id: str) -> Service:
        return self.view.services[service_id]

    def spread(self, service_id: str) -> dict[str, int]:
        """hostname -> running tasks of the service, nodes without any left out."""
        counts: dict[str, int] = {}
        for task in self.running(service_id):
            hostname = self.view.nodes[task.node_id].description.hostname
            counts[hostname] = counts.get(hostname, 0) + 1
        return dict(sorted(counts.items()))
