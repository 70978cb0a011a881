"""A node's picture of the swarm, made of assignments and records: the plan for its kernel, the names for its tasks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

from meshnet.agent import hostports, resolvconf
from meshnet.agent.outside import OutsideNames
from meshnet.agent.resolver import TaskResolver
from meshnet.agent.zones import Zones
from meshnet.containerspec import DNSConfig
from meshnet.datapath.plan import LocalNode, Peer, plan
from meshnet.datapath.rows import Plan
from meshnet.dns.zone import Zone
from meshnet.errors import MeshnetError
from meshnet.kernel.netlink import Netlink
from meshnet.model import Task

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent

log = logging.getLogger(__name__)


class Picture:
    """That of one agent, during one membership."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._upstreams = tuple((address, 53) for address in agent.settings.resolvers)
        self._zones = Zones()
        self._outside_names, self._shadowed = OutsideNames(), ""

    def plan(self, sandboxes: Mapping[str, str], closed: Set[str]) -> Plan:
        """What the kernel shall hold, as the world is now.

        `sandboxes`: id of a task -> path of its sandbox; `closed`: ids of those that are about to be stopped.
        """
        agent = self._agent
        neighbours, settings, assignments = agent.neighbours, agent.settings, agent.assignments
        neighbours.look()
        self._zones.follow(assignments, neighbours.located, neighbours.suspected)
        local = LocalNode(
            id=self._own_id(),
            address=settings.address,
            addresses=(settings.address,),
            mtu=self._underlay_mtu(),
            direct_return=settings.direct_return,
        )
        records = [*neighbours.absent, *neighbours.located]
        found = plan(local, assignments, records, neighbours.peers, sandboxes, neighbours.gone)
        found = hostports.with_containers(found, agent.standalones)
        zones = self._zones.rows(self._attached(sandboxes))
        return dataclasses.replace(found, zones=zones, closed=tuple(sorted(closed)))

    def spread(self, applied: bool) -> None:
        """Names follow what the kernel was given; if it took it (`applied`), those whose records it is made of hear."""
        for runner in self._agent.runners.values():
            runner.resolver.set_zone(self.zone_of(runner.task))
        for one in self._agent.standalones.values():
            if one.resolver is not None and one.kept.task is not None:
                one.resolver.set_zone(self.zone_of(one.kept.task))
        if self._agent.outside.port:
            self._agent.outside.set_zone(self._outside())
        if applied:
            self._agent.neighbours.settled()

    def _outside(self) -> Zone:
        agent = self._agent
        settings, assignments, port = agent.settings, agent.assignments, agent.outside.port
        own = Peer(self._own_id(), settings.address, hostname=settings.node)
        shadowed = hostports.publisher(assignments, port)
        if shadowed != self._shadowed and shadowed:
            log.error("%s publishes port %d: this node's resolver for clients outside is not asked", shadowed, port)
        self._shadowed = shadowed
        return self._outside_names.zone(own, assignments, agent.neighbours.located, agent.neighbours.peers)

    def new_resolver(self, dns: DNSConfig | None = None) -> TaskResolver:
        """A name server that knows nothing yet, and asks the servers that a container was given, else the node's."""
        servers = resolvconf.upstreams(dns.nameservers) if dns is not None else ()
        return TaskResolver(self._zones.for_networks(()), servers or self._upstreams)

    def zone_of(self, task: Task) -> Zone:
        """What a task can look up."""
        return self._zones.for_networks(_networks_of(task))

    def _attached(self, sandboxes: Mapping[str, str]) -> dict[str, list[str]]:
        """Path of a sandbox -> ids of its task's networks."""
        alone = self._agent.standalones.values()
        tasks = {one.kept.task.id: one.kept.task for one in alone if one.kept.task is not None}
        tasks |= {task_id: runner.task for task_id, runner in self._agent.runners.items()}
        return {path: _networks_of(tasks[task_id]) for task_id, path in sandboxes.items() if task_id in tasks}

    def _own_id(self) -> str:
        node = self._agent.assignments.node
        return node.id if node else self._agent.node

    def _underlay_mtu(self) -> int:
        underlay = self._agent.settings.underlay
        with Netlink() as netlink:
            link = netlink.link(underlay)
        if link is None:
            raise MeshnetError(f"no underlay device {underlay} on node {self._agent.node}")
        return link.mtu


def _networks_of(task: Task) -> list[str]:
    return [attachment.network_id for attachment in task.networks_attachments]
