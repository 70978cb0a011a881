"""From a task as the manager assigns it to a container as the sandbox runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Protocol

from meshnet import names
from meshnet.agent import resolvconf, templates
from meshnet.agent.parts import Host
from meshnet.containerspec import VolumeOptions
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import SECOND, Healthcheck, Mount, ResourceRequirements, Service, Task, task_name
from meshnet.sandbox.spec import ContainerSpec, HealthConfig, Limits, TaskMount, Ulimit

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
        mounts=tuple(_mount(host, mount, values, identity.container_id) for mount in spec.mounts),
        stop_signal=spec.stop_signal,
        stop_grace=grace / SECOND,
        health=health_config(spec.healthcheck),
        netns=identity.netns,
        cgroup=f"{cgroup2_root()}/{names.cgroup(host.lab, host.node, task.id)}",
        dir=directory,
        resolv_conf=resolvconf.text(spec.dns_config),
        hosts=_hosts(task, identity.hostname, spec.hosts),
        tty=spec.tty,
        open_stdin=spec.open_stdin,
        read_only=spec.read_only,
        init=bool(spec.init),
        groups=spec.groups,
        capability_add=spec.capability_add,
        capability_drop=spec.capability_drop,
        ulimits=tuple(Ulimit(limit.name, limit.soft, limit.hard) for limit in spec.ulimits),
        sysctls=spec.sysctls,
        oom_score_adj=spec.oom_score_adj,
        limits=limits_of(task.spec.resources),
        labels={**spec.labels, **swarm_labels(task, service)},
    )


def _mount(host: Host, mount: Mount, values: Mapping[str, str], container: str) -> TaskMount:
    """A mount with its placeholders filled in; a volume is made on first use, one without a name is the container's."""
    source = templates.expand(mount.source, values)
    if mount.type == "volume":
        name = source or sha256(f"{container}:{mount.target}".encode()).hexdigest()
        options = mount.volume_options or VolumeOptions()
        path = host.volume(name, options.labels or None)
        return TaskMount(path, mount.target, mount.read_only, "volume", name, no_copy=options.no_copy)
    tmpfs = mount.tmpfs_options
    size, mode = (tmpfs.size_bytes, tmpfs.mode) if tmpfs is not None else (0, 0)
    shallow = mount.bind_options is not None and mount.bind_options.non_recursive
    return TaskMount(source, mount.target, mount.read_only, mount.type, size=size, mode=mode, shallow=shallow)


def limits_of(needed: ResourceRequirements | None) -> Limits:
    """What a task may use at most."""
    limit = needed.limits if needed is not None else None
    return Limits(limit.memory_bytes, limit.nano_cpus, limit.pids) if limit is not None else Limits()


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


def _hosts(task: Task, hostname: str, more: Iterable[str]) -> str:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{attachment.address}\t{hostname}" for attachment in task.networks_attachments[:1]]
    lines += ["\t".join(line.split()) for line in more]
    return "\n".join(lines) + "\n"


def health_config(check: Healthcheck | None) -> HealthConfig | None:
    """Docker's defaults for what is not given: 30 s interval and timeout, 3 retries, no start period.

    None leaves it to the image; `NONE` takes the image's away.
    """
    if check is None or not check.test:
        return None
    return HealthConfig(
        test=check.test,
        interval=(check.interval or 30 * SECOND) / SECOND,
        timeout=(check.timeout or 30 * SECOND) / SECOND,
        retries=check.retries or 3,
        start_period=check.start_period / SECOND,
    )
