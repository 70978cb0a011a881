"""What the Docker Engine and Swarm refuse about a spec before looking at the swarm, in their words.

Each function returns the spec completed with the defaults that Swarm fills in, or raises MeshnetError. Where the Engine
takes what cannot work (reserved ports, unreadable aliases) this refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from meshnet.api.validate_container import container, duration, resources
from meshnet.control.constraints import parse
from meshnet.control.defaults import deadline_of, placement_of
from meshnet.control.refusals import invalid
from meshnet.errors import MeshnetError
from meshnet.ipam import RESERVED_PORTS
from meshnet.model import (
    EndpointSpec,
    NetworkSpec,
    NodeSpec,
    PortConfig,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

# The same language as Swarm's expression, but matched in linear time.
NAME = re.compile(r"[a-zA-Z0-9](?:[-_a-zA-Z0-9]*[a-zA-Z0-9])?")
ALIAS = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.\-]*[a-zA-Z0-9_])?")
LAST_PORT = 65535
MTU_OPTION = "com.docker.network.driver.mtu"
LEAST_MTU = 68  # RFC 791
MOST_REPLICAS = 100_000
LOCAL_DRIVERS = ("bridge", "host", "null", "macvlan", "ipvlan")  # of networks on one machine
ROLLBACK_ACTIONS = ("pause", "continue")
UPDATE_ACTIONS = (*ROLLBACK_ACTIONS, "rollback")
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


def check_runtime(body: Any) -> None:
    """Refuses a service that would run as something else than containers. `body` is the spec as it was sent."""
    template = body.get("TaskTemplate") if isinstance(body, dict) else None
    runtime = template.get("Runtime") if isinstance(template, dict) else None
    if runtime not in (None, "", "container"):
        raise invalid(f"TaskTemplate.Runtime: {runtime!r} is not supported; use container")


def service_spec(spec: ServiceSpec, rng: Random) -> ServiceSpec:
    """A service's spec, ready to be stored but for its networks' names."""
    if not spec.name:
        spec = replace(spec, name=made_up_name(rng))
    check_name(spec.name)
    placement_of(spec.labels)
    deadline_of(spec.labels)
    template = spec.task_template
    if not template.networks and spec.networks:
        template = replace(template, networks=spec.networks)
    checked = replace(
        spec,
        mode=_mode(spec.mode),
        task_template=_template(template),
        update_config=_update(spec.update_config, UPDATE_ACTIONS),
        rollback_config=_update(spec.rollback_config, ROLLBACK_ACTIONS),
        networks=(),
        endpoint_spec=_endpoint(spec.endpoint_spec),
    )
    if checked.mode.job:
        _check_job(checked)
    return checked


def _mode(mode: ServiceMode) -> ServiceMode:
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    if sum(one is not None for one in given) > 1:
        raise MeshnetError("must specify only one service mode")
    if mode.everywhere:
        return mode
    if mode.replicated_job is not None:
        return ServiceMode(replicated_job=_job(mode.replicated_job))
    replicated = mode.replicated or Replicated()
    if replicated.replicas > MOST_REPLICAS:
        raise invalid(f"Mode.Replicated.Replicas: a number from 0 to {MOST_REPLICAS} is needed")
    return ServiceMode(replicated)


def _job(job: ReplicatedJob) -> ReplicatedJob:
    concurrent = 1 if job.max_concurrent is None else job.max_concurrent
    total = concurrent if job.total_completions is None else job.total_completions
    for field, value in (("MaxConcurrent", concurrent), ("TotalCompletions", total)):
        if not 0 <= value <= MOST_REPLICAS:
            raise invalid(f"Mode.ReplicatedJob.{field}: a number from 0 to {MOST_REPLICAS} is needed")
    return ReplicatedJob(concurrent, total)


def _check_job(spec: ServiceSpec) -> None:
    if spec.update_config is not None or spec.rollback_config is not None:
        raise invalid("update and rollback configuration is not supported for jobs")


def _template(template: TaskSpec) -> TaskSpec:
    for constraint in template.placement.constraints:
        try:
            parse(constraint)
        except MeshnetError as error:
            raise MeshnetError(f"rpc error: code = Unknown desc = {error}", 500) from None
    if template.placement.max_replicas > MOST_REPLICAS:
        raise invalid(f"Placement.MaxReplicas: a number from 0 to {MOST_REPLICAS} is needed")
    if template.restart_policy is not None:
        _check_restart(template.restart_policy)
    resources(template.resources)
    for network in template.networks:
        for alias in network.aliases:
            if not ALIAS.fullmatch(alias) or len(alias) > 253:
                raise invalid(f"alias {alias!r} of network {network.target} cannot be a DNS name")
    return replace(template, container_spec=container(template.container_spec))


def _check_restart(policy: RestartPolicy) -> None:
    if policy.condition not in ("any", "none", "on-failure"):
        raise MeshnetError(f'invalid RestartCondition: "{policy.condition}"')
    duration("RestartPolicy.Delay", policy.delay or 0)
    duration("RestartPolicy.Window", policy.window or 0)


def _update(config: UpdateConfig | None, actions: Sequence[str]) -> UpdateConfig | None:
    if config is None:
        return None
    action, order = config.failure_action or "pause", config.order or "stop-first"
    if action not in actions:
        raise MeshnetError(f"unrecognized update failure action {action}")
    if order not in ("stop-first", "start-first"):
        raise MeshnetError(f"unrecognized update order {order}")
    if not 0 <= config.max_failure_ratio <= 1:
        raise invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
    return replace(config, failure_action=action, order=order)


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
    if not 1 <= port.target_port <= LAST_PORT:
        raise invalid(f"EndpointSpec: target port {port.target_port} is not between 1 and {LAST_PORT}")
    if not 0 <= port.published_port <= LAST_PORT:
        raise invalid(f"EndpointSpec: published port {port.published_port} is not between 0 and {LAST_PORT}")
    if (port.protocol, port.published_port) in RESERVED_PORTS:
        raise invalid(
            f"port '{port.published_port}/{port.protocol}' is reserved for the nodes themselves; publish another port"
        )
    return port


def network_spec(spec: NetworkSpec, driver: str, scope: str) -> NetworkSpec:
    """An overlay network's spec. What else the Engine could create is refused: no other driver is here."""
    if not spec.name:
        raise MeshnetError("network with name  already exists", 409)
    if driver not in ("", "overlay"):
        hint = ': networks are made with the driver "overlay"' if driver in LOCAL_DRIVERS else ""
        raise MeshnetError(f'plugin "{driver}" not found{hint}', 404)
    if scope == "local":
        raise MeshnetError("cannot downgrade network scope for overlay networks")
    if spec.ingress and (spec.attachable or spec.internal):
        raise invalid("an ingress network can be neither attachable nor internal")
    mtu = spec.options.get(MTU_OPTION)
    if mtu is not None and not (mtu.isascii() and mtu.isdigit() and LEAST_MTU <= int(mtu[:6]) <= LAST_PORT):
        raise MeshnetError(f"invalid {MTU_OPTION} {mtu!r}: a number from {LEAST_MTU} to {LAST_PORT} is needed")
    check_name(spec.name)
    return spec


def node_spec(spec: NodeSpec) -> NodeSpec:
    """A node's spec as a person may set it."""
    if spec.role not in ("worker", "manager"):
        raise MeshnetError(f'invalid Role: "{spec.role}"')
    if spec.availability not in ("active", "pause", "drain"):
        raise MeshnetError(f'invalid Availability: "{spec.availability}"')
    return spec
