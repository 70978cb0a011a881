"""The manager of a swarm: store, controllers, node health and the port that agents connect to, in one event loop.

Nothing polls. A change of the store marks the services that it concerns; a few milliseconds later one round of the
controllers (`settle`) brings all marked ones to what they must be, in one transaction. Timers exist for what depends
on time: a restart delay, a node's heartbeat. Everything that must survive is in the store: a manager that is started
again goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

from meshnet.clusterspec import ClusterSpec, DispatcherConfig, OrchestrationConfig
from meshnet.control import operations
from meshnet.control.allocator import Ledger
from meshnet.control.dispatcher import Dispatcher
from meshnet.control.logbroker import LogBroker
from meshnet.control.nodes import Heartbeats, down, left, ready
from meshnet.control.objects import Change, Changes, Cluster, new_id
from meshnet.control.settings import Settings
from meshnet.control.settle import settle
from meshnet.control.sqlite import SqliteStore
from meshnet.control.state import State
from meshnet.control.trust.keeper import KEY_FILE, Keeper
from meshnet.control.vault import Vault
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.model import SECOND, Node, Service, Task
from meshnet.rest import Rest

log = logging.getLogger(__name__)
DEBOUNCE = 0.003
RETRY = 1.0
ALL = 10**9


class Manager:
    """`data_dir` holds the store, `listen_address` is host:port for agents (`host:0` takes a free port)."""

    def __init__(self, data_dir: Path, listen_address: str, settings: Settings) -> None:
        if not settings.lab:
            raise MeshnetError("a manager runs only inside a lab so far; start one with `meshnet lab up`")
        self.settings = settings
        self.listen_address = listen_address
        self.state: State
        self.vault: Vault
        self._data_dir = data_dir
        self._rng = SystemRandom()
        self._store: SqliteStore
        self._heartbeats = Heartbeats(settings.heartbeat, settings.grace)
        self.keeper = Keeper(data_dir, settings.key_period, settings.expiry)
        self.logs = LogBroker()
        self._dispatcher = Dispatcher(self)
        self._dirty: set[str] = set()
        self._work = asyncio.Event()
        self._watch = Rest()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = 0.0
        self._sleepers: set[str] = set()
        self._loops: list[asyncio.Task[Any]] = []
        self._rounds = 0
        self._complained = ""

    @property
    def view(self) -> View:
        return self.state.view

    @property
    def advertise(self) -> str:
        """host:port under which agents reach this manager."""
        return self.settings.advertise or self.listen_address

    @property
    def spec(self) -> ClusterSpec:
        """What the swarm is told now; before there is one, what its settings say."""
        return self.view.cluster.spec if self.view.cluster else self._told()

    @property
    def heartbeat(self) -> float:
        """Seconds between two reports of a node."""
        return self.spec.dispatcher.heartbeat_period / SECOND

    def terms(self) -> dict[str, Any]:
        """What every node is told with each answer: how often to report, and to whom (host:port)."""
        return {"Heartbeat": self.heartbeat, "Managers": [self.advertise]}

    @property
    def history(self) -> int:
        """How many tasks a place keeps; more than there can be if all."""
        limit = self.spec.orchestration.task_history_retention_limit
        return self.settings.history if limit is None else limit if limit >= 0 else ALL

    def _told(self) -> ClusterSpec:
        """The spec of a new swarm."""
        return ClusterSpec(
            orchestration=OrchestrationConfig(self.settings.history),
            dispatcher=DispatcherConfig(round(self.settings.heartbeat * SECOND)),
        )

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {
            "rounds": self._rounds,
            "revision": self.view.rev,
            **self._dispatcher.statistics(),
            **self.logs.statistics(),
        }

    async def start(self) -> None:
        """Opens the store, listens, and begins to work. Raises MeshnetError if the port or the store cannot be had."""
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._data_dir / "swarm.db", os.O_WRONLY | os.O_CREAT, 0o600))
        try:
            self._store = await SqliteStore.open(self._data_dir / "swarm.db")
        except sqlite3.Error as error:
            raise MeshnetError(f"{self._data_dir / 'swarm.db'} cannot be used as the swarm's store: {error}") from error
        self.state = State(self._store, time.time)
        try:
            await self.state.start()
            await self.state.write(
                lambda view: operations.start_cluster(view, self.ledger(view), self.new_id, self._told())
            )
            self._heartbeats.every(self.heartbeat)
            await self.keeper.start(self.state)
            self._open_vault()
            self.listen_address = await self._dispatcher.start(self.listen_address)
        except BaseException:
            await self.state.stop()
            await self._store.close()
            raise
        self.state.listen(self._changed)
        self.state.listen(self.logs.changed)
        self._heartbeats.start(self.view.nodes.values(), time.monotonic())
        self._dirty.update(self.view.services, self.view.tasks_of)
        self._work.set()
        self._loops = [
            asyncio.create_task(self._settle_forever(), name="controllers"),
            asyncio.create_task(self._watch_nodes(), name="node health"),
            asyncio.create_task(self.keeper.tend(), name="certificates and keys"),
        ]

    async def stop(self) -> None:
        """Stops serving and closes the store."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._wake is not None:
            self._wake.cancel()
        await self._dispatcher.stop()
        await self.state.stop()
        await self._store.close()

    def _open_vault(self) -> None:
        """Secrets that cannot be read would be found out by the tasks that need them: better now."""
        self.vault = self.view.vault = Vault.load(self._data_dir / KEY_FILE)
        for secret in self.view.secrets.values():
            self.vault.open(secret.sealed, secret.id)

    def ledger(self, view: View) -> Ledger:
        """A ledger for one decision, with this swarm's pools."""
        return Ledger(view, self.settings.pools, self.settings.pool_size, self.settings.avoid, self.settings.resolver)

    def new_id(self) -> str:
        return new_id(self._rng)

    async def heard(self, node_id: str) -> None:
        """A node spoke: it is alive, and up again if it was down."""
        self._heartbeats.beat(node_id, time.monotonic())
        self._watch.nudge()
        node = self.view.nodes.get(node_id)
        if node is not None and node.status.state != "ready":
            await self.state.write(partial(_changed_node, node_id=node_id, change=ready))

    async def left(self, node_id: str) -> None:
        """A node stops: what it ran belongs elsewhere, without waiting for its term to end."""
        self._heartbeats.forget(node_id)
        await self.state.write(partial(_changed_node, node_id=node_id, change=left))

    def _changed(self, changes: list[Change]) -> None:
        """Marks the services that a revision concerns."""
        for change in changes:
            thing = change.after or change.before
            if isinstance(thing, Service):
                self._dirty.add(thing.id)
            elif isinstance(thing, Task):
                self._dirty.add(thing.service_id)
            elif isinstance(thing, Node):
                if change.after is None:
                    self._heartbeats.forget(thing.id)
                self._dirty.update(task.service_id for task in self.view.tasks_on.get(thing.id, {}).values())
                globals_ = (s.id for s in self.view.services.values() if s.spec.mode.everywhere)
                self._dirty.update(globals_)
            elif isinstance(thing, Cluster):
                self._heartbeats.every(self.heartbeat)
                self._dirty.update(self.view.services)
            else:
                continue
            self._work.set()

    async def _settle_forever(self) -> None:
        while True:
            await self._work.wait()
            await asyncio.sleep(DEBOUNCE)
            self._work.clear()
            services, self._dirty = self._dirty, set()
            try:
                await self._settle(services)
            except Exception as error:
                # What is marked stays marked, and the reason is in the log.
                self._failed("the controllers", error)
                self._dirty |= services
                asyncio.get_running_loop().call_later(RETRY, self._work.set)

    def _failed(self, what: str, error: Exception) -> None:
        """A full disk, for one, is a line and not a traceback per second."""
        if not isinstance(error, MeshnetError):
            log.error("%s failed; trying again in %g s", what, RETRY, exc_info=error)
        elif str(error) != self._complained:
            self._complained = str(error)
            log.error("%s failed: %s; trying again every %g s", what, error, RETRY)

    async def _settle(self, services: set[str]) -> None:
        wake: float | None = None

        def decide(view: View) -> Changes:
            nonlocal wake
            now = time.time()
            done = settle(view, services, self.ledger(view), now, self.new_id, self.history)
            wake = done.wake
            return done.changes

        await self.state.write(decide)
        self._complained = ""
        self._rounds += 1
        if wake is not None:
            self._sleepers |= services
            self._look_again_at(wake)

    def _look_again_at(self, wake: float) -> None:
        """Keeps one timer, for the earliest time that any service waits for (seconds since the epoch)."""
        if self._wake is not None and self._wake_at <= wake:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = wake
        self._wake = asyncio.get_running_loop().call_later(max(0.0, wake - time.time()), self._due)

    def _due(self) -> None:
        self._wake = None
        self._dirty |= self._sleepers
        self._sleepers = set()
        self._work.set()

    async def _watch_nodes(self) -> None:
        """Marks nodes down when their term ends. Sleeps until the earliest end."""
        planned = time.monotonic()
        while True:
            expiry = self._heartbeats.next_expiry()
            period = self._heartbeats.period
            planned = time.monotonic()
            delay = period if expiry is None else min(max(expiry - planned, 0.0), period)
            await self._watch.take(delay)
            late = time.monotonic() - planned - delay
            if late > period / 2:
                self._heartbeats.paused(late)
                continue
            for node_id in self._heartbeats.expired(time.monotonic()):
                try:
                    if await self.state.write(partial(self._lost, node_id=node_id)):
                        log.warning("node %s is down: no heartbeat", node_id)
                except Exception as error:  # a store that cannot be written: again later
                    self._failed("node health", error)
                    self._heartbeats.again(node_id, time.monotonic() + RETRY)

    def _lost(self, view: View, node_id: str) -> Changes:
        """Nothing of a node that was heard while others wrote: its next word would only come a period later."""
        return Changes() if self._heartbeats.counts_on(node_id) else _changed_node(view, node_id, down)


def _changed_node(view: View, node_id: str, change: Callable[[Node], Node]) -> Changes:
    node = view.nodes.get(node_id)
    if node is None:
        return Changes()
    after = change(node)
    return Changes() if after is node else Changes((after,))
