"""Whether a service is what it was asked to be: how many of its tasks run, and what the others are doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from meshnet.control.constraints import satisfied
from meshnet.control.defaults import same
from meshnet.control.scheduler import eligible
from meshnet.errors import MeshnetError
from meshnet.lab.engine import PAUSE, Engine
from meshnet.lab.references import with_ids
from meshnet.lab.spec import Lab
from meshnet.model import TERMINAL_STATES, Node, Service, Task, UpdateStatus, state_rank

PATIENCE = 60.0
# s that the same tasks must have run: what ends at once is seen running first, what ended before may end again.
SETTLED, SETTLED_AFTER_FAILURE = 0.1, 1.0
# A slot that failed so often keeps failing, unless it may only be waiting for another service, for so many s.
ENDED = frozenset({"complete", "failed", "rejected"})
RAN = frozenset({"running", "complete", "shutdown"})
MANY_FAILURES, TROUBLED = 3, 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`running` of `wanted` tasks; `states` per slot (or node, for a global service); `error` the newest failure
    since which nothing ran in its slot; `back` why its update is taken back, while it is."""

    service: str
    running: int
    wanted: int
    states: dict[str, str]
    error: str = ""
    back: str = ""

    @property
    def converged(self) -> bool:
        return self.running == self.wanted

    def __str__(self) -> str:
        waiting = {slot: state for slot, state in self.states.items() if state != "running"}
        shown = ", ".join(f"{slot} {state}" for slot, state in sorted(waiting.items())[:4])
        line = f"{self.service}: {self.running} of {self.wanted} tasks"
        return line + (f" ({shown})" if shown else "") + (f": {self.error}" if self.error else "")


def progress(service: Service, tasks: Sequence[Task], nodes: Sequence[Node], updated: bool = False) -> Progress:
    """How far a service is. A task counts as running only on a node that is ready, as in `docker service ls`.

    Tasks of a job count once they are complete. With `updated`, only tasks of the service's present spec count, and
    those before it are still to go.
    """
    if service.spec.mode.job:
        return _job(service, tasks, nodes)
    ready = {node.id: node for node in nodes if node.status.state == "ready"}
    mine = [task for task in tasks if task.service_id == service.id]
    wanted = [task for task in mine if task.desired_state not in TERMINAL_STATES]
    names = {node.id: node.description.hostname for node in nodes}
    states: dict[str, str] = {}
    for task in sorted(wanted, key=lambda task: state_rank(task.status.state)):
        states[str(task.slot) if task.slot else names.get(task.node_id, task.node_id)] = task.status.state
    old = [task for task in wanted if updated and not _follows(task, service, nodes)]
    running = sum(task.status.state == "running" and task.node_id in ready for task in wanted if task not in old)
    if service.spec.mode.replicated is not None:
        target = service.spec.mode.replicated.replicas
    else:
        constraints = service.spec.task_template.placement.constraints
        target = sum(eligible(node, constraints) for node in nodes)
    newest = max(_failures(mine) if running < target else [], key=lambda task: task.status.timestamp, default=None)
    status = service.update_status
    back = status.message if status is not None and status.state == "rollback_started" else ""
    return Progress(service.spec.name, running, target, states, newest.status.err if newest else "", back)


def _place(task: Task) -> tuple[int, str]:
    """The slot of a task; of a global service's, its node."""
    return task.slot, "" if task.slot else task.node_id


def _failures(tasks: Sequence[Task]) -> list[Task]:
    """Per slot (or node) the newest failure, if no later task of it ran."""
    last: dict[tuple[int, str], Task] = {}
    for task in sorted(tasks, key=lambda task: task.created_at or "~", reverse=True):
        if task.status.err or task.status.state in RAN:
            last.setdefault(_place(task), task)
    return [task for task in last.values() if task.status.err]


def _job(service: Service, tasks: Sequence[Task], nodes: Sequence[Node]) -> Progress:
    """How far the present run of a job is: its tasks count once they are complete."""
    run = service.job_status.job_iteration if service.job_status else None
    mine = [task for task in tasks if task.service_id == service.id and task.job_iteration == run]
    names = {node.id: node.description.hostname for node in nodes}
    job = service.spec.mode.replicated_job
    if job is not None:
        target = job.total_completions or 0
    else:
        constraints = service.spec.task_template.placement.constraints
        target = sum(eligible(node, constraints) for node in nodes)
    done = sum(task.status.state == "complete" for task in mine)
    states = {str(task.slot + 1) if job else names.get(task.node_id, task.node_id): task.status.state for task in mine}
    failures = [task for task in mine if task.status.err and done < target]
    newest = max(failures, key=lambda task: task.status.timestamp, default=None)
    return Progress(service.spec.name, done, target, states, newest.status.err if newest else "")


def _follows(task: Task, service: Service, nodes: Sequence[Node]) -> bool:
    """Whether the manager leaves the task as it is: another placement alone replaces none whose node satisfies it."""
    template = service.spec.task_template
    if not same(replace(task.spec, placement=template.placement), template):
        return False
    constraints = template.placement.constraints
    node = next((node for node in nodes if node.id == task.node_id), None)
    return same(task.spec, template) or (node is not None and satisfied(constraints, node))


