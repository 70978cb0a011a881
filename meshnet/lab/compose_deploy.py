"""The `deploy` part of a compose service: how many tasks, where, how they restart, update, and what they may use."""

from __future__ import annotations

import re

from meshnet.containerspec import DiscreteGenericResource, GenericResource, Limit
from meshnet.lab import words
from meshnet.lab.compose_words import text as _text
from meshnet.lab.yamlnodes import Value
from meshnet.model import (
    Global,
    GlobalJob,
    Placement,
    PlacementPreference,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    SpreadOver,
    UpdateConfig,
)

MAX_REPLICAS = 10_000
KEYS = (
    "replicas",
    "mode",
    "endpoint_mode",
    "placement",
    "restart_policy",
    "labels",
    "update_config",
    "rollback_config",
    "resources",
)
MODES = ("replicated", "global", "replicated-job", "global-job")
# swarmkit manager/constraint: a key, one operator, a value.
_CONSTRAINT = re.compile(r"\s*[a-z][a-zA-Z0-9._/-]*\s*(==|!=)\s*[^=!\s][^=!]*")


def mode(deploy: dict[str, Value]) -> ServiceMode:
    """Which of the four modes, with its number of tasks. Of a job, all run at a time."""
    word = deploy["mode"].choice(*MODES) if "mode" in deploy else "replicated"
    if word.startswith("global"):
        if "replicas" in deploy:
            deploy["replicas"].error("replicas can only be used with mode: replicated or replicated-job")
        return ServiceMode(global_=Global()) if word == "global" else ServiceMode(global_job=GlobalJob())
    replicas = deploy["replicas"].integer(0, MAX_REPLICAS) if "replicas" in deploy else 1
    if word == "replicated-job":
        return ServiceMode(replicated_job=ReplicatedJob(replicas, replicas))
    return ServiceMode(Replicated(replicas))


def placement(value: Value) -> Placement:
    keys = value.map(("constraints", "preferences", "max_replicas_per_node"))
    constraints = []
    for item in keys["constraints"].list() if "constraints" in keys else []:
        text = _text(item)
        if not _CONSTRAINT.fullmatch(text):
            item.error(f"{text!r} is no constraint: write node.role == manager, with one of == and !=")
        constraints.append(text)
    preferences = []
    for item in keys["preferences"].list() if "preferences" in keys else []:
        spread = item.map(("spread",))
        if "spread" in spread:
            preferences.append(PlacementPreference(SpreadOver(_text(spread["spread"]))))
        else:
            item.error("a preference is spread: node.labels.<label>")
    most = keys["max_replicas_per_node"].integer(0, MAX_REPLICAS) if "max_replicas_per_node" in keys else 0
    return Placement(tuple(constraints), tuple(preferences), most)


def restart(value: Value) -> RestartPolicy:
    keys = value.map(("condition", "delay", "max_attempts", "window"))
    default = RestartPolicy()
    return RestartPolicy(
        condition=keys["condition"].choice("none", "on-failure", "any") if "condition" in keys else default.condition,
        delay=keys["delay"].duration() if "delay" in keys else default.delay,
        max_attempts=keys["max_attempts"].integer(0, MAX_REPLICAS) if "max_attempts" in keys else 0,
        window=keys["window"].duration() if "window" in keys else 0,
    )


def update(value: Value, rollback: bool = False) -> UpdateConfig:
    """`update_config`, or `rollback_config`, which cannot roll back. One task at a time by default, as in docker."""
    keys = value.map(("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"))
    actions = ("pause", "continue") if rollback else ("pause", "continue", "rollback")
    return UpdateConfig(
        parallelism=keys["parallelism"].integer(0, MAX_REPLICAS) if "parallelism" in keys else 1,
        delay=keys["delay"].duration() if "delay" in keys else 0,
        failure_action=keys["failure_action"].choice(*actions) if "failure_action" in keys else "pause",
        monitor=keys["monitor"].duration() if "monitor" in keys else 0,
        max_failure_ratio=_ratio(keys["max_failure_ratio"]) if "max_failure_ratio" in keys else 0.0,
        order=keys["order"].choice("stop-first", "start-first") if "order" in keys else "stop-first",
    )


def _ratio(value: Value) -> float:
    text = value.text()
    if not re.fullmatch(r"\d(?:\.\d{1,9})?", text) or float(text) > 1:
        value.error(f"a share from 0 to 1 such as 0.2 is needed, not {text!r}")
        return 0.0
    return float(text)


def resources(value: Value) -> ResourceRequirements:
    """What a task may use (`limits`), and what its node must have free for it (`reservations`)."""
    keys = value.map(("limits", "reservations"))
    limits = keys["limits"].map(("cpus", "memory", "pids")) if "limits" in keys else {}
    reserved = keys["reservations"].map(("cpus", "memory", "generic_resources")) if "reservations" in keys else {}
    limit = Limit(_cpus(limits), _memory(limits), limits["pids"].integer(0, 2**31) if "pids" in limits else 0)
    generic = reserved["generic_resources"].list() if "generic_resources" in reserved else []
    reservation = Resources(
        _cpus(reserved), _memory(reserved), tuple(one for item in generic if (one := _generic(item)))
    )
    return ResourceRequirements(
        limit if limit != Limit() else None, reservation if reservation != Resources() else None
    )


def _cpus(keys: dict[str, Value]) -> int:
    found = words.cpus(keys["cpus"].text()) if "cpus" in keys else 0
    if found is None:
        keys["cpus"].error("a number of processors such as 0.5 is needed")
    return found or 0


def _memory(keys: dict[str, Value]) -> int:
    return size(keys["memory"]) if "memory" in keys else 0


def size(value: Value) -> int:
    """A size such as 50M, in bytes; 0 after a complaint."""
    found = words.size(value.text())
    if found is None:
        value.error("a size such as 50M is needed")
    return found or 0


def _generic(value: Value) -> GenericResource | None:
    keys = value.map(("discrete_resource_spec",))
    spec = keys["discrete_resource_spec"].map(("kind", "value")) if keys else {}
    if "kind" not in spec or "value" not in spec:
        value.error("discrete_resource_spec with kind and value is needed")
        return None
    return GenericResource(None, DiscreteGenericResource(spec["kind"].text(), spec["value"].integer(0, 2**31)))
