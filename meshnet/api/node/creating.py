"""POST /containers/create: from what a client asks for to a container as the sandbox runs it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any

from meshnet import names
from meshnet.agent import inventory
from meshnet.agent.agent import Agent
from meshnet.agent.containers import RESOLV_CONF, health_config
from meshnet.agent.standalone import BRIDGE, HOST, NONE, Kept, own_namespace
from meshnet.api.validate import made_up_name
from meshnet.containerspec import named
from meshnet.control.attachments import Wish
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import Healthcheck, Mount
from meshnet.sandbox.spec import ContainerSpec, TaskMount

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
INGRESS = "ingress"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class IPAM:
    ipv4_address: str = named("IPv4Address", "")


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """How a container shall be on a network."""

    ipam_config: IPAM | None = named("IPAMConfig")
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    name: str = ""


@dataclass(frozen=True, slots=True)
class HostConfig:
    binds: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: dict[str, str] = field(default_factory=dict)
    network_mode: str = ""
    port_bindings: dict[str, Any] = field(default_factory=dict)
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    privileged: bool = False
    readonly_rootfs: bool = False
    extra_hosts: tuple[str, ...] = ()
    publish_all_ports: bool = False


@dataclass(frozen=True, slots=True)
class NetworkingConfig:
    endpoints_config: dict[str, EndpointConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """The body of `POST /containers/create`."""

    image: str = ""
    hostname: str = ""
    user: str = ""
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    working_dir: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


def check_name(agent: Agent, name: str) -> None:
    """MeshnetError for a name that cannot be, ConflictError for one that another container has."""
    if not NAME.fullmatch(name):
        raise MeshnetError(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    for entry in inventory.entries(agent):
        if entry.name == name.removeprefix("/"):
            raise ConflictError(
                f'Conflict. The container name "/{entry.name}" is already in use by container "{entry.id}". You have '
                "to remove (or rename) that container to be able to reuse that name."
            )


def kept_of(agent: Agent, asked: ContainerRequest, name: str) -> tuple[Kept, list[str]]:
    """The container that is asked for, and warnings. NotFoundError, or MeshnetError for what is not served."""
    host = asked.host_config
    _refuse(host)
    if not asked.image:
        raise MeshnetError("No command specified" if not asked.cmd else "an image is needed")
    agent.containers.images.find(asked.image)
    ident = secrets.token_hex(32)
    name = name.removeprefix("/") or _free_name(agent)
    mode = {"": BRIDGE, "default": BRIDGE}.get(host.network_mode, host.network_mode)
    hostname = asked.hostname or (agent.node if mode == HOST else ident[:12])
    entrypoint = asked.entrypoint if asked.entrypoint != ("",) else ()
    spec = ContainerSpec(
        id=ident,
        name=name,
        image=asked.image,
        netns=names.netns_path(names.node_netns(agent.lab, agent.node))
        if mode == HOST
        else own_namespace(agent, ident),
        cgroup=f"{cgroup2_root()}/{names.cgroup(agent.lab, agent.node, ident[:25])}",
        dir=str(agent.run_dir / "containers" / ident / "container"),
        command=entrypoint,
        args=asked.cmd,
        env=asked.env,
        hostname=hostname,
        user=asked.user,
        workdir=asked.working_dir,
        mounts=mounts_of(agent, asked, ident),
        stop_signal=asked.stop_signal,
        stop_grace=10.0 if asked.stop_timeout is None else float(asked.stop_timeout),
        health=health_config(asked.healthcheck),
        resolv_conf=RESOLV_CONF if mode not in (HOST, NONE) else "",
        hosts=HOSTS + "".join("\t".join(reversed(line.split(":", 1))) + "\n" for line in host.extra_hosts),
        labels=asked.labels,
        tty=asked.tty,
        open_stdin=asked.open_stdin,
        stdin_once=asked.stdin_once,
        read_only=host.readonly_rootfs,
    )
    return Kept(spec, mode, wishes_of(asked, mode, name), host.auto_remove), _warnings(host)


def _refuse(host: HostConfig) -> None:
    if host.privileged:
        raise MeshnetError("privileged containers are not served", 501)
    if host.network_mode.startswith("container:"):
        raise MeshnetError("the network of another container cannot be shared; use --network NAME", 501)
    if host.port_bindings:
        raise MeshnetError("ports of a single container are not published; make it a service with --publish", 501)


def _warnings(host: HostConfig) -> list[str]:
    if host.restart_policy.name not in ("", "no"):
        return ["restart policies of single containers are not served: it will not be started again by itself"]
    return []


def _free_name(agent: Agent) -> str:
    taken = {entry.name for entry in inventory.entries(agent)}
    rng = SystemRandom()
    for _ in range(1000):
        name = made_up_name(rng)
        if name not in taken:
            return name
    return f"container_{secrets.token_hex(4)}"


def wishes_of(asked: ContainerRequest, mode: str, name: str) -> tuple[Wish, ...]:
    """The networks of the swarm that it shall be on, its name first among its aliases on each."""
    if mode in (NONE, HOST):
        return ()
    if mode == BRIDGE:
        return (Wish(INGRESS, (name,)),)
    configs = asked.networking_config.endpoints_config
    others = [target for target in configs if target not in (mode, NONE, HOST, BRIDGE)]
    return tuple(wish_of(target, configs.get(target), name) for target in (mode, *others))


def wish_of(target: str, config: EndpointConfig | None, name: str) -> Wish:
    """One network, with what was asked for there."""
    aliases = config.aliases if config is not None else ()
    address = config.ipam_config.ipv4_address if config is not None and config.ipam_config is not None else ""
    return Wish(target, tuple(dict.fromkeys((name, *aliases))), address)


def mounts_of(agent: Agent, asked: ContainerRequest, ident: str) -> tuple[TaskMount, ...]:
    """Binds (`source:target[:ro]`), mounts, anonymous volumes and tmpfs. MeshnetError for what is none."""
    host = asked.host_config
    found = [_bind(agent, text) for text in host.binds]
    for mount in host.mounts:
        size = mount.tmpfs_options.size_bytes if mount.tmpfs_options is not None else 0
        mode = mount.tmpfs_options.mode if mount.tmpfs_options is not None else 0
        if mount.type == "volume":
            found.append(_volume(agent, mount.source or secrets.token_hex(32), mount.target, mount.read_only))
        elif mount.type in ("bind", "tmpfs"):
            found.append(TaskMount(mount.source, mount.target, mount.read_only, mount.type, size=size, mode=mode))
        else:
            raise MeshnetError(f'mount type unknown: "{mount.type}"')
    taken = {mount.target for mount in found}
    found += [_volume(agent, secrets.token_hex(32), target, False) for target in asked.volumes if target not in taken]
    found += [TaskMount("", target, "ro" in options.split(","), "tmpfs") for target, options in host.tmpfs.items()]
    for made in found:
        if made.type == "bind" and not made.source.startswith("/"):
            raise MeshnetError(f'invalid mount config for type "bind": {made.source!r} is no absolute path')
    return tuple(found)


def _volume(agent: Agent, name: str, target: str, read_only: bool) -> TaskMount:
    return TaskMount(agent.host.volume(name, None), target, read_only, "volume", name)


def _bind(agent: Agent, text: str) -> TaskMount:
    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not colon or not target.startswith("/"):
        raise MeshnetError(f"invalid volume specification: '{text}'")
    read_only = "ro" in options.split(",")
    if source.startswith("/"):
        return TaskMount(source, target, read_only)
    return _volume(agent, source, target, read_only)