def wait(
    engine: Engine,
    names: Sequence[str],
    heard: Callable[[list[Progress]], None],
    timeout: float = PATIENCE,
    advice: str = "; see: meshnet service ps ",
) -> None:
    """Waits until services run as wanted; `heard` is told what every look has found.

    Raises MeshnetError with the last state of the first that did not converge in `timeout` seconds, or why one keeps
    failing or has its update paused, and with `advice` and the service's name behind that.
    """
    begun = time.monotonic()
    watch = Watch()
    old: set[str] | None = None
    while True:
        tasks, nodes = engine.tasks(), engine.nodes()
        services = {service.spec.name: service for service in engine.services() if service.spec.name in names}
        found = [progress(services[name], tasks, nodes, updated=True) for name in names if name in services]
        heard(found)
        lagging = [one for one in found if not one.converged]
        now = time.monotonic()
        mine = [task for task in tasks if any(task.service_id == service.id for service in services.values())]
        settled = watch.settled(mine, now)
        old = {task.id for task in mine if task.status.state in ENDED} if old is None else old
        new = [task for task in mine if task.id not in old]
        if settled and not lagging:
            return
        for service in services.values():
            status = service.update_status
            if lagging and status is not None and status.state.endswith("paused"):
                raise MeshnetError(f"{service.spec.name}: {status.message}{advice and advice + service.spec.name}")
        for service in services.values() if now > begun + TROUBLED or now > begun + timeout else ():
            if (lagging or not settled) and (failure := keeps_failing(service, new)):
                name = service.spec.name
                raise MeshnetError(f"{name} keeps failing: {failure}{advice and advice + name}")
        if lagging and now > begun + timeout:
            name = lagging[0].service
            raise MeshnetError(f"not converged after {timeout:g} s: {lagging[0]}{advice and advice + name}")
        time.sleep(2 * PAUSE)


def gone_back(engine: Engine, name: str, timeout: float = PATIENCE) -> UpdateStatus | None:
    """The status of a service's update once it is on its way back no more: its tasks run before that, and are monitored
    for a while, as Swarm does. After `timeout` seconds the status is returned as it is."""
    deadline = time.monotonic() + timeout
    while True:
        status = engine.service(name).update_status
        if status is None or status.state != "rollback_started" or time.monotonic() > deadline:
            return status
        time.sleep(2 * PAUSE)


class Watch:
    """Whether services stay what they are: looked at from time to time."""

    def __init__(self) -> None:
        self._running: frozenset[str] = frozenset()
        self._since = 0.0

    def settled(self, tasks: Sequence[Task], now: float) -> bool:
        """Whether the same of these tasks have run for a while at `now` (s), longer if one of them failed."""
        running = frozenset(task.id for task in tasks if task.status.state == "running")
        if running != self._running:
            self._running, self._since = running, now
        failed = any(task.status.state in ENDED for task in tasks)
        return not running or now - self._since >= (SETTLED_AFTER_FAILURE if failed else SETTLED)


def keeps_failing(service: Service, tasks: Sequence[Task]) -> str:
    """Why the slot of a service's present spec that failed often failed last; "" if there is none."""
    failed: dict[tuple[int, str], list[Task]] = {}
    for task in tasks:
        if task.service_id == service.id and task.status.state in ENDED and same(task.spec, service.spec.task_template):
            failed.setdefault(_place(task), []).append(task)
    worst = max(failed.values(), key=len, default=[])
    if len(worst) < MANY_FAILURES:
        return ""
    return max(worst, key=lambda task: task.status.timestamp).status.err or "it ended"


def summary(found: Sequence[Progress]) -> str:
    """Several services in a line."""
    lagging = [one for one in found if not one.converged]
    line = f"{sum(one.running for one in found)} of {sum(one.wanted for one in found)} tasks run"
    if lagging:
        line += f", waiting for {', '.join(one.service for one in lagging)}"
    return line + next((f": {one.error}" for one in lagging if one.error), "")


def deploy(engine: Engine, lab: Lab, heard: Callable[[list[Progress]], None]) -> None:
    """Creates a lab's networks, secrets, configs and services and waits until they run. Raises MeshnetError."""
    for network in lab.networks:
        engine.create_network(network)
    secrets = {spec.name: engine.create_file(spec) for spec in lab.secrets}
    configs = {spec.name: engine.create_file(spec) for spec in lab.configs}
    for service in lab.services:
        engine.create_service(with_ids(service, secrets, configs))
    wait(engine, [service.name for service in lab.services], heard, advice="")  # a lab that fails is taken down


def wait_rotated(engine: Engine, timeout: float = PATIENCE) -> None:
    """Waits until every node of a swarm trusts its new CA. Raises MeshnetError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while engine.get("/swarm")["RootRotationInProgress"]:
        if time.monotonic() > deadline:
            raise MeshnetError(
                f"after {timeout:g} s not all nodes have certificates of the new CA; see: meshnet node ls"
            )
        time.sleep(2 * PAUSE)
