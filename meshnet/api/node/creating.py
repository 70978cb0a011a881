"""POST /containers/create: from what a client asks for to a container as the sandbox runs it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any

from meshnet import names
from meshnet.agent import inventory, resolvconf
from meshnet.agent.agent import Agent
from meshnet.agent.containers import health_config
from meshnet.agent.standalone import BRIDGE, HOST, NONE, Kept, own_namespace
from meshnet.api.node import hostconfig, publishing
from meshnet.api.node.hostconfig import HostConfig
from meshnet.api.node.mounting import mounts_of
from meshnet.api.unserved import refused
from meshnet.api.validate import made_up_name
from meshnet.containerspec import named
from meshnet.control.attachments import Wish
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import Healthcheck
from meshnet.sandbox.arguments import check_arguments, check_hostname
from meshnet.sandbox.spec import ContainerSpec

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
INGRESS = "ingress"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class IPAM:
    ipv4_address: str = named("IPv4Address", "")
    ipv6_address: str = named("IPv6Address", "")
    link_local_ips: tuple[str, ...] = named("LinkLocalIPs", ())


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """How a container shall be on a network."""

    ipam_config: IPAM | None = named("IPAMConfig")
    aliases: tuple[str, ...] = ()
    mac_address: str = ""
    links: tuple[str, ...] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkingConfig:
    endpoints_config: dict[str, EndpointConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """The body of `POST /containers/create`."""

    image: str = ""
    hostname: str = ""
    domainname: str = ""
    mac_address: str = ""
    network_disabled: bool = False
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


def kept_of(agent: Agent, asked: ContainerRequest, name: str, raw: Mapping[str, Any]) -> tuple[Kept, list[str]]:
    """The container that is asked for, and warnings; `raw` is its HostConfig as it came.

    NotFoundError, or MeshnetError for what is not served.
    """
    host = asked.host_config
    hostconfig.check(host, raw)
    _check_network(asked)
    check_hostname("Hostname", asked.hostname)
    check_arguments({"Env": asked.env, "Entrypoint": asked.entrypoint, "Cmd": asked.cmd})
    if not asked.image:
        raise MeshnetError("No command specified" if not asked.cmd else "an image is needed")
    agent.containers.images.find(asked.image)
    name = name.removeprefix("/") or _free_name(agent)
    mode = {"": BRIDGE, "default": BRIDGE}.get(host.network_mode, host.network_mode)
    ports = publishing.wishes_of(host.port_bindings) if mode not in (HOST, NONE) else ()
    wishes = wishes_of(asked, mode, name)
    if ports and all(wish.target != INGRESS for wish in wishes):
        wishes = (*wishes, Wish(INGRESS, (name,)))  # where published ports lead to
    spec = _spec_of(agent, asked, name, mode)
    kept = Kept(spec, mode, wishes, host.auto_remove, host.dns_config, ports=ports, restart=host.restart_policy)
    warnings = hostconfig.warnings(host, raw, cgroup2_root())
    if asked.domainname:
        warnings.append("Domainname is without effect: a name can be given whole with --hostname")
    return kept, warnings


def _spec_of(agent: Agent, asked: ContainerRequest, name: str, mode: str) -> ContainerSpec:
    """The container as the sandbox makes it, with an id of its own."""
    host, ident = asked.host_config, secrets.token_hex(32)
    hostname = asked.hostname or (agent.node if mode == HOST else ident[:12])
    entrypoint = asked.entrypoint if asked.entrypoint != ("",) else ()
    return ContainerSpec(
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
        mounts=mounts_of(agent, host, asked.volumes),
        stop_signal=asked.stop_signal,
        stop_grace=10.0 if asked.stop_timeout is None else float(asked.stop_timeout),
        health=health_config(asked.healthcheck),
        resolv_conf=resolvconf.text(host.dns_config, mode not in (HOST, NONE)),
        hosts=HOSTS + hostconfig.extra_hosts(host.extra_hosts, agent.settings.address),
        labels=asked.labels,
        tty=asked.tty,
        open_stdin=asked.open_stdin,
        stdin_once=asked.stdin_once,
        read_only=host.readonly_rootfs,
        init=bool(host.init),
        groups=host.group_add,
        capability_add=host.cap_add,
        capability_drop=host.cap_drop,
        ulimits=host.sandbox_ulimits,
        sysctls=host.sysctls,
        oom_score_adj=host.oom_score_adj,
        limits=host.limits,
        shm_size=host.shm_size,
        own_network=mode != HOST,
    )


def _check_network(asked: ContainerRequest) -> None:
    """Refuses what is asked of networks beyond aliases and an address."""
    configs = asked.networking_config.endpoints_config.values()
    if asked.network_disabled:
        raise refused("NetworkDisabled is", "use --network none")
    if asked.mac_address:
        raise refused("a MAC address of choice is", "it follows from the address")
    for config in configs:
        check_endpoint(config)


def check_endpoint(config: EndpointConfig) -> None:
    """Raises MeshnetError (501) for what an endpoint cannot have."""
    ipam = config.ipam_config or IPAM()
    if config.mac_address:
        raise refused("a MAC address of choice is", "it follows from the address")
    if config.links or config.driver_opts:
        raise refused("links and driver options of an endpoint are", "use --network-alias")
    if ipam.ipv6_address or ipam.link_local_ips:
        raise refused("IPv6 and link-local addresses are", "networks have IPv4 addresses")


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
