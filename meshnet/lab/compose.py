"""Reads the part of the compose file format that Swarm uses into service and network specs.

A lab is one stack, so names stay as they are written (`docker stack deploy` puts the stack's name before them).
Dollar signs: variables are not substituted, so a single one is refused and `$$` stands for one, as in compose.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network

from meshnet import ipam
from meshnet.errors import MeshnetError
from meshnet.lab import compose_words
from meshnet.lab.compose_ports import ports
from meshnet.lab.compose_words import text as _text
from meshnet.lab.words import name_problem
from meshnet.lab.yamlnodes import Value
from meshnet.model import (
    SECOND,
    ContainerSpec,
    EndpointSpec,
    Global,
    Healthcheck,
    IPAMConfig,
    IPAMOptions,
    NetworkAttachmentConfig,
    NetworkSpec,
    Placement,
    PlacementPreference,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)

MAX_REPLICAS = 10_000
SHORTEST = SECOND // 1000
_SERVICE = (
    "image",
    "command",
    "entrypoint",
    "environment",
    "hostname",
    "user",
    "working_dir",
    "networks",
    "ports",
    "deploy",
    "healthcheck",
    "labels",
    "stop_grace_period",
    "stop_signal",
)
_DEPLOY = (
    "replicas",
    "mode",
    "endpoint_mode",
    "placement",
    "restart_policy",
    "labels",
    "update_config",
    "rollback_config",
)
_NETWORK = ("driver", "driver_opts", "internal", "attachable", "ipam", "name", "external", "labels")
_UPDATE = ("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order")
# swarmkit manager/constraint: a key, one operator, a value.
_CONSTRAINT = re.compile(r"\s*[a-z][a-zA-Z0-9._/-]*\s*(==|!=)\s*[^=!\s][^=!]*")


@dataclass(frozen=True, slots=True)
class Stack:
    """What a compose file asks for. The pairs with a Value point into the file, for further checks."""

    networks: tuple[NetworkSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    placed_networks: tuple[tuple[Value, NetworkSpec], ...] = ()
    placed_services: tuple[tuple[Value, ServiceSpec], ...] = ()
    external: tuple[Value, ...] = ()
    subnets: tuple[tuple[Value, IPv4Network], ...] = ()
    images: tuple[tuple[Value, str], ...] = ()
    users: tuple[Value, ...] = ()
    warnings: tuple[str, ...] = ()


def parse(root: Value) -> Stack:
    """The stack in a compose file. Mistakes are collected in the root's `problems`."""
    keys = root.map(("version", "services", "networks"))
    declared = keys["networks"].map() if "networks" in keys else {}
    networks: dict[str, NetworkSpec] = {}
    external: list[Value] = []
    subnets: list[tuple[Value, IPv4Network]] = []
    for key, value in declared.items():
        entries = value.map(_NETWORK)
        networks[key] = _network(key, value, entries)
        if "external" in entries and entries["external"].flag():
            external.append(value)
        subnets.extend(_subnets(entries, subnets))
    services, images, users, warnings = [], [], [], []
    places = keys["services"].map() if "services" in keys else {}
    for name, value in places.items():
        if problem := name_problem(name):
            value.error(problem)
        entries = value.map(_SERVICE)
        services.append(_service(name, value, entries, networks))
        container = services[-1].task_template.container_spec
        if "image" in entries:
            images.append((entries["image"], container.image))
        if "user" in entries and container.user:
            users.append(entries["user"])
        warnings += _ignored(name, entries)
    if not services:
        root.error("there are no services in it")
    _published_once(places, services)
    owned = {value.name for value in external}
    placed = tuple((declared.get(key, root), spec) for key, spec in networks.items() if f"networks.{key}" not in owned)
    _distinct("network", [(place, spec.name) for place, spec in placed])
    _distinct("service", [(value, name) for name, value in places.items()])
    return Stack(
        networks=tuple(spec for _, spec in placed),
        services=tuple(services),
        placed_networks=placed,
        placed_services=tuple(zip(places.values(), services, strict=True)),
        external=tuple(external),
        subnets=tuple(subnets),
        images=tuple(images),
        users=tuple(users),
        warnings=tuple(warnings),
    )


def _distinct(kind: str, named: list[tuple[Value, str]]) -> None:
    """Names that differ by case alone would be one in DNS, and are one in Swarm's store."""
    taken: dict[str, str] = {}
    for place, name in named:
        known = taken.setdefault(name.lower(), place.name)
        if known != place.name:
            place.error(f"{known} has the name of this {kind} already; names must differ by more than case")


def _published_once(entries: dict[str, Value], services: list[ServiceSpec]) -> None:
    taken: dict[tuple[int, str], str] = {}
    for spec in services:
        for port in spec.endpoint_spec.ports:
            key = (port.published_port, port.protocol)
            if port.published_port and taken.setdefault(key, spec.name) != spec.name:
                entries[spec.name].error(
                    f"port {port.published_port}/{port.protocol} is published by {taken[key]} already"
                )


