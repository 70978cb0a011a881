"""From a task as the manager assigns it to a container as the sandbox runs it."""

from __future__ import annotations

from typing import Protocol

from meshnet import names
from meshnet.agent import templates
from meshnet.agent.parts import Host
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import SECOND, Healthcheck, Service, Task, task_name
from meshnet.sandbox.spec import ContainerSpec, HealthConfig, TaskMount

RESOLV_CONF = "nameserver 127.0.0.11\noptions ndots:0\n"
DEFAULT_GRACE = 10 * SECOND


class Identity(Protocol):
    """What the runner has chosen for a task's container."""

    netns: str
    container_id: str

    @property
    def hostname(self) -> str: ...


def container_spec(host: Host, task: Task, identity: Identity, directory: str) -> ContainerSpec:
    """The container of `task`, whose state lives in `directory`."""
    spec = task.spec.container_spec
    service = host.service_of(task)
    values = templates.fields(task, service, host.node)
    grace = DEFAULT_GRACE if spec.stop_grace_period is None else spec.stop_grace_period
    return ContainerSpec(
        id=identity.container_id,
        name=task_name(service.spec.name if service else task.service_id, task),
        image=spec.image,
        command=spec.command,
        args=spec.args,
        env=tuple(templates.expand(text, values) for text in spec.env),
        hostname=identity.hostname,
        user=spec.user,
        workdir=spec.dir,
        mounts=tuple(TaskMount(templates.expand(m.source, values), m.target, m.read_only, m.type) for m in spec.mounts),
        stop_signal=spec.stop_signal or "SIGTERM",
        stop_grace=grace / SECOND,
        health=health_config(spec.healthcheck),
        netns=identity.netns,
        cgroup=f"{cgroup2_root()}/{names.cgroup(host.lab, host.node, task.id)}",
        dir=directory,
        resolv_conf=RESOLV_CONF,
        hosts=_hosts(task, identity.hostname),
        labels={**spec.labels, **swarm_labels(task, service)},
    )


def swarm_labels(task: Task, service: Service | None) -> dict[str, str]:
    """The labels by which Swarm's containers are known."""
    name = service.spec.name if service else task.service_id
    begin = "com.docker.swarm"
    return {
        f"{begin}.node.id": task.node_id,
        f"{begin}.service.id": task.service_id,
        f"{begin}.service.name": name,
        f"{begin}.task": "",
        f"{begin}.task.id": task.id,
        f"{begin}.task.name": task_name(name, task),
    }


def _hosts(task: Task, hostname: str) -> str:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{attachment.address}\t{hostname}" for attachment in task.networks_attachments[:1]]
    return "\n".join(lines) + "\n"


def health_config(check: Healthcheck | None) -> HealthConfig | None:
    """Docker's defaults for what is not given: 30 s interval and timeout, 3 retries, no start period."""
    if check is None or not check.test or check.test[0] == "NONE":
        return None
    return HealthConfig(
        test=check.test,
        interval=(check.interval or 30 * SECOND) / SECOND,
        timeout=(check.timeout or 30 * SECOND) / SECOND,
        retries=check.retries or 3,
        start_period=check.start_period / SECOND,
    )
