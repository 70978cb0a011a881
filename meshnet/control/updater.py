"""How the tasks of a service come under a new spec (swarmkit manager/orchestrator/update).

`advance` is a function of the service, the tasks in its places and the clock; like the orchestrator it keeps nothing.
An update begins when a wanted task is outdated and no update is noted; which tasks it made follows from when it began.

A place is *in flight* from when it gets its new task until that runs (or has ended, or is overdue) and the delay
has passed; as many are in flight as the parallelism allows. Outdated tasks that do not run are replaced at once.
A place *failed* if its new task ended by itself before or within the monitoring time after it ran, or did not run
before the deadline (beyond Swarm: there such a task stalls the update for ever). Too many failures pause the update,
roll it back, or are let pass. An update is complete when no task is outdated and the last new one was monitored.

Order stop-first ends the old task first; with start-first the old one stays until the new one runs, so for a while a
place has two tasks that are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from meshnet.control.defaults import deadline_of, restart_of, update_of
from meshnet.control.objects import ended_at, seconds, stamp
from meshnet.control.restart import ENDED_ALONE, restarts
from meshnet.control.view import alive, wanted
from meshnet.model import SECOND, Service, Task, UpdateConfig, UpdateStatus

Place = int | str
ACTIVE = ("updating", "rollback_started")
STOPPED = ("paused", "rollback_paused")


@dataclass(slots=True)
class Step:
    """What to do now: the service with its update's status, outdated tasks to end, places that get a new task, and
    when (seconds since the epoch) to look again if nothing happens before."""

    service: Service
    end: list[tuple[Place, Task]] = field(default_factory=list)
    start: list[Place] = field(default_factory=list)
    wake: float | None = None

    def look_again(self, at: float) -> None:
        self.wake = at if self.wake is None else min(self.wake, at)


@dataclass(frozen=True, slots=True)
class _Progress:
    """A place in this update: when its new task came to a result, and which task failed, if one did."""

    done_at: float | None
    failed: Task | None


def advance(
    service: Service, places: Mapping[Place, Mapping[str, Task]], outdated: Callable[[Task], bool], now: float
) -> Step:
    """The next step of the service's update, if one is needed."""
    return _Update(service, places, outdated, now).step()