def _ignored(name: str, keys: dict[str, Value]) -> list[str]:
    deploy = keys["deploy"].map() if "deploy" in keys else {}
    for key in ("update_config", "rollback_config"):
        if key in deploy:
            deploy[key].map(_UPDATE)
    return [
        f"services.{name}.deploy.{key}: accepted, and not in force yet" for key in sorted(deploy) if "_config" in key
    ]


def _words(value: Value) -> tuple[str, ...]:
    """A command: a list as it is, or text split like a shell does."""
    if value.is_list:
        return tuple(_text(item) for item in value.list())
    try:
        return tuple(shlex.split(_text(value)))
    except ValueError as error:
        value.error(f"not a command line: {error}")
        return ()


def _pairs(value: Value, read: Callable[[Value], str] = _text) -> dict[str, str]:
    """Labels or environment: a mapping, or a list of NAME=value; `read` takes one value."""
    if not value.is_list:
        entries = value.map()
        if "" in entries:
            entries.pop("").error("a name is missing before the colon")
        return {key: "" if item.empty else read(item) for key, item in entries.items()}
    found = {}
    for item in value.list():
        key, equals, text = read(item).partition("=")
        if not equals or not key:
            item.error("write NAME=value; nothing is taken from the environment")
        found[key] = text
    return found


def _environment(value: Value) -> tuple[str, ...]:
    return tuple(f"{key}={text}" for key, text in _pairs(value, compose_words.template).items())


def _service(name: str, value: Value, keys: dict[str, Value], networks: dict[str, NetworkSpec]) -> ServiceSpec:
    if "image" not in keys:
        value.error("image is missing")
    deploy = keys["deploy"].map(_DEPLOY) if "deploy" in keys else {}
    container = ContainerSpec(
        image=_text(keys["image"]) if "image" in keys else "",
        labels=_pairs(keys["labels"]) if "labels" in keys else {},
        command=_words(keys["entrypoint"]) if "entrypoint" in keys else (),
        args=_words(keys["command"]) if "command" in keys else (),
        hostname=compose_words.hostname(keys["hostname"]) if "hostname" in keys else "",
        env=_environment(keys["environment"]) if "environment" in keys else (),
        dir=compose_words.directory(keys["working_dir"]) if "working_dir" in keys else "",
        user=compose_words.user(keys["user"]) if "user" in keys else "",
        stop_signal=compose_words.stop_signal(keys["stop_signal"]) if "stop_signal" in keys else "",
        stop_grace_period=keys["stop_grace_period"].duration() if "stop_grace_period" in keys else None,
        healthcheck=_healthcheck(keys["healthcheck"]) if "healthcheck" in keys else None,
    )
    task = TaskSpec(
        container_spec=container,
        networks=_attachments(keys.get("networks"), networks),
        placement=_placement(deploy["placement"]) if "placement" in deploy else Placement(),
        restart_policy=_restart(deploy["restart_policy"]) if "restart_policy" in deploy else RestartPolicy(),
    )
    mode = deploy["endpoint_mode"].choice("vip", "dnsrr") if "endpoint_mode" in deploy else "vip"
    published = ports(keys["ports"]) if "ports" in keys else ()
    _refuse_dnsrr_ingress(keys, mode, published)
    return ServiceSpec(
        name=name,
        labels=_pairs(deploy["labels"]) if "labels" in deploy else {},
        task_template=task,
        mode=_mode(deploy),
        endpoint_spec=EndpointSpec(mode, published),
    )


def _refuse_dnsrr_ingress(keys: dict[str, Value], mode: str, published: tuple[PortConfig, ...]) -> None:
    if mode == "dnsrr" and any(port.publish_mode == "ingress" for port in published):
        keys["ports"].error("a dnsrr service has no VIP to publish through; use endpoint_mode: vip")


def _mode(deploy: dict[str, Value]) -> ServiceMode:
    mode = deploy["mode"].choice("replicated", "global") if "mode" in deploy else "replicated"
    if mode == "global":
        if "replicas" in deploy:
            deploy["replicas"].error("replicas can only be used with mode: replicated")
        return ServiceMode(global_=Global())
    return ServiceMode(Replicated(deploy["replicas"].integer(0, MAX_REPLICAS) if "replicas" in deploy else 1))


