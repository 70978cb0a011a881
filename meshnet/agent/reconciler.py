"""The loop that makes the kernel what the node's plan says, and keeps it so.

It looks when something changed, and from time to time when nothing did: somebody else may have changed the kernel.
What the kernel refused is tried again soon. A look
takes longer the more there is: where many things change one after the other, several share one, so that looking takes a
small part of the time whatever there is. Who waits for a sandbox to be wired waits for a plan that was applied
with it, hears at once when that sandbox could not be wired, and does not wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from meshnet.datapath.base import Datapath
from meshnet.datapath.rows import Changes, Plan
from meshnet.errors import MeshnetError

log = logging.getLogger(__name__)


# Tables whose names are no plural of what is in them, or not a person's word for it.
_CALLED = {
    "attached": "attached tasks",
    "config": "settings",
    "published": "published ports",
    "rulesets": "firewall tables",
    "sysctls": "kernel settings",
}


class NotWiredError(MeshnetError):
    """A sandbox that the data path cannot wire."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds: between looks when nothing changes, before what failed is tried again, that a task waits to be wired,
    and to be closed before it is stopped all the same. After a look the next one is as many times its length away as
    `rest` says, and at most `longest`: tasks elsewhere that come or go wait until this node's kernel knows."""

    repair: float = 30.0
    retry: float = 0.5
    patience: float = 10.0
    closing: float = 2.0
    rest: float = 5.0
    longest: float = 0.1


def described(changes: Changes) -> str:
    """What a data path did, in words: `the kernel got 2 endpoints, 1 service; lost 1 backend`."""
    parts = [
        f"{verb} " + ", ".join(f"{count} {_counted(kind, count)}" for kind, count in sorted(counts.items()) if count)
        for verb, counts in (("got", changes.added), ("lost", changes.removed))
        if any(counts.values())
    ]
    return "the kernel " + "; ".join(parts)


def _counted(kind: str, count: int) -> str:
    """A table's name, which is a plural, as that many of its things are called."""
    name = _CALLED.get(kind, kind.replace("_", " "))
    return name.removesuffix("es" if name.endswith("sses") else "s") if count == 1 else name


class Reconciler:
    """`desired` makes the plan (given: task id -> path of its sandbox, and the ids of those that are closed); `looked`
    is called after each try, and told whether the plan was applied.

    `plan` is the last one that was applied as a whole.
    """

    def __init__(
        self,
        datapath: Datapath,
        desired: Callable[[Mapping[str, str], Set[str]], Plan],
        looked: Callable[[bool], None],
        pauses: Pauses | None = None,
    ) -> None:
        self.plan: Plan | None = None
        self._interfaces: Counter[str] = Counter()  # by task, in that plan
        self._datapath, self._desired, self._looked = datapath, desired, looked
        self._pauses = pauses or Pauses()
        self._sandboxes: dict[str, str] = {}
        self._closed: set[str] = set()
        self._changed = asyncio.Event()
        self._turn = asyncio.Condition()
        self._error = ""

    def changed(self) -> None:
        """Has the loop look soon."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Raises what is no MeshnetError: such a node must not go on half alive."""
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            fine = await self._reconcile()
            await asyncio.sleep(min((loop.time() - begin) * self._pauses.rest, self._pauses.longest))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pauses.repair if fine else self._pauses.retry):
                    await self._changed.wait()

    async def _reconcile(self) -> bool:
        self._changed.clear()
        error = ""
        try:
            plan = self._desired(dict(self._sandboxes), frozenset(self._closed))
            changes = await self._datapath.apply(plan)
        except MeshnetError as caught:
            error = str(caught)
            if error != self._error:
                log.error("%s; trying again every %g s", error, self._pauses.retry)
        else:
            if changes:
                log.info("%s", described(changes))
        self._looked(not error)
        async with self._turn:
            self._error = error
            if not error:
                self.plan = plan
                self._interfaces = Counter(row.task for row in plan.endpoints)
            self._turn.notify_all()
        return not error and not self._datapath.failed

    async def first(self) -> None:
        """Returns once a plan was applied."""
        async with self._turn:
            await self._turn.wait_for(lambda: self.plan is not None)

    def hold(self, task_id: str, netns: str) -> None:
        """Counts a sandbox that an earlier agent wired: no plan takes away what it has before `wire` is called."""
        self._sandboxes[task_id] = netns

    async def wire(self, task_id: str, netns: str, interfaces: int) -> None:
        """Returns once a plan with that many interfaces of the task was applied.

        NotWiredError if its sandbox cannot be wired, MeshnetError if no such plan was applied in time.
        """
        self._sandboxes[task_id] = netns

        def wired() -> bool:
            if netns in self._datapath.failed:
                raise NotWiredError(self._datapath.failed[netns])
            return self._interfaces[task_id] >= interfaces

        await self._until(wired, "wired", self._pauses.patience)

    async def close(self, task_id: str) -> None:
        """Returns once the kernel refuses new connections to the task, until it is unwired; MeshnetError if it does not
        in time."""
        if task_id in self._sandboxes:
            self._closed.add(task_id)
            await self._until(
                lambda: self.plan is not None and task_id in self.plan.closed, "closed", self._pauses.closing
            )

    async def unwire(self, task_id: str) -> None:
        """Returns once a plan without the task was applied; MeshnetError if none was in time."""
        self._closed.discard(task_id)
        if self._sandboxes.pop(task_id, None) is not None:
            await self._until(lambda: not self._interfaces[task_id], "taken out of the kernel", self._pauses.patience)

    async def _until(self, holds: Callable[[], bool], what: str, patience: float) -> None:
        self.changed()
        try:
            async with asyncio.timeout(patience), self._turn:
                await self._turn.wait_for(lambda: self.plan is not None and holds())
        except TimeoutError:
            unheard = "about the task's networks" if self.plan is not None else "anything yet"
            reason = self._error or f"the manager has not told this node {unheard}"
            raise MeshnetError(f"not {what} after {patience:g} s: {reason}") from None
