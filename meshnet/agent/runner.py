"""The life of one task on this node, from its assignment until nothing of it is left.

A sandbox (network namespace) is made and wired first, then the container starts in it; with a health check the
task joins its service when it is healthy, without one when it runs. Before a stop it leaves: its records say
`draining`, every live member has seen that (or a bound passed), its own node refuses new connections to it, and only
then the stop signal is sent; one that has not joined its service yet is stopped without that. A task that ends by
itself is withdrawn at once. Its sandbox stays until the members have seen that: until then it refuses connections,
where without it they would hang.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshnet import names
from meshnet.agent import templates
from meshnet.agent.containers import container_spec
from meshnet.agent.parts import Container, Host, Resolver
from meshnet.agent.reconciler import NotWiredError
from meshnet.agent.taskdir import Kept, TaskDirs
from meshnet.errors import MeshnetError, NoSpaceError, StartError
from meshnet.files import is_full
from meshnet.model import ContainerStatus, Task, TaskStatus, state_rank
from meshnet.sandbox.listening import wait_listening

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds. `on_the_way` lies between "no new connection reaches this task any more" and its stop signal: one that
    was opened just before has yet to send its request. `opening` is what a task without a health check gets to open its
    published ports before connections are sent to it anyway."""

    on_the_way: float = 0.2
    opening: float = 5.0


class EndedError(Exception):
    """The task is over: carries its last state and why."""

    def __init__(self, state: str, err: str = "", exit_code: int = 0) -> None:
        super().__init__(state)
        self.state, self.err, self.exit_code = state, err, exit_code


