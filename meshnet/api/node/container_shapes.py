"""Containers as the Engine's JSON shows them. The recordings of a real engine are the reference (API 1.41)."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from meshnet.agent.agent import Agent
from meshnet.agent.inventory import Entry
from meshnet.agent.standalone import BRIDGE, HOST, NONE
from meshnet.api import words
from meshnet.api.node.publishing import bindings_of
from meshnet.containerspec import DNSConfig
from meshnet.model import NetworkAttachment, PortConfig, mac_of
from meshnet.sandbox.bundle import MASKED, READ_ONLY, SHM
from meshnet.sandbox.spec import ContainerSpec, HealthConfig

Json = dict[str, Any]
SECOND = 10**9
# What this engine does not set for a container, as the Engine shows it when nothing is set.
_UNSET: Json = {
    **dict.fromkeys(("ContainerIDFile", "VolumeDriver", "Cgroup", "PidMode", "UTSMode", "UsernsMode"), ""),
    **dict.fromkeys(("CgroupParent", "CpusetCpus", "CpusetMems"), ""),
    **dict.fromkeys(("VolumesFrom", "ExtraHosts", "Links", "SecurityOpt"), None),
    **dict.fromkeys(("DeviceCgroupRules", "DeviceRequests", "MemorySwappiness"), None),
    **dict.fromkeys(("Privileged", "PublishAllPorts", "OomKillDisable"), False),
    **dict.fromkeys(("CpuShares", "BlkioWeight", "CpuPeriod", "CpuQuota"), 0),
    **dict.fromkeys(("CpuRealtimePeriod", "CpuRealtimeRuntime", "KernelMemory", "KernelMemoryTCP"), 0),
    **dict.fromkeys(("MemoryReservation", "CpuCount", "CpuPercent"), 0),
    **dict.fromkeys(("IOMaximumIOps", "IOMaximumBandwidth"), 0),
}


# Lists that the docker command sends empty, and that an engine keeps as they came; a task's are null.
_LISTS = (
    *("BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps"),
    *("BlkioDeviceWriteIOps", "Devices"),
)


def argv(entry: Entry) -> list[str]:
    """What the container runs; what was asked for as long as it has not been made."""
    try:
        found = json.loads(Path(entry.directory, "config.json").read_text())["process"]["args"]
        return [str(word) for word in found]
    except (OSError, ValueError, KeyError, TypeError):
        return [*entry.spec.command, *entry.spec.args]


def command_line(arguments: list[str]) -> str:
    """As `docker ps` shows it: words with spaces or quotes in quotes."""
    return " ".join(f"'{word}'" if " " in word or "'" in word else word for word in arguments)


def status_text(entry: Entry) -> str:
    """`Up 5 seconds (healthy)`, `Exited (1) 2 minutes ago`, `Created`."""
    now = time.time()
    if entry.status == "created":
        return "Created"
    if entry.state == "restarting":
        return f"Restarting ({entry.exit_code}) {words.duration(now - entry.finished)} ago"
    if entry.status == "exited":
        return f"Exited ({entry.exit_code}) {words.duration(now - entry.finished)} ago"
    if entry.state == "paused":
        return f"Up {words.duration(now - entry.started)} (Paused)"
    health = entry.container.health if entry.container is not None else "none"
    shown = {"none": "", "starting": " (health: starting)"}.get(health, f" ({health})")
    return f"Up {words.duration(now - entry.started)}{shown}"


def summary(agent: Agent, entry: Entry) -> Json:
    """One row of `GET /containers/json`."""
    return {
        "Id": entry.id,
        "Names": [f"/{entry.name}"],
        "Image": entry.spec.image,
        "ImageID": agent.containers.image_id(entry.spec.image),
        "Command": command_line(argv(entry)),
        "Created": int(entry.created),
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": port.target_port, "PublicPort": port.published_port, "Type": port.protocol}
            for port in host_ports(agent, entry)
        ],
        "Labels": entry.spec.labels,
        "State": entry.state,
        "Status": status_text(entry),
        "HostConfig": {"NetworkMode": network_mode(entry)},
        "NetworkSettings": {"Networks": networks(agent, entry, None)},
        "Mounts": mounts(entry.spec),
    }


def network_mode(entry: Entry) -> str:
    """As it was asked for; a task's is `default`."""
    mode = entry.standalone.kept.mode if entry.standalone is not None else "default"
    return "default" if mode == BRIDGE else mode


