"""A container that a person started by themselves: created first, started and stopped any number of times.

Its addresses come from the manager as those of a task without a service, and only while it runs. What it writes into
its own file system goes when it ends, as a task's does; volumes stay. It outlives its agent, and is adopted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshnet import names
from meshnet.agent import hostports, restarting
from meshnet.agent.hostports import PortWish
from meshnet.agent.restarting import RestartPolicy
from meshnet.codec import from_json, to_json
from meshnet.containerspec import DNSConfig
from meshnet.control.attachments import Attach, Wish
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.files import replace_text
from meshnet.model import Assignments, PortConfig, Task
from meshnet.sandbox import runtime
from meshnet.sandbox import spec as specs
from meshnet.sandbox.attaching import Attachment
from meshnet.sandbox.container import KILLED, Container
from meshnet.sandbox.spec import ContainerSpec

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent
    from meshnet.agent.resolver import TaskResolver

log = logging.getLogger(__name__)
FILE = "standalone.json"
NOT_STARTED = 127
NONE, HOST, BRIDGE = "none", "host", "bridge"


@dataclass(slots=True)
class Kept:
    """What is kept of it on disk. `mode` is none, host, bridge or the name of a network; `task` its attachment."""

    spec: ContainerSpec
    mode: str
    networks: tuple[Wish, ...] = ()
    auto_remove: bool = False
    dns: DNSConfig = DNSConfig()
    created: float = field(default_factory=time.time)
    task: Task | None = None
    ports: tuple[PortWish, ...] = ()
    published: tuple[PortConfig, ...] = ()  # what became of `ports`, while it runs
    restart: RestartPolicy = RestartPolicy()
    restarts: int = 0  # by its policy, since somebody started it
    begun: bool = False  # somebody has started it
    stopped: bool = False  # and stopped it

    def dump(self) -> str:
        return json.dumps(
            {
                "spec": specs.dump(self.spec),
                "mode": self.mode,
                "networks": [to_json(wish) for wish in self.networks],
                "auto_remove": self.auto_remove,
                "dns": to_json(self.dns),
                "created": self.created,
                "task": to_json(self.task) if self.task is not None else None,
                "ports": [to_json(port) for port in self.ports],
                "published": [to_json(port) for port in self.published],
                "restart": to_json(self.restart),
                "restarts": self.restarts,
                "begun": self.begun,
                "stopped": self.stopped,
            }
        )

    @classmethod
    def load(cls, text: str) -> Kept:
        """Reads what `dump` wrote. ValueError, KeyError, TypeError or MeshnetError if the text is not that."""
        values: dict[str, Any] = json.loads(text)
        task = values["task"]
        return cls(
            specs.load(values["spec"]),
            values["mode"],
            tuple(from_json(Wish, wish) for wish in values["networks"]),
            values["auto_remove"],
            from_json(DNSConfig, values.get("dns", {})),
            values["created"],
            from_json(Task, task) if task is not None else None,
            tuple(from_json(PortWish, port) for port in values.get("ports", ())),
            tuple(from_json(PortConfig, port) for port in values.get("published", ())),
            from_json(RestartPolicy, values.get("restart", {})),
            int(values.get("restarts", 0)),
            bool(values.get("begun", False)),
            bool(values.get("stopped", False)),
        )


class Standalone:
    """One such container on one node."""

    def __init__(self, agent: Agent, kept: Kept) -> None:
        self.kept = kept
        self.container: Container | None = None
        self.ended = asyncio.Event()  # set while it does not run
        self.ended.set()
        self.runs = 0
        self.resolver: TaskResolver | None = None
        self.taken_up = True
        self.staying = False  # it is being restarted: its end does not remove it
        self._agent = agent
        self._lock = asyncio.Lock()
        self._starts: list[asyncio.Future[Container | None]] = []
        self._waiting: list[asyncio.Future[Attachment]] = []
        self._watching: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._in_a_row = 0
        self._delayed = False
        self._ending = False

    @property
    def reachable(self) -> bool:
        """Whether connections may be sent to it. One of an earlier agent is, until it is known what became of it."""
        return not self.taken_up or (self.container is not None and self.container.status == "running")

    @property
    def restarting(self) -> bool:
        """Whether it waits to be started again."""
        return self._again is not None and not self._again.done() and self.ended.is_set()

    @property
    def id(self) -> str:
        return self.kept.spec.id

    @property
    def place(self) -> Path:
        return self._agent.run_dir / "containers" / self.id

    def keep(self) -> None:
        """Writes what must last."""
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_text(self.place / FILE, self.kept.dump())

    def attached(self) -> asyncio.Future[Attachment]:
        """A connection to its streams, at once or as soon as it is about to be started."""
        future: asyncio.Future[Attachment] = asyncio.get_running_loop().create_future()
        if self.container is not None and self.container.status != "exited":
            future.set_result(Attachment(self.kept.spec.dir))
        else:
            self._waiting.append(future)
        return future

    async def next_exit(self) -> int:
        """The exit code of the present run, or of the next one if it does not run; 127 if it cannot be started."""
        container = self.container
        if container is None:
            future: asyncio.Future[Container | None] = asyncio.get_running_loop().create_future()
            self._starts.append(future)
            container = await future
        return await container.wait() if container is not None else NOT_STARTED

    async def start(self) -> bool:
        """Runs it; False if it runs already. Raises MeshnetError for what keeps it from starting."""
        self.check_taken_up()
        if self.container is not None and self.container.status == "exited":
            await self.ended.wait()  # what the last run had is being taken away
        if not self.ended.is_set():
            return False
        await self._no_restart()
        self._check_startable()
        kept = self.kept
        kept.begun, kept.stopped, kept.restarts, self._in_a_row = True, False, 0, 0
        self.keep()
        return await self._start()

    async def halt(self) -> None:
        """Somebody is about to end it: it is not started again until they start it. A start on its way is done then."""
        self.check_taken_up()
        self.kept.stopped = True
        await self._no_restart()
        async with self._lock:
            pass
        if self.place.exists():
            self.keep()

    def check_taken_up(self) -> None:
        """MeshnetError (503) while it is not known yet what became of one that an earlier agent has left."""
        if not self.taken_up:
            text = f"container {self.kept.spec.name}: its node has just started and has not taken it up; try again"
            raise MeshnetError(text, 503)

    def _check_startable(self) -> None:
        """It may have been removed, and its node may have begun to end, while its turn was waited for."""
        if self._agent.standalones.get(self.id) is not self:
            raise NotFoundError(f"No such container: {self.id}")
        if self._ending:
            raise ConflictError(f"container {self.kept.spec.name} cannot be started: its node ends")

    async def _no_restart(self) -> None:
        """No restart is on its way then: one that has begun is done, and it may run."""
        if self._again is not None and not self._again.done():
            if self._delayed:
                self._again.cancel()
            await asyncio.wait({self._again})

    async def _start(self) -> bool:
        async with self._lock:
            if not self.ended.is_set():
                return False
            self._check_startable()
            shutil.rmtree(self.kept.spec.dir, ignore_errors=True)
            try:
                await self._bring_up()
            except BaseException:
                await asyncio.shield(self._give_up())
                raise
            self.ended.clear()
            self.runs += 1
            self._watch()
            return True

    async def _bring_up(self) -> None:
        agent, kept = self._agent, self.kept
        await self._wire()
        spec = kept.spec
        if kept.task is not None:
            address = kept.task.networks_attachments[0].address
            spec = dataclasses.replace(spec, hosts=f"{spec.hosts}{address}\t{spec.hostname}\n")
        self.container = await agent.containers.create(spec)
        for future in [one for one in self._waiting if not one.done()]:
            future.set_result(Attachment(spec.dir))
        self._waiting.clear()
        await self.container.start()
        self._told(self.container)
        self._publish("ready")
        agent.happened(spec, "start")

    def _told(self, container: Container | None) -> None:
        for future in [one for one in self._starts if not one.done()]:
            future.set_result(container)
        self._starts.clear()

    async def _give_up(self) -> None:
        """It cannot be started: whoever waits for it hears so, and one that removes itself is gone."""
        await self._take_down()
        self.container = None
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self.kept.auto_remove:
            self.forget()
        self._told(None)

    async def _wire(self) -> None:
        """Its namespace with its addresses; the node's own for `host`."""
        agent, kept = self._agent, self.kept
        if kept.mode == HOST:
            return
        agent.spaces.create(os.path.basename(kept.spec.netns))
        if not kept.networks:
            return
        kept.published = hostports.choose(kept.ports, hostports.taken(agent, self), kept.spec.name)
        kept.task = await agent.manager.attach(Attach(self.id, kept.networks))
        self.keep()
        self._publish("starting")
        await agent.host.wire(kept.task, kept.spec.netns)
        self.resolver = agent.picture.new_resolver(kept.dns)
        await self.resolver.start(kept.spec.netns)
        self.resolver.set_zone(agent.picture.zone_of(kept.task))

    def _publish(self, state: str) -> None:
        if self.kept.task is not None:
            self._agent.host.publish(self.kept.task, state, self.kept.spec.hostname, self.id)

    async def change_networks(self, networks: tuple[Wish, ...]) -> None:
        """Puts it on these networks; one that runs at once. Raises MeshnetError, and then nothing has changed."""
        if self.kept.mode == HOST:
            raise ConflictError("container sharing network namespace with another container or host cannot be changed")
        self.check_taken_up()
        async with self._lock:
            kept, agent = self.kept, self._agent
            if not self.ended.is_set():
                if not networks:
                    raise MeshnetError("a container that runs cannot leave its only network; stop it first", 501)
                before = kept.task
                kept.task = await agent.manager.attach(Attach(self.id, networks))
                for item in before.networks_attachments if before is not None else ():
                    if all(item.network_id != now.network_id for now in kept.task.networks_attachments):
                        agent.neighbours.withdraw(item.network_id, kept.task.id)
                self._publish("ready")
                await agent.host.wire(kept.task, kept.spec.netns)
            kept.networks = networks
            self.keep()

    def _watch(self) -> None:
        self._watching = asyncio.create_task(self._end_with_program(), name=f"container {self.kept.spec.name}")

    async def _end_with_program(self) -> None:
        assert self.container is not None
        begun = time.time()
        code = await self.container.wait()
        async with self._lock:  # a change of its networks would go on with what is taken down
            await self._take_down()
            self._agent.happened(self.kept.spec, "die", exitCode=str(code))
            if time.time() - begun > restarting.STEADY:
                self._in_a_row = 0
            kept = self.kept
            if not kept.stopped and not self._ending and restarting.again(kept.restart, code, kept.restarts):
                self._begin_again()
            self.container = None
            self.ended.set()
            if self.kept.auto_remove and not self.staying:
                self.forget()
                self._agent.happened(self.kept.spec, "destroy")

    def _begin_again(self) -> None:
        self._delayed = True
        self._again = asyncio.create_task(self._restart(), name=f"restart of {self.kept.spec.name}")

    async def _restart(self) -> None:
        """Starts it after a delay; one that cannot be started has failed, and is tried again as its policy says."""
        kept = self.kept
        while True:
            self._in_a_row += 1
            self._delayed = True
            await asyncio.sleep(restarting.delay(self._in_a_row))
            self._delayed = False
            kept.restarts += 1
            try:
                await self._start()
            except MeshnetError as error:
                log.warning("container %s cannot be started again: %s", kept.spec.name, error)
                if kept.stopped or self._ending or not restarting.again(kept.restart, NOT_STARTED, kept.restarts):
                    return
            else:
                self.keep()
                return

    async def _take_down(self) -> None:
        """Takes away what a run had; its log and how it ended stay."""
        agent, kept = self._agent, self.kept
        if kept.task is not None:
            agent.host.withdraw(kept.task)
        steps = [self.container.end()] if self.container is not None else []
        steps += [self.resolver.stop()] if self.resolver is not None else []
        steps += [agent.host.unwire(kept.task), agent.manager.detach(kept.task.id)] if kept.task is not None else []
        for step in steps:
            try:
                await step
            except (MeshnetError, OSError) as error:
                log.error("container %s: cleaning up: %s", kept.spec.name, error)
        self.resolver, kept.task, kept.published = None, None, ()
        if kept.mode != HOST:
            agent.spaces.delete(os.path.basename(kept.spec.netns))
        if self.place.exists():
            self.keep()

    async def resume(self) -> None:
        """After a restart of the agent: takes over what runs, and takes down what has ended."""
        async with self._lock:
            if self.taken_up:
                return
            await self._take_up()
            if self.container is None:
                self._begin_again_at_boot()
            elif self.kept.task is not None and self.container.status == "running":
                self._publish("ready")
                self.resolver = self._agent.picture.new_resolver(self.kept.dns)
                await self.resolver.start(self.kept.spec.netns)
                await self._agent.host.wire(self.kept.task, self.kept.spec.netns)

    async def _take_up(self) -> None:
        """Watches what runs of it, or takes away what is left of it."""
        self.container = await self._agent.containers.adopt(self.kept.spec.dir)
        self.taken_up = True
        if self.container is not None:
            self.ended.clear()
            self._watch()
        elif self.kept.task is not None:
            await self._take_down()

    def _begin_again_at_boot(self) -> None:
        kept = self.kept
        code = runtime.exit_code(kept.spec.dir)
        if kept.begun and restarting.at_boot(
            kept.restart, kept.stopped, KILLED if code is None else code, kept.restarts
        ):
            self._begin_again()

    async def stop(self) -> None:
        """Ends it in order, if it runs: its node ends, too."""
        self._ending = True
        await self._no_restart()
        async with self._lock:
            if not self.taken_up:
                await self._take_up()
        if self.container is not None:
            await self.container.stop()
        await self.ended.wait()

    def forget(self) -> None:
        """Takes away all that is left of one that does not run."""
        self._agent.standalones.pop(self.id, None)
        for future in self._waiting:
            future.cancel()
        self._told(None)
        shutil.rmtree(self.place, ignore_errors=True)

    async def abandon(self) -> None:
        """The agent ends; the container goes on."""
        for work in (self._watching, self._again):
            if work is not None:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        if self.container is not None:
            self.container.release()
        if self.resolver is not None:
            await self.resolver.stop()


def read_all(agent: Agent) -> list[Standalone]:
    """Those that an earlier agent of this node has made."""
    found = []
    for file in sorted((agent.run_dir / "containers").glob(f"*/{FILE}")):
        try:
            one = Standalone(agent, Kept.load(file.read_text()))
            one.taken_up = False
            found.append(one)
        except (OSError, ValueError, KeyError, TypeError, MeshnetError) as error:
            log.warning("%s cannot be read, its container is not taken up: %s", file, error)
    return found


def left_behind(assignments: Assignments, there: Collection[str]) -> list[str]:
    """Ids of the attachments that the manager holds for containers that are gone; `there`: ids of the others."""
    return [
        task.id
        for task in assignments.tasks.values()
        if (spec := task.spec.network_attachment_spec) is not None and spec.container_id not in there
    ]


def own_namespace(agent: Agent, ident: str) -> str:
    """The path of a namespace for a container with this id."""
    return names.netns_path(names.task_netns(agent.lab, agent.node, ident))
