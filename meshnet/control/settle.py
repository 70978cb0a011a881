"""One round of the controllers: orchestrate what changed, give addresses, pick nodes. Pure; one transaction comes out.

The stages work on disjoint fields (which tasks exist, their addresses, their node), so each passes its tasks to the
next and a new task is usually `assigned` in the transaction that creates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshnet.control import operations
from meshnet.control.allocator import Ledger, give_node, give_task
from meshnet.control.objects import Changes, Object
from meshnet.control.orchestrator import reconcile
from meshnet.control.scheduler import Scheduler, outlived
from meshnet.control.updater import paused
from meshnet.control.view import View, wanted
from meshnet.errors import MeshnetError
from meshnet.model import Service, Task


@dataclass(frozen=True, slots=True)
class Round:
    """What to commit, and when (seconds since the epoch) to run again if nothing happens before."""

    changes: Changes
    wake: float | None


def settle(
    view: View, services: Iterable[str], ledger: Ledger, now: float, new_id: Callable[[], str], history: int
) -> Round:
    """Brings the services named to what they must be, and all waiting tasks as far as they can go."""
    put: dict[str, Task] = {}
    drop: dict[str, Task] = {}
    updated: list[Object] = []
    wake: float | None = None
    for service_id in sorted(services):
        outcome = reconcile(view, service_id, now, new_id, history)
        put.update(outcome.put)
        drop.update(outcome.drop)
        if outcome.service is not None:
            updated.append(_updated(view, ledger, outcome.service))
        if outcome.wake is not None:
            wake = outcome.wake if wake is None else min(wake, outcome.wake)
    waiting = [put.get(task.id, task) for task in view.waiting.values() if task.id not in drop]
    waiting += [task for task in put.values() if task.id not in view.tasks]
    gone = [*drop, *(task.id for task in put.values() if not wanted(task))]
    leaving = [view.tasks[ident] for ident in gone if ident in view.tasks]
    put.update(_place(view, waiting, leaving, ledger, now))
    written: list[Object] = [*put.values(), *updated]
    written += [given for node in view.nodes.values() if (given := give_node(ledger, node)) is not node]
    if written:
        written += ledger.cursors()
    return Round(Changes(tuple(written), tuple(drop.values())), wake)


def _updated(view: View, ledger: Ledger, service: Service) -> Service:
    """The service whose update got on; if it has another spec now, with what that needs. A rollback to a spec that
    cannot be had any more is a paused update that says so."""
    before = view.services[service.id]
    if service.spec == before.spec:
        return service
    try:
        return operations.respecified(view, service, service.spec, ledger)
    except MeshnetError as error:
        reason = service.update_status.message if service.update_status else ""
        reason = reason.replace("update rolled back", "update paused", 1)
        return paused(before, "paused", f"{reason}; it cannot be rolled back: {error}")


def _place(view: View, tasks: Iterable[Task], leaving: Iterable[Task], ledger: Ledger, now: float) -> dict[str, Task]:
    """Gives the tasks addresses and nodes, oldest and lowest slot first; only those that changed come back."""
    tasks = list(tasks)
    scheduler = Scheduler(view, now, leaving, outlived(view, tasks))
    placed: dict[str, Task] = {}
    for task in sorted(tasks, key=lambda item: (item.created_at or "~", item.service_id, item.slot, item.id)):
        service = view.services.get(task.service_id)
        if service is None or not wanted(task):
            continue
        before = task
        if task.status.state == "new":
            task = give_task(ledger, task, service, now)
        if task.status.state == "pending":
            task = scheduler.place(task, service)
        if task is not before:
            placed[task.id] = task
    return placed
