"""A ServiceSpec under docker's flags: what is given changes, what is not stays as it is (pure).

`given` has the flags by the names of `service_flags`. A new service is an empty spec under the same change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from meshnet.cli import service_values as values
from meshnet.containerspec import DNSConfig, GenericResource, Limit
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import (
    ConfigReference,
    ContainerSpec,
    EndpointSpec,
    Global,
    GlobalJob,
    Healthcheck,
    NetworkAttachmentConfig,
    Placement,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)

T = TypeVar("T")
Given = Mapping[str, Any]
# A flag, and the field that has its value.
_CONTAINER = {
    "image": "image",
    "args": "args",
    "entrypoint": "command",
    "hostname": "hostname",
    "user": "user",
    "workdir": "dir",
    "tty": "tty",
    "read_only": "read_only",
    "init": "init",
    "stop_signal": "stop_signal",
    "stop_grace_period": "stop_grace_period",
    "oom_score_adj": "oom_score_adj",
}
_UPDATE = ("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order")
_RESTART = ("condition", "delay", "max_attempts", "window")
_HEALTH = ("interval", "timeout", "retries", "start_period", "start_interval")
ONE_AT_A_TIME = UpdateConfig(parallelism=1)
REPLICAS = "replicas can only be used with replicated or replicated-job mode"


@dataclass(frozen=True, slots=True)
class Known:
    """Ids by name of what flags refer to."""

    networks: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)


def changed(spec: ServiceSpec, given: Given, known: Known) -> ServiceSpec:
    """The spec with what is given. Raises MeshnetError or click.UsageError for what cannot be."""
    task = spec.task_template
    placement = Placement(
        _listed(task.placement.constraints, given, "constraint"),
        _listed(task.placement.preferences, given, "placement_pref", values.preference),
        _or(given, "replicas_max_per_node", task.placement.max_replicas),
        task.placement.platforms,
    )
    return replace(
        spec,
        name=_or(given, "name", spec.name),
        labels=_labels(spec.labels, given, "label"),
        task_template=replace(
            task,
            container_spec=_container(task.container_spec, given, known),
            resources=_resources(task.resources, given),
            restart_policy=_fields(RestartPolicy(), task.restart_policy, given, "restart", _RESTART),
            placement=placement,
            networks=_networks(task.networks, given, known),
            force_update=task.force_update + bool(given.get("force")),
        ),
        mode=_mode(spec.mode, given),
        update_config=_fields(ONE_AT_A_TIME, spec.update_config, given, "update", _UPDATE),
        rollback_config=_fields(ONE_AT_A_TIME, spec.rollback_config, given, "rollback", _UPDATE),
        endpoint_spec=_endpoint(spec.endpoint_spec, given),
    )


def _or(given: Given, name: str, before: T) -> T:
    found: T | None = given.get(name)
    return before if found is None else found


def _fields(new: T, before: T | None, given: Given, prefix: str, names: Iterable[str]) -> T | None:
    """An optional part of the spec, made (from `new`) when something of it is given."""
    found = {name: given[f"{prefix}_{name}"] for name in names if given.get(f"{prefix}_{name}") is not None}
    return replace(before or new, **found) if found else before  # type: ignore[type-var]  # T is a dataclass of a spec


def _keyed(before: Iterable[T], added: Iterable[T], removed: Iterable[str], key: Callable[[T], str]) -> tuple[T, ...]:
    """A list in which what is added replaces what has its key, in its place; what is removed goes first."""
    gone = set(removed)
    found = {key(item): item for item in before if key(item) not in gone}
    found.update({key(item): item for item in added})
    return tuple(found.values())


def _listed(before: tuple[T, ...], given: Given, name: str, read: Callable[[str], Any] = str) -> tuple[T, ...]:
    """A list of things that are removed as they were written."""
    removed = [read(text) for text in given.get(f"{name}_rm", ())]
    kept = [item for item in before if item not in removed]
    return tuple(dict.fromkeys((*kept, *(read(text) for text in given.get(f"{name}_add", ())))))


def _labels(before: dict[str, str], given: Given, name: str) -> dict[str, str]:
    kept = {key: value for key, value in before.items() if key not in given.get(f"{name}_rm", ())}
    return kept | values.pairs(given.get(f"{name}_add", ()), f"--{name.replace('_', '-')}")


def _container(spec: ContainerSpec, given: Given, known: Known) -> ContainerSpec:
    single = {field: given[flag] for flag, field in _CONTAINER.items() if given.get(flag) is not None}
    added = given.get("env_add", ())
    for text in added:
        if not text.partition("=")[0]:
            raise values.wrong("--env", text, "write NAME=value")
    mounts = [values.mount(text) for text in given.get("mount_add", ())]
    limits = [values.ulimit(text) for text in given.get("ulimit_add", ())]
    return replace(
        spec,
        **single,
        labels=_labels(spec.labels, given, "container_label"),
        env=_keyed(spec.env, added, given.get("env_rm", ()), lambda entry: entry.partition("=")[0]),
        groups=_listed(spec.groups, given, "group"),
        mounts=_keyed(spec.mounts, mounts, given.get("mount_rm", ()), lambda mount: mount.target),
        healthcheck=_health(spec.healthcheck, given),
        hosts=_listed(spec.hosts, given, "host", values.host),
        dns_config=_dns(spec.dns_config, given),
        secrets=_secrets(spec.secrets, given, known.secrets),
        configs=_configs(spec.configs, given, known.configs),
        sysctls=_labels(spec.sysctls, given, "sysctl"),
        ulimits=_keyed(spec.ulimits, limits, given.get("ulimit_rm", ()), lambda limit: limit.name),
        capability_add=tuple(dict.fromkeys((*spec.capability_add, *given.get("cap_add", ())))),
        capability_drop=tuple(dict.fromkeys((*spec.capability_drop, *given.get("cap_drop", ())))),
    )


def _dns(before: DNSConfig | None, given: Given) -> DNSConfig | None:
    old = before or DNSConfig()
    parts = (("dns", old.nameservers), ("dns_search", old.search), ("dns_option", old.options))
    found = DNSConfig(*(_listed(have, given, name) for name, have in parts))
    return found if found != DNSConfig() else before and found


def _health(before: Healthcheck | None, given: Given) -> Healthcheck | None:
    command = given.get("health_cmd")
    asked = command is not None or any(given.get(f"health_{name}") is not None for name in _HEALTH)
    if given.get("no_healthcheck"):
        if asked:
            raise MeshnetError("--no-healthcheck conflicts with --health-* options")
        return Healthcheck(("NONE",))
    found = _fields(Healthcheck(), before, given, "health", _HEALTH)
    if command is not None:
        return replace(found or Healthcheck(), test=("CMD-SHELL", command) if command else ())
    return replace(found, test=()) if asked and found is not None and found.test == ("NONE",) else found


def _secrets(
    before: tuple[SecretReference, ...], given: Given, known: Mapping[str, str]
) -> tuple[SecretReference, ...]:
    read = (values.reference(text, "--secret") for text in given.get("secret_add", ()))
    added = [SecretReference(file, _id(known, name, "secret"), name) for name, file in read]
    kept = [item for item in before if item.secret_name not in given.get("secret_rm", ())]
    return _keyed(kept, added, (), lambda item: item.file.name if item.file else item.secret_name)


def _configs(
    before: tuple[ConfigReference, ...], given: Given, known: Mapping[str, str]
) -> tuple[ConfigReference, ...]:
    read = (values.reference(text, "--config") for text in given.get("config_add", ()))
    added = [ConfigReference(file, None, _id(known, name, "config"), name) for name, file in read]
    kept = [item for item in before if item.config_name not in given.get("config_rm", ())]
    return _keyed(kept, added, (), lambda item: item.file.name if item.file else item.config_name)


def _id(known: Mapping[str, str], name: str, kind: str) -> str:
    if name not in known:
        raise NotFoundError(f"{kind} not found: {name}")
    return known[name]


def _networks(
    before: tuple[NetworkAttachmentConfig, ...], given: Given, known: Known
) -> tuple[NetworkAttachmentConfig, ...]:
    """Networks stand in a spec by id once it is stored, and are given by name."""

    def ident(name: str) -> str:
        return known.networks.get(name, name)

    added = [values.network(text) for text in given.get("network_add", ())]
    gone = {ident(name) for name in given.get("network_rm", ())}
    return _keyed(before, added, gone, lambda item: ident(item.target))


def _resources(before: ResourceRequirements | None, given: Given) -> ResourceRequirements | None:
    old = before or ResourceRequirements()
    limits, reserved = old.limits or Limit(), old.reservations or Resources()
    limits = Limit(
        _or(given, "limit_cpu", limits.nano_cpus),
        _or(given, "limit_memory", limits.memory_bytes),
        _or(given, "limit_pids", limits.pids),
    )
    things = [values.resource(text) for text in given.get("generic_resource_add", ())]
    generic = _keyed(reserved.generic_resources, things, given.get("generic_resource_rm", ()), _kind)
    reserved = Resources(
        _or(given, "reserve_cpu", reserved.nano_cpus), _or(given, "reserve_memory", reserved.memory_bytes), generic
    )
    found = ResourceRequirements(
        limits if limits != (old.limits or Limit()) else old.limits,
        reserved if reserved != (old.reservations or Resources()) else old.reservations,
    )
    return before if found == ResourceRequirements() else found


def _kind(resource: GenericResource) -> str:
    one = resource.named_resource_spec or resource.discrete_resource_spec
    return one.kind if one else ""


def _mode(before: ServiceMode, given: Given) -> ServiceMode:
    word, replicas, most = given.get("mode"), given.get("replicas"), given.get("max_concurrent")
    mode = {"global": ServiceMode(global_=Global()), "global-job": ServiceMode(global_job=GlobalJob())}.get(word or "")
    if word == "replicated-job":
        mode = ServiceMode(replicated_job=ReplicatedJob(total_completions=1))
    mode = mode or (ServiceMode(Replicated()) if word else before)
    if mode.everywhere and replicas is not None:
        raise MeshnetError(REPLICAS)
    if mode.replicated_job is None and most is not None:
        raise MeshnetError("max-concurrent can only be used with replicated-job mode")
    if mode.replicated_job is not None:
        total = mode.replicated_job.total_completions if replicas is None else replicas
        running = mode.replicated_job.max_concurrent if most is None else most
        return ServiceMode(replicated_job=ReplicatedJob(total if running is None else running, total))
    return mode if replicas is None else ServiceMode(Replicated(replicas))


def scaled(spec: ServiceSpec, replicas: int) -> ServiceSpec:
    """The spec with another number of tasks. Raises MeshnetError if that is no number of its own."""
    if spec.mode.everywhere:
        raise MeshnetError("scale can only be used with replicated or replicated-job mode")
    return replace(spec, mode=_mode(spec.mode, {"replicas": replicas}))


def _endpoint(before: EndpointSpec, given: Given) -> EndpointSpec:
    mode = _or(given, "endpoint_mode", before.mode)
    kept = list(before.ports)
    for text in given.get("publish_rm", ()):
        for asked in values.ports([text], "--publish-rm"):
            gone = [port for port in kept if _meant(port, asked)]
            if not gone:
                raise MeshnetError(_not_published(text, asked, before.ports))
            kept = [port for port in kept if port not in gone]
    added = values.ports(given.get("publish_add", ()))
    found = _keyed(kept, added, (), lambda port: repr(dataclasses.astuple(port)))
    if mode == "dnsrr" and any(port.publish_mode == "ingress" for port in found):
        raise MeshnetError("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    return EndpointSpec(mode, found)


def _meant(port: PortConfig, asked: PortConfig) -> bool:
    same = (port.target_port, port.protocol) == (asked.target_port, asked.protocol)
    return same and asked.published_port in (0, port.published_port)


def _not_published(text: str, asked: PortConfig, ports: Iterable[PortConfig]) -> str:
    """docker takes this for done, and people wonder: the flag wants the port inside the task."""
    inner = [str(port.target_port) for port in ports if port.published_port == asked.target_port]
    hint = f"; published port {text} leads to target port {inner[0]}: --publish-rm {inner[0]}" if inner else ""
    return f"--publish-rm {text}: no port is published with that target port{hint}"
