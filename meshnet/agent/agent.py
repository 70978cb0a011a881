"""One node's agent: what the manager assigns and the members say, made true in the kernel.

The loop is small. Assignments arrive, runners bring tasks up and down, records come and go by gossip; each of
these marks the world as changed, and the reconciler has it turned into a plan, gives that to the data path and has
fresh zones handed to the resolvers. Nothing else programs the kernel.

A restart must go unnoticed. Tasks of the last run are adopted and announced before gossip begins, and the first
plan is applied only when assignments and the other members' records are known: a plan made of half the world would
remove what the other half claims. The manager's word is waited for. Only when it does not come do assignments from
disk count, which may be a moment too old, and not if they do not know the tasks that run. The manager counts the
node as ready from its first heartbeat, which waits for that plan.

A loop that fails ends the agent, with its tasks left as they are: better gone, and seen to be gone, than half alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from meshnet.agent import standalone
from meshnet.agent.description import description
from meshnet.agent.events import Events
from meshnet.agent.host import NodeHost
from meshnet.agent.loganswers import LogAnswers
from meshnet.agent.membership import Membership
from meshnet.agent.neighbours import Neighbours
from meshnet.agent.parts import Spaces
from meshnet.agent.picture import Picture
from meshnet.agent.reconciler import Reconciler
from meshnet.agent.resolver import OutsideResolver
from meshnet.agent.runner import Runner, now
from meshnet.agent.settings import AGENT_FILE, AgentSettings
from meshnet.agent.standalone import Standalone
from meshnet.agent.taskdir import Kept, TaskDirs
from meshnet.control.client import ManagerClient, RemovedError
from meshnet.control.trust.credentials import Credentials
from meshnet.datapath.base import NodeContext
from meshnet.datapath.select import open_datapath
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.model import (
    TERMINAL_STATES,
    Assignments,
    Endpoint,
    TaskStatus,
    mac_of,
    state_rank,
)
from meshnet.sandbox.containers import Containers
from meshnet.sandbox.images import Images
from meshnet.sandbox.spec import ContainerSpec
from meshnet.sandbox.volumes import Volume, Volumes

log = logging.getLogger(__name__)

ASSIGNMENTS = "assignments.json"
FRESH = 1.0  # s that a restarted agent waits for its manager's word before it acts on what is kept of an earlier one
LEAVE = 1.0  # s that the manager gets to hear that this node stops, and how its tasks ended


class Agent:
    """Composes one node. `run()` returns when `stop()` was called; tasks then go on unless they were ended."""

    neighbours: Neighbours  # from the moment that the node has an id

    def __init__(self, settings: AgentSettings) -> None:
        self.lab, self.node = settings.lab, settings.node
        self.run_dir = Path(settings.run_dir)
        self.containers = Containers(
            Images(settings.images, str(self.run_dir.parent / "images"), layers=settings.layers)
        )
        self.events = Events()
        self.volumes = Volumes(self.run_dir / "volumes")
        self.spaces: Spaces = netns
        self.dirs = TaskDirs(settings.run_dir)
        self.membership = Membership(self)
        self.host = NodeHost(self)
        self._member, self._begun, self._out = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._stop = asyncio.Event()
        self._renew(settings)
        if settings.managers:
            self._member.set()

    def _renew(self, settings: AgentSettings) -> None:
        """Everything that belongs to one membership of one swarm, as at its beginning."""
        self.settings = settings
        self.datapath = open_datapath(
            settings.datapath,
            NodeContext(
                settings.lab,
                settings.node,
                settings.underlay,
                settings.run_dir,
                settings.vxlan_port,
                settings.resolver,
            ),
            settings.map_sizes,
        )
        self.assignments = Assignments()
        self.runners: dict[str, Runner] = {}
        self.ended_tasks: dict[str, Kept] = {}
        self.standalones: dict[str, Standalone] = {}
        self.credentials = Credentials(self.run_dir / "certificates")
        self.manager = ManagerClient(
            settings.managers,
            description(settings),
            self.credentials,
            settings.token,
            self.run_dir / ASSIGNMENTS,
        )
        self.outside = OutsideResolver(settings.address, settings.resolver)
        self.picture = Picture(self)
        self.reconciler = Reconciler(self.datapath, self.picture.plan, self.picture.spread)
        self._assigned = asyncio.Event()
        self._told = asyncio.Event()
        self._acquainted = asyncio.Event()
        self._ending = False
        self._leaving = asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop()`. Raises what makes the node unusable (no data path, port taken)."""
        try:
            while not self._stop.is_set():
                await self._until_stopped(_set(self._member))
                if self._member.is_set() and not self._stop.is_set():
                    await self._be_member()
                if self._leaving.is_set():
                    await self._start_over()
        finally:
            await self._close()

    async def _announce(self) -> None:
        await self.manager.counted()
        self._begun.set()
        await self._wait_for_stop()

    async def _be_member(self) -> None:
        """One membership, until `stop()` or `leave()`, which may come before it has begun."""
        await self._until_stopped(self._prepare_and_begin(), _set(self._leaving))
        if self._stop.is_set() or self._leaving.is_set():
            return
        await self._until_stopped(
            self._unless_removed(self._follow_manager()),
            self._let_attachments_go(),
            self._get_acquainted(),
            self._reconcile(),
            self._unless_removed(self._heartbeats()),
            self._unless_removed(self.manager.renewals()),
            self._announce(),
            self._resume(),
            self._answer_outside(),
            LogAnswers(self).run(),
            _set(self._leaving),
        )

    async def enter(self, settings: AgentSettings, timeout: float) -> None:
        """Begins a membership of the swarm that the settings and the certificate name; also after a restart.

        Raises MeshnetError if it has not begun after `timeout` seconds.
        """
        settings.save(self.run_dir / AGENT_FILE)
        self._renew(settings)
        self._member.set()
        try:
            async with asyncio.timeout(timeout):
                await self._begun.wait()
        except TimeoutError:
            text = f"this node was admitted, but does not work after {timeout:g} s; its log says why"
            raise MeshnetError(text, 503) from None

    async def leave(self) -> None:
        """Ends the tasks and the membership; returns when the node is in no swarm."""
        self._out.clear()
        await self.stop_tasks()
        self._leaving.set()
        await self._out.wait()

    async def _unless_removed(self, work: Coroutine[Any, Any, None]) -> None:
        """A node that somebody removed from the swarm ends its tasks, and is in none from then on."""
        try:
            await work
        except RemovedError as error:
            if not self._ending:
                log.error("%s; its tasks end", error)
                await self.stop_tasks(told=False)
                self._leaving.set()
            await self._wait_for_stop()

    async def _start_over(self) -> None:
        """Forgets the swarm: certificate, tasks, assignments, members, and all that the kernel was given for it."""
        for runner in list(self.runners.values()):
            await runner.abandon()
        for one in list(self.standalones.values()):  # one that removes itself may end meanwhile
            await one.abandon()
        await self.outside.stop()
        if self.joined:
            await self.neighbours.stop()
        await self.manager.close()
        await self.datapath.destroy()
        if self.joined:
            del self.neighbours
        self.credentials.forget()
        for task_id in list(self.ended_tasks):
            self._forget(task_id)
        for name in (ASSIGNMENTS, "members"):
            (self.run_dir / name).unlink(missing_ok=True)
        outside = dataclasses.replace(self.settings, managers=(), join=(), token="", role="worker")
        outside.save(self.run_dir / AGENT_FILE)
        self._member.clear()
        self._begun.clear()
        self._renew(outside)
        self._out.set()

    async def _prepare_and_begin(self) -> None:
        """Side by side: the programs load while the manager answers, and either's failure ends the other."""
        steps = [asyncio.create_task(self.datapath.prepare()), asyncio.create_task(self._begin())]
        try:
            await asyncio.gather(*steps)
        finally:
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)

    async def _begin(self) -> None:
        """Takes up what the last run left, and begins to speak and to listen."""
        self.outside.open()
        kept = [self._looked_at(item) for item in self.dirs.read_all()]
        self.ended_tasks = {item.task.id: item for item in self.dirs.read_ended()}
        cached = self.manager.cached()
        if cached is not None:
            self.assignments = cached
            if all(item.task.id in cached.tasks for item in kept):
                asyncio.get_running_loop().call_later(FRESH, self._assigned.set)
        identity = await self._identity()
        self.neighbours = Neighbours(self.settings, identity, self.datapath.kind, self.credentials.gossip.raw())
        self.manager.on_keys(lambda keys: self.neighbours.use_keys(keys.raw()))
        for item in kept:
            dns = item.task.spec.container_spec.dns_config
            runner = Runner(self.host, self.dirs, self.picture.new_resolver(dns), item.task, item)
            if item.serving:
                runner.announce()
            self._add_runner(runner)
        self.standalones = {one.id: one for one in standalone.read_all(self)}
        for one in self.standalones.values():
            if one.kept.task is not None:
                self.host.hold(one.kept.task, one.kept.spec.netns)
        await self.neighbours.start(self.reconciler.changed, self.manager.nudge)
        self._publish_node()
        if not kept and cached is None:
            self._acquainted.set()

    async def _until_stopped(self, *work: Coroutine[Any, Any, None]) -> None:
        """Until `stop()`, or until the first of `work` ends; raises what that raised."""
        loops = [asyncio.create_task(one) for one in (self._wait_for_stop(), *work)]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    def _looked_at(self, item: Kept) -> Kept:
        """A task that ended while no agent ran (a node that lost its power) must not be announced again."""
        serving = item.serving and self.containers.runs(self.dirs.container(item.task.id))
        return dataclasses.replace(item, serving=serving)

    async def _get_acquainted(self) -> None:
        await self.neighbours.join()
        self._acquainted.set()
        await self._wait_for_stop()

    async def _resume(self) -> None:
        """Takes up the containers that people started."""
        await self._assigned.wait()
        for one in list(self.standalones.values()):
            try:
                await one.resume()
            except MeshnetError as error:
                log.error("container %s goes on with what the kernel holds: %s", one.kept.spec.name, error)
        await self._wait_for_stop()

    async def _reconcile(self) -> None:
        await self._assigned.wait()
        await self._acquainted.wait()
        await self.reconciler.run()

    async def _answer_outside(self) -> None:
        """Once names are known: until then others answer."""
        await self.reconciler.first()
        await self.outside.start()
        await self._wait_for_stop()

    async def _heartbeats(self) -> None:
        await self.reconciler.first()
        await self.manager.heartbeats()

    def stop(self) -> None:
        """Ends the agent; tasks go on and are adopted by the next one."""
        self._stop.set()

    async def stop_tasks(self, told: bool = True) -> None:
        """Leaves the swarm's work in order: the manager knows first, then every task drains and ends.

        None is begun any more. Without `told` there is no manager to speak to.
        """
        self._ending = True
        if not self.joined:
            return
        if told:
            await self.manager.leave(LEAVE)
        for runner in self.runners.values():
            runner.update(None)
        await asyncio.gather(*(runner.done() for runner in self.runners.values()))
        await asyncio.gather(*(one.stop() for one in self.standalones.values()))
        try:
            async with asyncio.timeout(LEAVE if told else 0):
                await self.manager.reported()
        except TimeoutError:
            log.warning("no manager has heard how the tasks ended")
        await self.neighbours.leave()

    async def _close(self) -> None:
        for runner in list(self.runners.values()):
            await runner.abandon()
        for one in list(self.standalones.values()):  # one that removes itself may end meanwhile
            await one.abandon()
        await self.outside.stop()
        if self.joined:
            await self.neighbours.stop()
        await self.manager.close()
        await self.datapath.close()

    @property
    def member(self) -> bool:
        """Whether the node is in a swarm, or on its way into one."""
        return self._member.is_set()

    @property
    def joined(self) -> bool:
        """Whether the node has its id, and with it gossip."""
        return hasattr(self, "neighbours")

    # --- identity -------------------------------------------------------------------------------------------

    async def _identity(self) -> str:
        """The node's id, as its certificate says. A node that is a member already does not wait for its manager."""
        if self.credentials and self.credentials.gossip.keys and not self.credentials.expired(time.time()):
            return self.manager.node_id
        return await self.manager.join()

    # --- members and records --------------------------------------------------------------------------------

    def _publish_node(self) -> None:
        """Announces this node's own addresses (on ingress, and where its data path needs one)."""
        node = self.assignments.node
        if node is None:
            return
        for attachment in node.attachments:
            endpoint = Endpoint(
                endpoint=f"node:{node.id}",
                ip=attachment.address,
                mac=mac_of(attachment.address),
                hostname=self.settings.node,
                state="ready",
            )
            self.neighbours.publish(attachment.network_id, endpoint)

    # --- the manager's word ---------------------------------------------------------------------------------

    async def _follow_manager(self) -> None:
        async for assignments in self.manager.assignments():
            self.assignments = assignments
            self._publish_node()
            self._sync_runners()
            self._assigned.set()
            self._told.set()
            self.reconciler.changed()

    async def _let_attachments_go(self) -> None:
        """What containers held that went while no manager answered is let go once one does: for ever."""
        while True:
            await self._told.wait()
            self._told.clear()
            for task_id in standalone.left_behind(self.assignments, self.standalones):
                with contextlib.suppress(MeshnetError):  # tried again with the manager's next word
                    await self.manager.detach(task_id)

    def _sync_runners(self) -> None:
        for task_id, runner in list(self.runners.items()):
            runner.update(self.assignments.tasks.get(task_id))
            assigned = self.assignments.tasks.get(task_id)
            if runner.finished and assigned is None:
                del self.runners[task_id]
            elif runner.finished and assigned is not None and assigned.status.state not in TERMINAL_STATES:
                self.host.report(runner.task, runner.status)
        for task_id in self.ended_tasks.keys() - self.assignments.tasks.keys():
            self._forget(task_id)
        for task in self.assignments.tasks.values():
            if (
                task.id in self.runners
                or task.id in self.ended_tasks
                or task.status.state in TERMINAL_STATES
                or task.spec.network_attachment_spec is not None  # a container that a person started
                or self._ending
            ):
                continue
            if state_rank(task.desired_state) <= state_rank("running"):
                resolver = self.picture.new_resolver(task.spec.container_spec.dns_config)
                self._add_runner(Runner(self.host, self.dirs, resolver, task))
            else:
                self.host.report(task, TaskStatus(now(), "shutdown", "shutdown"))

    def _forget(self, task_id: str) -> None:
        """The manager has forgotten the task, and so does its node."""
        kept = self.ended_tasks.pop(task_id)
        self.dirs.forget(task_id)
        self.events.publish("container", "destroy", kept.container_id)

    def _add_runner(self, runner: Runner) -> None:
        self.runners[runner.task.id] = runner
        runner.start()

    # --- what the node has beside its tasks -----------------------------------------------------------------

    def use_volume(self, name: str, labels: dict[str, str] | None) -> tuple[Volume, bool]:
        """A volume, and whether it was made now. MeshnetError for a name that cannot be."""
        found, fresh = self.volumes.create(name, labels)
        if fresh:
            self.events.publish("volume", "create", name, {"driver": "local"})
        return found, fresh

    def happened(self, container: ContainerSpec, action: str, **attributes: str) -> None:
        shown = {**container.labels, "image": container.image, "name": container.name, **attributes}
        self.events.publish("container", action, container.id, shown)


async def _set(event: asyncio.Event) -> None:
    await event.wait()
