"""What Swarm takes where a spec says nothing (swarmkit api/defaults), and the labels by which a service asks for more.

A spec is stored as it was given, so that it can be shown and sent back unchanged; who acts on it asks here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from meshnet.containerspec import DNSConfig, Limit, Resources
from meshnet.errors import MeshnetError
from meshnet.model import (
    SECOND,
    ContainerSpec,
    ResourceRequirements,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

STOP_GRACE = 10 * SECOND
RESTART_DELAY = 5 * SECOND
MONITOR = 5 * SECOND
RESTART = RestartPolicy()
UPDATE = UpdateConfig(parallelism=1, monitor=MONITOR)
NOTHING = Resources()

PLACEMENT_LABEL = "meshnet.placement"
PLACEMENTS = ("spread", "binpack", "random")
DEADLINE_LABEL = "meshnet.update.deadline"
DEADLINE = 600.0
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def restart_of(spec: TaskSpec) -> RestartPolicy:
    return spec.restart_policy or RESTART


def restart_delay(policy: RestartPolicy) -> float:
    """Seconds."""
    return (RESTART_DELAY if policy.delay is None else policy.delay) / SECOND


def reservations_of(spec: TaskSpec) -> Resources:
    return (spec.resources.reservations if spec.resources else None) or NOTHING


def update_of(spec: ServiceSpec, rollback: bool = False) -> UpdateConfig:
    """How the service is updated, or rolled back."""
    config = (spec.rollback_config if rollback else spec.update_config) or UPDATE
    return config if config.monitor else replace(config, monitor=MONITOR)


def placement_of(labels: Mapping[str, str]) -> str:
    """The strategy that a service's labels ask for. Raises MeshnetError for one that does not exist."""
    strategy = labels.get(PLACEMENT_LABEL, "spread")
    if strategy not in PLACEMENTS:
        raise MeshnetError(f"label {PLACEMENT_LABEL}: {strategy!r} is none of {', '.join(PLACEMENTS)}")
    return strategy


def deadline_of(labels: Mapping[str, str]) -> float:
    """Seconds that a task of an update may take until it runs; 0.0 is for ever. Raises MeshnetError."""
    text = labels.get(DEADLINE_LABEL)
    if text is None:
        return DEADLINE
    if text in ("0", "none"):
        return 0.0
    try:
        return duration(text)
    except MeshnetError as error:
        raise MeshnetError(f"label {DEADLINE_LABEL}: {error}, nor none") from None


def duration(text: str) -> float:
    """Seconds of a text such as `90s`, `10m` or `1h30m`. Raises MeshnetError."""
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise MeshnetError(f"{text!r} is no duration such as 90s or 10m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def interpolated(spec: ServiceSpec) -> ServiceSpec:
    """The spec as `docker service inspect` shows it: with what holds where nothing was said."""
    template = spec.task_template
    restart = restart_of(template)
    if restart.delay is None:
        restart = replace(restart, delay=RESTART_DELAY)
    return replace(
        spec,
        task_template=replace(
            template,
            container_spec=_container(template.container_spec),
            resources=_resources(template.resources),
            restart_policy=restart,
        ),
        update_config=None if spec.mode.job else update_of(spec),
        rollback_config=None if spec.mode.job else update_of(spec, rollback=True),
    )


def same(one: TaskSpec, other: TaskSpec) -> bool:
    """Whether two templates mean the same. A client that reads a spec with its defaults and sends it back, as docker-py
    does for every change, has changed nothing; in Swarm that replaces all tasks."""
    return one is other or one == other or _meant(one) == _meant(other)


def _meant(spec: TaskSpec) -> TaskSpec:
    resources, restart = _resources(spec.resources), restart_of(spec)
    return replace(
        spec,
        container_spec=_container(spec.container_spec),
        resources=ResourceRequirements(resources.limits or Limit(), resources.reservations or NOTHING),
        restart_policy=replace(
            restart,
            delay=RESTART_DELAY if restart.delay is None else restart.delay,
            window=restart.window or 0,
        ),
    )


def _resources(resources: ResourceRequirements | None) -> ResourceRequirements:
    return resources or ResourceRequirements()


def _container(spec: ContainerSpec) -> ContainerSpec:
    grace = STOP_GRACE if spec.stop_grace_period is None else spec.stop_grace_period
    return replace(spec, stop_grace_period=grace, dns_config=spec.dns_config or DNSConfig())