def networks(agent: Agent, entry: Entry, aliases: list[str] | None) -> Json:
    """Network name -> the container's endpoint there."""
    found = {_network_name(agent, entry, item): _endpoint(entry, item, aliases) for item in entry.attachments}
    if not found and entry.standalone is not None and entry.standalone.kept.mode in (NONE, HOST):
        return {entry.standalone.kept.mode: _endpoint(entry, NetworkAttachment(), aliases)}
    return found


def host_ports(agent: Agent, entry: Entry) -> list[PortConfig]:
    """The ports of its node that lead to this container alone."""
    if entry.standalone is not None and entry.status == "running":
        return list(entry.standalone.kept.published)
    service = agent.assignments.services.get(entry.task.service_id) if entry.task is not None else None
    if service is None or entry.status != "running":
        return []
    return [port for port in service.endpoint.ports if port.publish_mode == "host"]


def endpoint_id(container: str, network: str) -> str:
    """The id of a container's endpoint on a network."""
    return sha256(f"{container}/{network}".encode()).hexdigest()


def _network_name(agent: Agent, entry: Entry, item: NetworkAttachment) -> str:
    network = agent.assignments.networks.get(item.network_id)
    if network is not None and network.spec.ingress and entry.standalone is not None:
        return BRIDGE
    return network.spec.name if network is not None else item.network_id


def _endpoint(entry: Entry, item: NetworkAttachment, aliases: list[str] | None) -> Json:
    running = entry.status == "running" and bool(item.addresses)
    prefix = item.addresses[0].partition("/")[2] if item.addresses else ""
    return {
        "IPAMConfig": {"IPv4Address": item.address} if item.addresses else None,
        "Links": None,
        "Aliases": None if aliases is None else [*item.aliases, *aliases],
        "NetworkID": item.network_id,
        "EndpointID": endpoint_id(entry.id, item.network_id) if running else "",
        "Gateway": "",
        "IPAddress": item.address if running else "",
        "IPPrefixLen": int(prefix or 0) if running else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": mac_of(item.address) if running else "",
        "DriverOpts": None,
    }


def mounts(spec: ContainerSpec) -> list[Json]:
    return [
        {
            "Type": mount.type,
            **({"Name": mount.volume, "Driver": "local"} if mount.volume else {}),
            "Source": "" if mount.type == "tmpfs" else mount.source,
            "Destination": mount.target,
            "Mode": "",
            "RW": not mount.read_only,
            "Propagation": "rprivate" if mount.type == "bind" else "",
        }
        for mount in spec.mounts
    ]


def inspected(agent: Agent, entry: Entry) -> Json:
    """`GET /containers/{id}/json`"""
    words_ = argv(entry)
    files = entry.directory
    return {
        "Id": entry.id,
        "Created": words.stamp(entry.created),
        "Path": words_[0] if words_ else "",
        "Args": words_[1:],
        "State": _state(entry),
        "Image": agent.containers.image_id(entry.spec.image),
        "ResolvConfPath": f"{files}/resolv.conf",
        "HostnamePath": f"{files}/hostname",
        "HostsPath": f"{files}/hosts",
        "LogPath": str(entry.log),
        "Name": f"/{entry.name}",
        "RestartCount": entry.standalone.kept.restarts if entry.standalone is not None else 0,
        "Driver": "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(entry),
        "GraphDriver": {"Data": None, "Name": "overlay"},
        "Mounts": mounts(entry.spec),
        "Config": _config(entry),
        "NetworkSettings": _network_settings(agent, entry),
    }


def _state(entry: Entry) -> Json:
    state: Json = {
        "Status": entry.state,
        "Running": entry.status == "running" or entry.state == "restarting",
        "Paused": entry.state == "paused",
        "Restarting": entry.state == "restarting",
        "OOMKilled": False,
        "Dead": False,
        "Pid": entry.pid,
        "ExitCode": entry.exit_code,
        "Error": "",
        "StartedAt": words.stamp(entry.started),
        "FinishedAt": words.stamp(entry.finished),
    }
    health = entry.container.health_report() if entry.container is not None else None
    if health is None and entry.checks.exists():
        health = json.loads(entry.checks.read_text())
    if health is not None:
        state["Health"] = health
    return state