def _attachments(value: Value | None, networks: dict[str, NetworkSpec]) -> tuple[NetworkAttachmentConfig, ...]:
    if value is None or value.empty:
        spec = networks.setdefault("default", NetworkSpec(name="default"))
        return (NetworkAttachmentConfig(spec.name),)
    wanted: dict[str, Value] = {item.text(): item for item in value.list()} if value.is_list else value.map()
    found = []
    for key, item in wanted.items():
        entries = item.map(("aliases",)) if not value.is_list else {}
        if key == "default":
            networks.setdefault("default", NetworkSpec(name="default"))
        if key not in networks:
            item.error(f"the network {key} is not declared under the top-level networks")
            continue
        aliases = tuple(compose_words.alias(item) for item in entries["aliases"].list()) if "aliases" in entries else ()
        found.append(NetworkAttachmentConfig(networks[key].name, aliases))
    return tuple(found)


def _placement(value: Value) -> Placement:
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


def _restart(value: Value) -> RestartPolicy:
    keys = value.map(("condition", "delay", "max_attempts", "window"))
    default = RestartPolicy()
    return RestartPolicy(
        condition=keys["condition"].choice("none", "on-failure", "any") if "condition" in keys else default.condition,
        delay=keys["delay"].duration() if "delay" in keys else default.delay,
        max_attempts=keys["max_attempts"].integer(0, MAX_REPLICAS) if "max_attempts" in keys else 0,
        window=keys["window"].duration() if "window" in keys else 0,
    )


def _healthcheck(value: Value) -> Healthcheck:
    keys = value.map(("test", "interval", "timeout", "retries", "start_period", "disable"))
    if "disable" in keys and keys["disable"].flag():
        return Healthcheck(test=("NONE",))
    test: tuple[str, ...] = ()
    if "test" in keys and keys["test"].is_list:
        test = _words(keys["test"])
        if not test or test[0] not in ("NONE", "CMD", "CMD-SHELL"):
            keys["test"].error("a list begins with NONE, CMD or CMD-SHELL")
        elif test[0] != "NONE" and not test[1:]:
            keys["test"].error(f"a command is needed behind {test[0]}")
    elif "test" in keys:
        test = ("CMD-SHELL", _text(keys["test"]))
    return Healthcheck(
        test=test,
        interval=_period(keys["interval"]) if "interval" in keys else 0,
        timeout=_period(keys["timeout"]) if "timeout" in keys else 0,
        retries=keys["retries"].integer(0, MAX_REPLICAS) if "retries" in keys else 0,
        start_period=_period(keys["start_period"]) if "start_period" in keys else 0,
    )


def _period(value: Value) -> int:
    """A time of a health check, in nanoseconds: nothing (0 is the default), or a millisecond and more."""
    found = value.duration()
    if 0 < found < SHORTEST:
        value.error("at least 1ms is needed")
    return found


def _network(key: str, value: Value, keys: dict[str, Value]) -> NetworkSpec:
    name = keys["name"].text() if "name" in keys else key
    if problem := name_problem(name):
        keys.get("name", value).error(problem)
    if name.lower() == "ingress":
        value.error("ingress is the routing mesh's own network; ports published in mode ingress use it")
    if "driver" in keys:
        keys["driver"].choice("overlay")
    return NetworkSpec(
        name=name,
        labels=_pairs(keys["labels"]) if "labels" in keys else {},
        internal="internal" in keys and keys["internal"].flag(),
        attachable="attachable" in keys and keys["attachable"].flag(),
        options=keys["driver_opts"].text_map() if "driver_opts" in keys else {},
        ipam_options=IPAMOptions(tuple(config for _, config in _ipam(keys))),
    )


def _ipam(keys: dict[str, Value]) -> list[tuple[Value, IPAMConfig]]:
    ipam = keys["ipam"].map(("driver", "config")) if "ipam" in keys else {}
    if "driver" in ipam:
        ipam["driver"].choice("default")
    found = []
    for item in ipam["config"].list() if "config" in ipam else []:
        entries = item.map(("subnet", "gateway", "ip_range"))
        if "subnet" not in entries:
            item.error("subnet is missing")
            continue
        texts = {key: entries[key].text() if key in entries else "" for key in ("subnet", "ip_range", "gateway")}
        found.append((entries["subnet"], IPAMConfig(texts["subnet"], texts["ip_range"], texts["gateway"])))
    return found


def _subnets(keys: dict[str, Value], others: list[tuple[Value, IPv4Network]]) -> list[tuple[Value, IPv4Network]]:
    found = []
    for value, config in _ipam(keys):
        try:
            subnet = IPv4Network(config.subnet)
        except ValueError as error:
            value.error(f"an IPv4 subnet such as 10.0.9.0/24 is needed: {error}")
            continue
        try:
            usable = ipam.parse_subnet(str(subnet))
            if config.range:
                ipam.parse_range(config.range, usable)
            if config.gateway:
                ipam.parse_gateway(config.gateway, usable)
        except MeshnetError as error:
            value.error(str(error))
        for other, taken in others:
            if subnet.overlaps(taken):
                value.error(f"{subnet} overlaps {taken} of {other.name.rsplit('.ipam', 1)[0]}")
        found.append((value, subnet))
    return found
