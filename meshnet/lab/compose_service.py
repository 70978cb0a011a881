"""One service of a compose file as a ServiceSpec."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from meshnet.containerspec import DNSConfig
from meshnet.lab import compose_deploy, compose_words
from meshnet.lab.compose_deploy import MAX_REPLICAS
from meshnet.lab.compose_files import Declared, config_references, secret_references
from meshnet.lab.compose_mounts import mounts
from meshnet.lab.compose_ports import ports
from meshnet.lab.compose_words import pairs
from meshnet.lab.compose_words import text as _text
from meshnet.lab.yamlnodes import Value
from meshnet.model import (
    SECOND,
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    NetworkAttachmentConfig,
    Placement,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)

SHORTEST = SECOND // 1000
KEYS = (
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
    "volumes",
    "secrets",
    "configs",
    "init",
    "read_only",
    "tty",
    "stdin_open",
    "cap_add",
    "cap_drop",
    "dns",
    "dns_search",
    "extra_hosts",
    "sysctls",
)
# What docker's stacks leave aside, too: a swarm has no such thing, or does it in another way.
IGNORED = ("container_name", "depends_on", "expose", "links", "restart")
STACK, IMAGE = "com.docker.stack.namespace", "com.docker.stack.image"


def _words(value: Value) -> tuple[str, ...]:
    """A command: a list as it is, or text split like a shell does."""
    if value.is_list:
        return tuple(_text(item) for item in value.list())
    try:
        return tuple(shlex.split(_text(value)))
    except ValueError as error:
        value.error(f"not a command line: {error}")
        return ()


def _environment(value: Value) -> tuple[str, ...]:
    return tuple(f"{key}={text}" for key, text in pairs(value, compose_words.template).items())


def service(name: str, value: Value, keys: dict[str, Value], declared: Declared) -> ServiceSpec:
    """The service `name`; `keys` are its entries. In a stack it has the stack's name before its own, and its own as an
    alias on every network."""
    if "image" not in keys:
        value.error("image is missing")
    deploy = keys["deploy"].map(compose_deploy.KEYS) if "deploy" in keys else {}
    marks = {STACK: declared.stack} if declared.stack else {}
    image = _text(keys["image"]) if "image" in keys else ""
    task = TaskSpec(
        container_spec=_container(image, keys, declared, marks),
        networks=_attachments(name, keys.get("networks"), declared),
        placement=compose_deploy.placement(deploy["placement"]) if "placement" in deploy else Placement(),
        restart_policy=compose_deploy.restart(deploy["restart_policy"]) if "restart_policy" in deploy else None,
        resources=compose_deploy.resources(deploy["resources"]) if "resources" in deploy else None,
    )
    endpoint_mode = deploy["endpoint_mode"].choice("vip", "dnsrr") if "endpoint_mode" in deploy else "vip"
    published = ports(keys["ports"]) if "ports" in keys else ()
    _refuse_dnsrr_ingress(keys, endpoint_mode, published)
    labels = pairs(deploy["labels"]) if "labels" in deploy else {}
    return ServiceSpec(
        name=declared.scoped(name),
        labels=labels | marks | ({IMAGE: image} if marks else {}),
        task_template=task,
        mode=compose_deploy.mode(deploy),
        update_config=compose_deploy.update(deploy["update_config"]) if "update_config" in deploy else None,
        rollback_config=compose_deploy.update(deploy["rollback_config"], True) if "rollback_config" in deploy else None,
        endpoint_spec=EndpointSpec(endpoint_mode, published),
    )


def _container(image: str, keys: dict[str, Value], declared: Declared, marks: dict[str, str]) -> ContainerSpec:
    def given(key: str, read: Callable[[Value], Any], otherwise: Any) -> Any:
        return read(keys[key]) if key in keys else otherwise

    return ContainerSpec(
        image=image,
        labels=given("labels", pairs, {}) | marks,
        command=given("entrypoint", _words, ()),
        args=given("command", _words, ()),
        hostname=given("hostname", compose_words.hostname, ""),
        env=given("environment", _environment, ()),
        dir=given("working_dir", compose_words.directory, ""),
        user=given("user", compose_words.user, ""),
        init=given("init", Value.flag, None),
        tty=given("tty", Value.flag, False),
        open_stdin=given("stdin_open", Value.flag, False),
        read_only=given("read_only", Value.flag, False),
        stop_signal=given("stop_signal", compose_words.stop_signal, ""),
        stop_grace_period=given("stop_grace_period", Value.duration, None),
        healthcheck=given("healthcheck", _healthcheck, None),
        mounts=given("volumes", lambda value: mounts(value, declared), ()),
        secrets=given("secrets", lambda value: secret_references(value, declared), ()),
        configs=given("configs", lambda value: config_references(value, declared), ()),
        hosts=given("extra_hosts", _hosts, ()),
        dns_config=_dns(keys),
        sysctls=given("sysctls", pairs, {}),
        capability_add=given("cap_add", Value.texts, ()),
        capability_drop=given("cap_drop", Value.texts, ()),
    )


def _hosts(value: Value) -> tuple[str, ...]:
    """Lines of /etc/hosts from `name:address`, or a mapping."""
    found = []
    for item in value.list() if value.is_list else []:
        name, _, address = _text(item).partition(":")
        if not name or not address:
            item.error("write NAME:ADDRESS")
        found.append(f"{address} {name}")
    return tuple(found) if value.is_list else tuple(f"{to} {name}" for name, to in pairs(value).items())


def _dns(keys: dict[str, Value]) -> DNSConfig | None:
    def listed(key: str) -> tuple[str, ...]:
        value = keys.get(key)
        return () if value is None else value.texts() if value.is_list else (value.text(),)

    found = DNSConfig(listed("dns"), listed("dns_search"))
    return found if found != DNSConfig() else None


def _refuse_dnsrr_ingress(keys: dict[str, Value], mode: str, published: tuple[PortConfig, ...]) -> None:
    if mode == "dnsrr" and any(port.publish_mode == "ingress" for port in published):
        keys["ports"].error("a dnsrr service has no VIP to publish through; use endpoint_mode: vip")


def _attachments(service: str, value: Value | None, declared: Declared) -> tuple[NetworkAttachmentConfig, ...]:
    networks, own = declared.networks, (service,) if declared.stack else ()
    if value is None or value.empty:
        spec = networks.setdefault("default", declared.default_network())
        return (NetworkAttachmentConfig(spec.name, own),)
    wanted: dict[str, Value] = {item.text(): item for item in value.list()} if value.is_list else value.map()
    found = []
    for key, item in wanted.items():
        entries = item.map(("aliases",)) if not value.is_list else {}
        if key == "default":
            networks.setdefault("default", declared.default_network())
        if key not in networks:
            item.error(f"the network {key} is not declared under the top-level networks")
            continue
        aliases = tuple(compose_words.alias(item) for item in entries["aliases"].list()) if "aliases" in entries else ()
        found.append(NetworkAttachmentConfig(networks[key].name, tuple(dict.fromkeys((*aliases, *own)))))
    return tuple(found)


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