def _host_config(entry: Entry) -> Json:
    spec = entry.spec
    binds = [
        f"{mount.volume or mount.source}:{mount.target}{':ro' if mount.read_only else ''}"
        for mount in spec.mounts
        if mount.type in ("bind", "volume") and entry.task is None
    ]
    return {
        **_UNSET,
        **dict.fromkeys(_LISTS, None if entry.task is not None else []),
        "Binds": binds or None,
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": network_mode(entry),
        "PortBindings": bindings_of(entry.standalone.kept.ports) if entry.standalone is not None else {},
        "RestartPolicy": _restart_policy(entry),
        "AutoRemove": entry.standalone is not None and entry.standalone.kept.auto_remove,
        "CgroupnsMode": "host",
        "IpcMode": "private",
        "ShmSize": spec.shm_size or SHM,
        **_rights(spec),
        **({"Init": spec.init} if spec.init or entry.task is not None else {}),
        **_names(entry),
        "Runtime": "crun",
        "ConsoleSize": [0, 0],
        "Isolation": "default" if entry.task is not None else "",
        "MaskedPaths": list(MASKED),
        "ReadonlyPaths": list(READ_ONLY),
    }


def _restart_policy(entry: Entry) -> Json:
    """A task has none: the swarm replaces it."""
    policy = entry.standalone.kept.restart if entry.standalone is not None else None
    name, most = (policy.name or "no", policy.maximum_retry_count) if policy is not None else ("", 0)
    return {"Name": name, "MaximumRetryCount": most}


def _rights(spec: ContainerSpec) -> Json:
    """What its processes may, and how much of the machine they get."""
    return {
        "CapAdd": list(spec.capability_add) or None,
        "CapDrop": list(spec.capability_drop) or None,
        "GroupAdd": list(spec.groups) or None,
        "Memory": spec.limits.memory,
        "MemorySwap": 2 * spec.limits.memory,
        "NanoCpus": spec.limits.nano_cpus,
        "OomScoreAdj": spec.oom_score_adj,
        "PidsLimit": spec.limits.pids or None,
        "ReadonlyRootfs": spec.read_only,
        **({"Sysctls": spec.sysctls} if spec.sysctls else {}),
        "Ulimits": [{"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft} for limit in spec.ulimits],
    }


def _names(entry: Entry) -> Json:
    """Whom it asks about names."""
    if entry.standalone is not None:
        dns: DNSConfig | None = entry.standalone.kept.dns
    else:
        dns = entry.task.spec.container_spec.dns_config if entry.task is not None else None
    servers, search, options = (dns.nameservers, dns.search, dns.options) if dns is not None else ((), (), ())
    none: list[str] | None = None if entry.task is not None else []
    return {"Dns": list(servers) or none, "DnsOptions": list(options) or none, "DnsSearch": list(search) or none}


def _config(entry: Entry) -> Json:
    spec = entry.spec
    exposed = bindings_of(entry.standalone.kept.ports) if entry.standalone is not None else {}
    shown: Json = {
        "Hostname": spec.hostname,
        "Domainname": "",
        "User": spec.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": list(spec.env) or None,
        "Cmd": list(spec.args) or None,
        "Image": spec.image,
        "Volumes": None,
        "WorkingDir": spec.workdir,
        "Entrypoint": list(spec.command) or None,
        "OnBuild": None,
        "Labels": spec.labels,
    }
    if exposed:
        shown["ExposedPorts"] = {port: {} for port in exposed}
    if spec.health is not None:
        shown["Healthcheck"] = _healthcheck(spec.health)
    if spec.stop_signal and spec.stop_signal != "SIGTERM":
        shown["StopSignal"] = spec.stop_signal
    return shown


def _healthcheck(check: HealthConfig) -> Json:
    return {
        "Test": list(check.test),
        "Interval": round(check.interval * SECOND),
        "Timeout": round(check.timeout * SECOND),
        "Retries": check.retries,
        **({"StartPeriod": round(check.start_period * SECOND)} if check.start_period else {}),
    }


def _network_settings(agent: Agent, entry: Entry) -> Json:
    return {
        "Bridge": "",
        "SandboxID": sha256(entry.spec.netns.encode()).hexdigest() if entry.status == "running" else "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": _ports(agent, entry),
        "SandboxKey": entry.spec.netns,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": networks(agent, entry, [entry.id[:12]]),
    }


def _ports(agent: Agent, entry: Entry) -> Json:
    """Port in the container -> the ports of the node that lead to it."""
    found: Json = {}
    for port in host_ports(agent, entry):
        there = {"HostIp": "0.0.0.0", "HostPort": str(port.published_port)}
        found.setdefault(f"{port.target_port}/{port.protocol}", []).append(there)
    return found
