"""What the tasks of a node ask of it (`parts.Host`): to be announced, wired, heard of, and given what they mount.

It keeps nothing of its own: each answer comes from the agent's part that knows, as that is now; a node that leaves a
swarm and joins another has other parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshnet.agent.files import memory_files
from meshnet.agent.parts import Spaces
from meshnet.agent.taskdir import Kept
from meshnet.model import Endpoint, Service, Task, TaskStatus, mac_of
from meshnet.sandbox.containers import Containers
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.spec import ContainerSpec

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent


class NodeHost:
    """One agent, as the runners of its tasks see it."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.lab, self.node = agent.lab, agent.node

    @property
    def containers(self) -> Containers:
        return self._agent.containers

    @property
    def spaces(self) -> Spaces:
        return self._agent.spaces

    def service_of(self, task: Task) -> Service | None:
        return self._agent.assignments.services.get(task.service_id)

    def publish(self, task: Task, state: str, hostname: str, container: str) -> int:
        record = 0
        for attachment in task.networks_attachments:
            endpoint = Endpoint(
                endpoint=task.id,
                task=task.id,
                slot=task.slot,
                service=task.service_id,
                ip=attachment.address,
                mac=mac_of(attachment.address),
                hostname=hostname,
                container=container[:12],
                aliases=attachment.aliases,
                state=state,
            )
            record = self._agent.neighbours.publish(attachment.network_id, endpoint)
        self._agent.reconciler.changed()
        return record

    def withdraw(self, task: Task) -> int:
        record = 0
        for attachment in task.networks_attachments:
            record = self._agent.neighbours.withdraw(attachment.network_id, task.id)
        self._agent.reconciler.changed()
        return record

    async def in_force(self, record: int) -> bool:
        return await self._agent.neighbours.in_force(record)

    def hold(self, task: Task, netns: str) -> None:
        self._agent.reconciler.hold(task.id, netns)

    async def wire(self, task: Task, netns: str) -> None:
        await self._agent.reconciler.wire(task.id, netns, len(task.networks_attachments))

    async def close(self, task: Task) -> None:
        await self._agent.reconciler.close(task.id)

    async def unwire(self, task: Task) -> None:
        await self._agent.reconciler.unwire(task.id)

    def report(self, task: Task, status: TaskStatus) -> None:
        self._agent.manager.report({task.id: status})

    def ended(self, kept: Kept) -> None:
        if kept.task.id in self._agent.assignments.tasks:
            self._agent.ended_tasks[kept.task.id] = kept
        else:
            self._agent.dirs.forget(kept.task.id)

    def volume(self, name: str, labels: dict[str, str] | None) -> str:
        return self._agent.use_volume(name, labels)[0].path

    def files(self, task: Task) -> tuple[MemoryFile, ...]:
        assignments = self._agent.assignments
        secrets = {ident: secret.spec.data for ident, secret in assignments.secrets.items()}
        configs = {ident: config.spec.data for ident, config in assignments.configs.items()}
        return memory_files(task.spec.container_spec, secrets, configs)

    def happened(self, container: ContainerSpec, action: str, **attributes: str) -> None:
        self._agent.happened(container, action, **attributes)
