"""What the Docker Engine and Swarm refuse about a spec before looking at the swarm, in their words.

Each function returns the spec completed with the defaults that Swarm fills in, or raises MeshnetError. Where the Engine
takes what cannot work (reserved ports, unreadable aliases) this refuses it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random
from typing import Any

from meshnet.control.constraints import parse
from meshnet.control.operations import invalid
from meshnet.errors import MeshnetError
from meshnet.ipam import RESERVED_PORTS
from meshnet.model import (
    SECOND,
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    NetworkSpec,
    NodeSpec,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)

# The same language as Swarm's expression, but matched in linear time.
NAME = re.compile(r"[a-zA-Z0-9](?:[-_a-zA-Z0-9]*[a-zA-Z0-9])?")
ALIAS = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.\-]*[a-zA-Z0-9_])?")
LAST_PORT = 65535
MOST_REPLICAS = 100_000
LONGEST = 2**63 - 1
FIRST_NAMES = (
    "amber",
    "brisk",
    "calm",
    "daring",
    "eager",
    "fond",
    "gentle",
    "humble",
    "keen",
    "noble",
    "quiet",
    "swift",
)
LAST_NAMES = ("baran", "cerf", "clark", "davies", "floyd", "jacobson", "kahn", "lamport", "moy", "perlman", "postel")


def check_name(name: str) -> None:
    """Swarm's rule for names: 63 characters; letters, digits, hyphen, underscore; no hyphen at an end."""
    if not NAME.fullmatch(name):
        raise invalid("name must be valid as a DNS name component")
    if len(name) > 63:
        raise invalid("name must be 63 characters or fewer")


def made_up_name(rng: Random) -> str:
    """A name for a service that was given none."""
    return f"{rng.choice(FIRST_NAMES)}_{rng.choice(LAST_NAMES)}"


def check_supported(data: Any) -> None:
    """Refuses what would run as something else if its field were ignored: jobs, secrets and configs."""
    mode = _inside(data, "Mode")
    for job in ("ReplicatedJob", "GlobalJob"):
        if job in mode:
            raise MeshnetError(f"Mode.{job}: jobs are not supported yet", 501)
    container = _inside(_inside(data, "TaskTemplate"), "ContainerSpec")
    for field in ("Secrets", "Configs"):
        if container.get(field):
            raise MeshnetError(f"TaskTemplate.ContainerSpec.{field}: {field.lower()} are not supported yet", 501)


def _inside(data: Any, field: str) -> dict[str, Any]:
    inner = data.get(field) if isinstance(data, dict) else None
    return inner if isinstance(inner, dict) else {}


def service_spec(spec: ServiceSpec, rng: Random) -> ServiceSpec:
    """A service's spec, ready to be stored but for its networks' names."""
    if not spec.name:
        spec = replace(spec, name=made_up_name(rng))
    check_name(spec.name)
    return replace(
        spec,
        mode=_mode(spec.mode),
        task_template=_template(spec.task_template),
        endpoint_spec=_endpoint(spec.endpoint_spec),
    )


def _mode(mode: ServiceMode) -> ServiceMode:
    if mode.replicated is not None and mode.global_ is not None:
        raise MeshnetError("must specify only one service mode")
    if mode.global_ is not None:
        return mode
    replicated = mode.replicated or Replicated()
    if not 0 <= replicated.replicas <= MOST_REPLICAS:
        raise invalid(f"Mode.Replicated.Replicas: a number from 0 to {MOST_REPLICAS} is needed")
    return ServiceMode(replicated)


def _template(template: TaskSpec) -> TaskSpec:
    container = template.container_spec
    if not container.image:
        raise invalid("ContainerSpec: image reference must be provided")
    if any(char.isspace() for char in container.image) or container.image.startswith("-"):
        raise invalid(f"ContainerSpec: {container.image!r} is not a valid repository/tag")
    _check_container(container)
    for constraint in template.placement.constraints:
        try:
            parse(constraint)
        except MeshnetError as error:
            raise MeshnetError(f"rpc error: code = Unknown desc = {error}", 500) from None
    if not 0 <= template.placement.max_replicas <= MOST_REPLICAS:
        raise invalid("Placement.MaxReplicas: a number that is not negative is needed")
    _check_restart(template.restart_policy)
    for network in template.networks:
        for alias in network.aliases:
            if not ALIAS.fullmatch(alias) or len(alias) > 253:
                raise invalid(f"alias {alias!r} of network {network.target} cannot be a DNS name")
    return template


