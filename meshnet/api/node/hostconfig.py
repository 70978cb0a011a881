"""What `POST /containers/create` asks of the machine: applied, refused by name, or taken with a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from meshnet.agent import resolvconf, restarting
from meshnet.agent.restarting import RestartPolicy
from meshnet.agent.standalone import HOST, NONE
from meshnet.api.unserved import check_mounts, log_driver, refused
from meshnet.containerspec import DNSConfig, Mount, Ulimit, named
from meshnet.errors import MeshnetError
from meshnet.sandbox import limits, rights, spec
from meshnet.sandbox.spec import Limits

LIMITED = 10**9
PERIOD = 100_000  # us, Docker's for a quota without one
# Field -> what it is, and what helps.
REFUSED = {
    "Privileged": ("privileged containers are", "add single capabilities"),
    "PublishAllPorts": ("publishing all ports is", "name them with --publish"),
    "VolumesFrom": ("the volumes of another container are", "name them with --mount"),
    "Links": ("links are", "containers of one network know one another by name"),
    "PidMode": ("another PID namespace is", "a container has its own"),
    "UTSMode": ("another UTS namespace is", "a container has its own"),
    "Devices": ("devices of the machine are", "a container has the usual ones alone"),
    "DeviceRequests": ("devices of the machine are", "a container has the usual ones alone"),
    "DeviceCgroupRules": ("rules for devices are", "a container has the usual ones alone"),
    "CgroupParent": ("another cgroup is", "containers are below their node's"),
    "StorageOpt": ("options of the storage are", "an image of the lab's catalogue has a bound, `writable`"),
}
# Field -> the values that mean what is had anyway.
ONLY = {
    "IpcMode": ("", "private"),
    "UsernsMode": ("", "host"),
    "Runtime": ("", "crun"),
    "VolumeDriver": ("", "local"),
    "Isolation": ("", "default"),
}
WARNED = (
    *("CpuShares", "CpusetCpus", "CpusetMems", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuCount", "CpuPercent"),
    *("MemoryReservation", "KernelMemory", "KernelMemoryTCP", "OomKillDisable", "Annotations"),
    *("BlkioWeight", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps"),
    *("BlkioDeviceWriteIOps", "IOMaximumIOps", "IOMaximumBandwidth"),
)


@dataclass(frozen=True, slots=True)
class LogConfig:
    type: str = ""
    config: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The part of the request that says what the machine shall give. What is not here is in `REFUSED` or `WARNED`."""

    binds: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: dict[str, str] = field(default_factory=dict)
    network_mode: str = ""
    port_bindings: dict[str, Any] = field(default_factory=dict)
    restart_policy: RestartPolicy = RestartPolicy()
    log_config: LogConfig = LogConfig()
    auto_remove: bool = False
    readonly_rootfs: bool = False
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    init: bool | None = None
    memory: int = named(default=0, least=0)
    memory_swap: int = 0
    memory_swappiness: int | None = None
    nano_cpus: int = named(default=0, least=0)
    cpu_quota: int = 0
    cpu_period: int = 0
    pids_limit: int | None = None
    shm_size: int = named(default=0, least=0)

    @property
    def dns_config(self) -> DNSConfig:
        return DNSConfig(self.dns, self.dns_search, self.dns_options)

    @property
    def limits(self) -> Limits:
        """A quota of processor time is a number of processors; what is negative is no limit."""
        share = self.cpu_quota * LIMITED // (self.cpu_period or PERIOD) if self.cpu_quota > 0 else 0
        return Limits(self.memory, self.nano_cpus or share, max(self.pids_limit or 0, 0))

    @property
    def sandbox_ulimits(self) -> tuple[spec.Ulimit, ...]:
        return tuple(spec.Ulimit(limit.name, limit.soft, limit.hard) for limit in self.ulimits)


def check(host: HostConfig, raw: Mapping[str, Any]) -> None:
    """Raises MeshnetError for what cannot be had; `raw` is the same part as it came."""
    for name, (what, instead) in REFUSED.items():
        if raw.get(name):
            raise refused(what, instead)
    for name, accepted in ONLY.items():
        if (raw.get(name) or "") not in accepted:
            raise refused(f"{name} {raw[name]} is", f"only {accepted[-1]} is")
    if host.network_mode.startswith("container:"):
        raise refused("the network of another container is", "use --network NAME")
    restarting.check(host.restart_policy, host.auto_remove)
    check_mounts(host.mounts)
    _check_rights(host)
    resolvconf.check(host.dns_config)
    for option in host.security_opt:
        _check_security(option)
    if 0 < host.memory < 6 * 2**20:
        raise MeshnetError("Minimum memory limit allowed is 6MB")


def _check_rights(host: HostConfig) -> None:
    for field_, add, drop in (("CapAdd", host.cap_add, ()), ("CapDrop", (), host.cap_drop)):
        try:
            rights.capabilities(add, drop)
        except MeshnetError as error:
            raise MeshnetError(f"invalid {field_}: {error}", error.status) from None
    rights.check_ulimits(host.sandbox_ulimits)
    rights.check_sysctls(host.sysctls, host.network_mode != HOST)
    rights.check_oom_score(host.oom_score_adj)


def _check_security(option: str) -> None:
    name, _, value = option.replace("=", ":", 1).partition(":")
    if name == "no-new-privileges" and value in ("", "true"):
        return  # no container gains any
    if (name, value) in (("apparmor", "unconfined"), ("label", "disable"), ("seccomp", "builtin")):
        return  # as it is here
    if name in ("no-new-privileges", "apparmor", "label", "seccomp", "systempaths"):
        raise refused(f"--security-opt {option} is", "containers have the default seccomp profile and gain no rights")
    raise MeshnetError(f'invalid --security-opt: "{option}"')


def warnings(host: HostConfig, raw: Mapping[str, Any], cgroups: Path) -> list[str]:
    """What is taken without effect; `cgroups` is the root of the cgroup2 tree."""
    return list(_warnings(host, raw, cgroups))


def _warnings(host: HostConfig, raw: Mapping[str, Any], cgroups: Path) -> Iterator[str]:
    if host.network_mode in (HOST, NONE) and host.port_bindings:
        yield f"Published ports are discarded when using {host.network_mode} network mode"
    yield from limits.warnings(host.limits, cgroups)
    if host.memory_swap not in (0, 2 * host.memory):
        yield "MemorySwap is without effect: there is as much swap as memory"
    if host.memory_swappiness not in (None, -1):
        yield "MemorySwappiness is without effect"
    if raw.get("CgroupnsMode") == "private":
        yield "CgroupnsMode is without effect: a container sees no cgroup tree"
    for name in WARNED:
        if raw.get(name):
            yield f"{name} is without effect"
    yield from log_driver(host.log_config.type, host.log_config.config)
    yield from resolvconf.warnings(host.dns_config)


def extra_hosts(lines: tuple[str, ...], gateway: str) -> str:
    """Lines of the hosts file for `name:address`; `host-gateway` is `gateway`. MeshnetError in Docker's words."""
    found = ""
    for line in lines:
        name, colon, address = line.partition("=" if "=" in line else ":")
        address = gateway if address == "host-gateway" else address.strip("[]")
        if not colon or not name or any(char.isspace() for char in name):
            raise MeshnetError(f'bad format for add-host: "{line}"')
        try:
            ip_address(address)
        except ValueError:
            raise MeshnetError(f'invalid IP address in add-host: "{address}"') from None
        found += f"{address}\t{name}\n"
    return found