class _Update:
    def __init__(
        self,
        service: Service,
        places: Mapping[Place, Mapping[str, Task]],
        outdated: Callable[[Task], bool],
        now: float,
    ) -> None:
        self.service = service
        self.places = places
        self.now = now
        self.old: dict[Place, list[Task]] = {}
        self.new: dict[Place, list[Task]] = {}
        for place, tasks in places.items():
            self.old[place], self.new[place] = [], []
            for task in tasks.values():
                if not outdated(task):
                    self.new[place].append(task)
                elif wanted(task):
                    self.old[place].append(task)
        self.made = Step(service)

    def step(self) -> Step:
        status = self.service.update_status
        state = status.state if status else ""
        for place in self.places:
            self._retire(place)
        if state in STOPPED:
            return self.made
        if state not in ACTIVE:
            begun = seconds(status.started_at) if status else self.now
            if not any(self._pending(place, begun) for place in self.places):
                return self.made
            started = UpdateStatus("updating", stamp(self.now), "", "update in progress")
            self.made.service = replace(self.service, update_status=started)
            self._replace(update_of(self.service.spec), self.now, {})
            return self.made
        assert status is not None
        self._go_on(status)
        return self.made

    def _retire(self, place: Place) -> None:
        """Ends outdated tasks that have a successor: at once those that do not run, the others once it runs."""
        new = [task for task in self.new[place] if wanted(task)]
        if not new or not self.old[place]:
            return
        runs = any(task.status.state == "running" for task in new)
        self.made.end += [(place, task) for task in self.old[place] if runs or task.status.state != "running"]

    def _go_on(self, status: UpdateStatus) -> None:
        rollback = status.state == "rollback_started"
        config = update_of(self.service.spec, rollback)
        begun = seconds(status.started_at)
        progress = {}
        for place, tasks in self.places.items():
            new = self._made(place, begun)
            if new:
                progress[place] = self._progress(new, tasks.values(), config)
        failed = [item.failed for item in progress.values() if item.failed is not None]
        concerned = {place for place, old in self.old.items() if old} | progress.keys()
        if failed and config.failure_action != "continue" and len(failed) / len(concerned) > config.max_failure_ratio:
            self._stop(status, config.failure_action, failed[-1])
            return
        self._replace(config, begun, progress)
        self._complete(status, config, progress)

    def _made(self, place: Place, begun: float) -> list[Task]:
        """The tasks that the update has made for a place."""
        return [task for task in self.new[place] if not task.created_at or seconds(task.created_at) >= begun]

    def _pending(self, place: Place, begun: float) -> bool:
        """Whether a place still needs a new task."""
        return bool(self.old[place]) and not self._has_successor(place) and not self._given_up(place, begun)

    def _progress(self, new: Iterable[Task], tasks: Iterable[Task], config: UpdateConfig) -> _Progress:
        results: list[float] = []
        failed = None
        for task in new:
            ran = seconds(task.running_since) if task.running_since else None
            ended = ended_at(task) if task.status.state in ENDED_ALONE else None
            if ended is not None and (ran is None or ended - ran <= config.monitor / SECOND):
                failed = task
            if ran is not None or ended is not None:
                results.append(min(at for at in (ran, ended) if at is not None))
            elif task.desired_state == "running" and alive(task):
                overdue = self._deadline(task, tasks)
                if overdue is not None and overdue <= self.now:
                    failed = task
                    results.append(overdue)
                elif overdue is not None:
                    self.made.look_again(overdue)
        return _Progress(min(results, default=None), failed)

    def _deadline(self, task: Task, tasks: Iterable[Task]) -> float | None:
        """When the task is overdue: so long after it was made and its predecessors had ended. None means never."""
        patience = deadline_of(self.service.spec.labels)
        if not patience:
            return None
        others = (ended_at(other) for other in tasks if other.id != task.id and not alive(other))
        return max([seconds(task.created_at) if task.created_at else self.now, *others]) + patience

    def _replace(self, config: UpdateConfig, begun: float, progress: Mapping[Place, _Progress]) -> None:
        """Gives new tasks to outdated places: to those without a running task at once, to others as there is room."""
        waiting: list[Place] = []
        flying = 0
        for place in sorted(self.places, key=lambda place: str(place).zfill(9)):
            item = progress.get(place)
            if item is not None:
                flying += self._flies(item, config)
            if not self._pending(place, begun):
                continue
            if any(task.status.state == "running" for task in self.old[place]):
                waiting.append(place)
            else:
                self._renew(place, "stop-first")
                flying += item is None
        waiting.sort(key=lambda place: place in progress)
        room = len(waiting) if config.parallelism == 0 else config.parallelism - flying
        for place in waiting[: max(0, room)]:
            # One that is tried again had a failure that the policy lets pass: then the old task stays no longer.
            self._renew(place, "stop-first" if place in progress else config.order)

    def _flies(self, item: _Progress, config: UpdateConfig) -> bool:
        if item.done_at is None:
            return True
        until = item.done_at + config.delay / SECOND
        if until > self.now:
            self.made.look_again(until)
        return until > self.now

    def _has_successor(self, place: Place) -> bool:
        return any(wanted(task) for task in self.new[place])

    def _given_up(self, place: Place, begun: float) -> bool:
        """Whether the new task of a place failed and the policy does not want another: the old one stays."""
        tasks = self.places[place].values()
        ended = [task for task in self._made(place, begun) if task.status.state in ENDED_ALONE]
        policy = restart_of(self.service.spec.task_template)
        return bool(ended) and not restarts(policy, max(ended, key=ended_at), tasks)

    def _renew(self, place: Place, order: str) -> None:
        """Starts a place's new task. Of the old ones only a running one may stay, and only with start-first."""
        for task in self.old[place]:
            if order != "start-first" or task.status.state != "running":
                self.made.end.append((place, task))
        self.made.start.append(place)

    def _stop(self, status: UpdateStatus, action: str, failed: Task) -> None:
        reason = f"due to failure or early termination of task {failed.id}"
        if failed.status.state not in ENDED_ALONE:
            reason = f"because task {failed.id} did not run within {deadline_of(self.service.spec.labels):g} s"
            reason += f": {failed.status.err}" if failed.status.err else ""
        rolling = status.state == "rollback_started"
        previous = self.service.previous_spec
        if action == "rollback" and not rolling and previous is not None:
            back = UpdateStatus("rollback_started", stamp(self.now), "", f"update rolled back {reason}")
            self.made.service = replace(
                self.service, spec=previous, previous_specs=self.service.previous_specs[1:], update_status=back
            )
            return
        word, state = ("rollback", "rollback_paused") if rolling else ("update", "paused")
        self.made.service = paused(self.service, state, f"{word} paused {reason}")

    def _complete(self, status: UpdateStatus, config: UpdateConfig, progress: Mapping[Place, _Progress]) -> None:
        if any(self._pending(place, seconds(status.started_at)) for place in self.places):
            return
        results = [item.done_at for item in progress.values()]
        if self.made.start or any(at is None for at in results):
            return
        last = max((at for at in results if at is not None), default=0.0)
        until = last if config.failure_action == "continue" else last + config.monitor / SECOND
        if until > self.now:
            self.made.look_again(until)
            return
        word, state = (
            ("rollback", "rollback_completed") if status.state == "rollback_started" else ("update", "completed")
        )
        done = UpdateStatus(state, status.started_at, stamp(self.now), f"{word} completed")
        self.made.service = replace(self.service, update_status=done)


def paused(service: Service, state: str, message: str) -> Service:
    """The service with its update stopped."""
    begun = service.update_status.started_at if service.update_status else ""
    return replace(service, update_status=UpdateStatus(state, begun, "", message))