def _check_container(container: ContainerSpec) -> None:
    for entry in container.env:
        if entry.startswith("=") or not entry:
            raise invalid(f"ContainerSpec.Env: {entry!r} is not NAME=VALUE")
    if container.stop_grace_period is not None:
        _check_duration("ContainerSpec.StopGracePeriod", container.stop_grace_period)
    if container.healthcheck is not None:
        _check_health(container.healthcheck)
    targets = [mount.target for mount in container.mounts]
    for mount in container.mounts:
        if mount.type not in ("bind", "volume", "tmpfs"):
            raise MeshnetError(f'invalid MountType: "{mount.type}"')
        if not mount.target.startswith("/"):
            raise invalid(f"invalid mount target, must be an absolute path: {mount.target}")
        if mount.type == "bind" and not mount.source.startswith("/"):
            raise invalid(f"invalid bind mount source, must be an absolute path: {mount.source}")
        if targets.count(mount.target) > 1:
            raise invalid(f"ContainerSpec: duplicate mount point: {mount.target}")


def _check_health(check: Healthcheck) -> None:
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
    ):
        _check_duration(f"ContainerSpec.Healthcheck.{name}", value)
        if 0 < value < SECOND // 1000:
            raise invalid(f"ContainerSpec: {name} in Healthcheck cannot be less than one millisecond")
    if check.retries < 0:
        raise invalid("ContainerSpec: Retries in Healthcheck cannot be negative")
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise invalid(f"ContainerSpec.Healthcheck.Test: {check.test[0]!r} is none of NONE, CMD, CMD-SHELL")


def _check_restart(policy: RestartPolicy) -> None:
    if policy.condition not in ("any", "none", "on-failure"):
        raise MeshnetError(f'invalid RestartCondition: "{policy.condition}"')
    _check_duration("RestartPolicy.Delay", policy.delay)
    _check_duration("RestartPolicy.Window", policy.window)
    if policy.max_attempts < 0:
        raise invalid("RestartPolicy.MaxAttempts: a number that is not negative is needed")


def _check_duration(field: str, value: int) -> None:
    if not 0 <= value <= LONGEST:
        raise invalid(f"{field}: a duration that is not negative is needed")


def _endpoint(spec: EndpointSpec) -> EndpointSpec:
    if spec.mode not in ("", "vip", "dnsrr"):
        raise MeshnetError(f'invalid resolution mode: "{spec.mode}"')
    ports = tuple(_port(port) for port in spec.ports)
    if spec.mode == "dnsrr" and any(port.publish_mode == "ingress" for port in ports):
        raise invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    published = [(port.protocol, port.published_port) for port in ports if port.published_port]
    if len(set(published)) != len(published):
        raise invalid("EndpointSpec: duplicate published ports provided")
    return EndpointSpec(spec.mode or "vip", ports)


def _port(port: PortConfig) -> PortConfig:
    port = replace(port, protocol=port.protocol or "tcp", publish_mode=port.publish_mode or "ingress")
    if port.protocol not in ("tcp", "udp"):
        raise MeshnetError(f'invalid protocol for a published port: "{port.protocol}"; use tcp or udp')
    if port.publish_mode not in ("ingress", "host"):
        raise MeshnetError(f'invalid publish mode: "{port.publish_mode}"; use ingress or host')
    if port.publish_mode == "host":
        raise MeshnetError(
            f"port {port.published_port or port.target_port}: publishing with mode=host is not served yet; "
            "leave mode out to publish on every node",
            501,
        )
    if not 1 <= port.target_port <= LAST_PORT:
        raise invalid(f"EndpointSpec: target port {port.target_port} is not between 1 and {LAST_PORT}")
    if not 0 <= port.published_port <= LAST_PORT:
        raise invalid(f"EndpointSpec: published port {port.published_port} is not between 0 and {LAST_PORT}")
    if (port.protocol, port.published_port) in RESERVED_PORTS:
        raise invalid(
            f"port '{port.published_port}/{port.protocol}' is reserved for the nodes themselves; publish another port"
        )
    return port


def network_spec(spec: NetworkSpec, driver: str, scope: str, ipv6: bool) -> NetworkSpec:
    """An overlay network's spec. What else the Engine could create is refused: no other driver is here."""
    if not spec.name:
        raise MeshnetError("network with name  already exists", 409)
    if driver not in ("", "overlay"):
        raise MeshnetError(f'plugin "{driver}" not found: networks of a swarm use the driver "overlay"', 404)
    if scope == "local":
        raise MeshnetError("cannot downgrade network scope for overlay networks")
    if ipv6:
        raise MeshnetError("IPv6 addresses on overlay networks are not supported; leave out --ipv6")
    if "encrypted" in spec.options:
        raise MeshnetError("encrypted networks are not supported yet; leave out --opt encrypted")
    check_name(spec.name)
    return spec


def node_spec(spec: NodeSpec) -> NodeSpec:
    """A node's spec as a person may set it."""
    if spec.role not in ("worker", "manager"):
        raise MeshnetError(f'invalid Role: "{spec.role}"')
    if spec.availability not in ("active", "pause", "drain"):
        raise MeshnetError(f'invalid Availability: "{spec.availability}"')
    return spec