class Runner:
    """`start()` begins the life, `update()` brings a new desired state, `finished` is set when all is cleaned up."""

    def __init__(
        self,
        host: Host,
        dirs: TaskDirs,
        resolver: Resolver,
        task: Task,
        kept: Kept | None = None,
        pauses: Pauses | None = None,
        listening: Callable[[int, set[tuple[str, int]], float], Awaitable[bool]] = wait_listening,
    ) -> None:
        self.task = task
        self.resolver = resolver
        self.netns = names.netns_path(names.task_netns(host.lab, host.node, task.id))
        self.container_id = kept.container_id if kept else os.urandom(32).hex()
        self.status = task.status
        self._host, self._dirs, self._kept = host, dirs, kept
        self._pauses = pauses or Pauses()
        self._listening = listening
        self._container: Container | None = None
        self._started = kept is not None
        self._serving = kept is not None and kept.serving
        self._unconfirmed = False  # some live member did not say that it knows that the task drains
        self._stop_wanted = asyncio.Event()
        if kept is not None and kept.leaving:
            self._stop_wanted.set()
        self._health_changed = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    @property
    def hostname(self) -> str:
        """As the service says, with its placeholders filled in; by default the container's short id."""
        values = templates.fields(self.task, self._host.service_of(self.task), self._host.node)
        return templates.expand(self.task.spec.container_spec.hostname, values) or self.container_id[:12]

    @property
    def container(self) -> Container | None:
        """The task's container, from its creation on."""
        return self._container

    @property
    def finished(self) -> bool:
        return self._life is not None and self._life.done()

    def start(self) -> None:
        if self._kept is not None and self._host.spaces.exists(os.path.basename(self.netns)):
            # The first plan may be made before the task is taken up; what it has in the kernel stays.
            self._host.hold(self.task, self.netns)
        self._life = asyncio.create_task(self._live(), name=f"task {self.task.id}")

    def announce(self) -> None:
        """Tells the other members of a task that an earlier agent left, as what they know it as already."""
        assert self._kept is not None
        self._host.publish(self.task, self._kept.announced, self.hostname, self.container_id)

    def update(self, task: Task | None) -> None:
        """Takes the manager's latest word; None means that the task is no longer assigned here."""
        if task is not None:
            self.task = task
        if task is None or state_rank(task.desired_state) > state_rank("running"):
            self._stop_wanted.set()

    async def done(self) -> None:
        if self._life is not None:
            await asyncio.wait([self._life])

    async def abandon(self) -> None:
        """Ends the watching, not the task: the agent stops, the task goes on and is adopted later."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._container is not None:
            self._container.release()
        await self.resolver.stop()

    async def _live(self) -> None:
        try:
            if not await self._cut_short(self._begin()):
                await self._serve()
            await self._leave()
            end = EndedError("shutdown")
        except EndedError as ended:
            end = ended
        except MeshnetError as error:
            failed = self._started or isinstance(error, StartError)
            end = EndedError("failed" if failed else "rejected", str(error))
        except Exception as error:  # whatever it is ends this task alone, and is told
            if isinstance(error, OSError) and is_full(error):
                place = os.path.dirname(error.filename or "") or str(self._dirs.path(self.task.id))
                end = EndedError("failed" if self._started else "rejected", str(NoSpaceError(place)))
            else:
                log.exception("task %s", self.task.id)
                end = EndedError("failed", f"{type(error).__name__}: {error}")
        await self._clean(end)

    async def _cut_short(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs a step of the start; a wish to stop ends it in the middle, and then this is true."""
        step = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop_wanted.wait())
        try:
            await asyncio.wait([step, stop], return_when=asyncio.FIRST_COMPLETED)
            if step.done():
                step.result()
            return not step.done()
        finally:
            for future in (step, stop):
                future.cancel()
            await asyncio.gather(step, stop, return_exceptions=True)

    async def _begin(self) -> None:
        if self._kept is not None:
            await self._adopt()
            return
        self._say("accepted")
        self._keep()
        self._say("preparing")
        self._host.spaces.create(os.path.basename(self.netns))
        await self._host.wire(self.task, self.netns)
        await self.resolver.start(self.netns)
        self._host.publish(self.task, "starting", self.hostname, self.container_id)
        spec = container_spec(self._host, self.task, self, self._dirs.container(self.task.id))
        self._container = await self._host.containers.create(spec, self._host.files(self.task))
        self._host.happened(spec, "create")
        self._container.on_health(self._health_is)
        self._say("ready")
        self._say("starting")
        self._started = True
        await self._container.start()
        self._host.happened(spec, "start")
        await self._join_service()

    async def _adopt(self) -> None:
        """Takes over what a previous agent started. It must look as if nothing had happened."""
        assert self._kept is not None
        if not self._host.spaces.exists(os.path.basename(self.netns)):
            raise EndedError("failed", "its network namespace is gone")
        self._container = await self._host.containers.adopt(self._dirs.container(self.task.id))
        if self._container is None:
            raise EndedError("failed", "its container is gone")
        self._container.on_health(self._health_is)
        self.announce()
        await self.resolver.start(self.netns)  # names are known at once, also without a manager
        try:
            await self._host.wire(self.task, self.netns)
        except NotWiredError:
            raise
        except MeshnetError as error:
            log.error("task %s goes on with what the kernel holds: %s", self.task.id, error)
        await self._join_service()

    def _health_is(self, status: str) -> None:
        self._health_changed.set()
        if self._container is not None:
            self._host.happened(self._container.spec, f"health_status: {status}")

    async def _join_service(self) -> None:
        """Waits until the task is healthy (without a check: until its published ports are open), then it takes part."""
        assert self._container is not None
        exited = asyncio.ensure_future(self._container.wait())
        judged = asyncio.ensure_future(self._fit())
        try:
            await asyncio.wait([exited, judged], return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise _exit(exited.result())
            if not judged.result():
                raise EndedError("failed", "task: unhealthy container")
        finally:
            exited.cancel()
            judged.cancel()
        self._serving = True
        self._keep()
        record = self._host.publish(self.task, "ready", self.hostname, self.container_id)
        if self.status.state != "running":
            # "Running" is what people and tests wait for: then every node leads here.
            await self._host.in_force(record)
            self._say("running", "started")

    async def _fit(self) -> bool:
        """Whether the task can take connections, once that is known."""
        assert self._container is not None
        if self._container.health != "none":
            return await self._health_in("healthy", "unhealthy") == "healthy"
        service = self._host.service_of(self.task)
        ports = {(p.protocol, p.target_port) for p in service.endpoint.ports} if service else set()
        if not await self._listening(self._container.pid, ports, self._pauses.opening):
            log.warning("task %s: its published ports are not open after %g s", self.task.id, self._pauses.opening)
        return True

    async def _health_in(self, *wanted: str) -> str:
        """Waits until the container's health is one of `wanted`."""
        assert self._container is not None
        while self._container.health not in wanted:
            self._health_changed.clear()
            await self._health_changed.wait()
        return self._container.health

    async def _serve(self) -> None:
        """Until it is to stop. Raises EndedError when the task ends, or has become unhealthy and was stopped."""
        assert self._container is not None
        exited = asyncio.ensure_future(self._container.wait())
        unhealthy = asyncio.ensure_future(self._health_in("unhealthy"))
        stop = asyncio.ensure_future(self._stop_wanted.wait())
        try:
            await asyncio.wait([exited, unhealthy, stop], return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise _exit(exited.result())
            if unhealthy.done():
                await self._leave()
                raise EndedError("failed", "task: unhealthy container")
        finally:
            for future in (exited, unhealthy, stop):
                future.cancel()

    async def _leave(self) -> None:
        """Leaves the service before the stop signal: no client may meet a task that is going down.

        Who found it by its own name, and still knows it, is refused before instead of being cut off after: such a
        client (HAProxy, whoever has other addresses) asks the next one and has lost nothing.
        """
        if self._container is None or not self._started:
            return
        self._note_leaving()
        if self._serving:
            record = self._host.publish(self.task, "draining", self.hostname, self.container_id)
            self._unconfirmed = not await self._host.in_force(record)
            if self._unconfirmed:
                log.warning("task %s: not every member confirmed that it drains", self.task.id)
            await self._tried(self._host.close(self.task), "it is stopped while new connections still reach it")
            await asyncio.sleep(self._pauses.on_the_way)
        await self._container.stop()

    async def _clean(self, end: EndedError) -> None:
        """Takes everything away, whatever fails on the way, and says how the task ended."""
        record = self._host.withdraw(self.task)
        removed = self._container is None or await self._tried(self._container.end())
        if self._container is not None and self._started:
            self._host.happened(self._container.spec, "die", exitCode=str(self._container.exit_code or 0))
        self.status = TaskStatus(
            timestamp=now(),
            state=end.state,
            message=self._message(end.state),
            err=end.err,
            container_status=ContainerStatus(self.container_id, 0, end.exit_code),
        )
        # Its successor is waited for, unless it was ordered: then the manager may take it, and its networks, from this
        # node at once. Who has not confirmed that it drains is not waited for once more.
        at_once = not self._stop_wanted.is_set() or self._unconfirmed
        if at_once:
            self._host.report(self.task, self.status)
        await self._tried(self.resolver.stop())
        if self._serving:
            await self._tried(self._host.in_force(record))
        if not at_once:
            self._host.report(self.task, self.status)
        await self._tried(self._host.unwire(self.task))
        try:
            self._host.spaces.delete(os.path.basename(self.netns))
        except OSError as error:
            log.error("task %s: its network namespace stays: %s", self.task.id, error)
        if not removed:  # the next agent adopts what is left, and tries again
            return
        if self._container is None or not self._started:
            self._dirs.remove(self.task.id)
            return
        kept = Kept(self.task, self.container_id, False, self.status)
        self._dirs.retire(kept)
        self._host.ended(kept)

    def _message(self, state: str) -> str:
        """Swarm's word with a last state: of a task that failed, the step that it failed in."""
        failed = "started" if self.status.state == "running" else "starting"
        return {"shutdown": "shutdown", "complete": "finished", "rejected": "preparing"}.get(state, failed)

    async def _tried(self, work: Coroutine[Any, Any, object], what: str = "cleaning up") -> bool:
        """Whether a step of the stop or the cleaning up was done; if not, the log says why, and the others follow."""
        try:
            await work
        except MeshnetError as error:
            log.error("task %s: %s: %s", self.task.id, what, error)
            return False
        except Exception:  # a fault in one step must not leave the rest of a task behind
            log.exception("task %s: %s", self.task.id, what)
            return False
        return True

    def _note_leaving(self) -> None:
        """An agent that takes over in the middle of a stop goes on with it, also before it hears from the manager."""
        try:
            if self._stop_wanted.is_set():
                self._keep()
        except OSError as error:  # a full disk keeps nobody from being stopped
            log.warning("task %s: that it is being stopped cannot be kept: %s", self.task.id, error)

    def _keep(self) -> None:
        leaving = self._stop_wanted.is_set()
        self._dirs.write(Kept(self.task, self.container_id, self._serving, leaving=leaving))

    def _say(self, state: str, message: str = "") -> None:
        pid = self._container.pid if self._container is not None else 0
        self.status = TaskStatus(now(), state, message or state, "", ContainerStatus(self.container_id, pid, 0))
        self._host.report(self.task, self.status)


def _exit(code: int) -> EndedError:
    return EndedError("complete") if code == 0 else EndedError("failed", f"task: non-zero exit ({code})", code)


def now() -> str:
    """The present as the Engine API writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
