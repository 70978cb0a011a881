"""The values of docker's service flags as parts of a ServiceSpec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from meshnet.errors import MeshnetError
from meshnet.lab import words
from meshnet.model import (
    EndpointSpec,
    Global,
    Healthcheck,
    Mount,
    NetworkAttachmentConfig,
    PlacementPreference,
    PortConfig,
    Replicated,
    ServiceMode,
    SpreadOver,
)


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in new versions of click only
    """A time such as 5s or 1m30s; its value is in nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = value if isinstance(value, int) else words.duration(value)
        if found is None:
            self.fail(f"{value!r} is no time; write 5s or 1m30s", param, ctx)
        return found


def pairs(items: Iterable[str], flag: str) -> dict[str, str]:
    """NAME=value, as for labels. A name alone has an empty value. Raises click.UsageError."""
    found = {}
    for item in items:
        key, _, value = item.partition("=")
        if not key:
            raise click.UsageError(f"{flag} {item!r}: write NAME=value", click.get_current_context())
        found[key] = value
    return found


def _fields(text: str, flag: str, known: Sequence[str]) -> dict[str, str]:
    """docker's long notation: `published=8080,target=80`; a word alone is true."""
    found = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key not in known:
            message = f"{flag} {text!r}: {key!r} is not known; use {', '.join(known)}"
            raise click.UsageError(message, click.get_current_context())
        found[key] = value if equals else "true"
    return found


def ports(items: Iterable[str]) -> tuple[PortConfig, ...]:
    """--publish, short (`8000:80/udp`) or long (`published=8080,target=80`)."""
    found: list[PortConfig] = []
    for item in items:
        try:
            found += [_long_port(item)] if "=" in item else words.ports(item)
        except MeshnetError as error:
            raise click.UsageError(f"--publish: {error}", click.get_current_context()) from None
    for port in found:
        if (port.published_port, port.protocol) in words.RESERVED_PORTS:
            raise MeshnetError(f"port {port.published_port}/{port.protocol} is the nodes' own; publish another one")
    return tuple(found)


def _long_port(text: str) -> PortConfig:
    fields = _fields(text, "--publish", ("published", "target", "protocol", "mode"))
    if "target" not in fields:
        raise MeshnetError(f"{text!r}: target= is missing, the port inside the task")
    protocol, mode = fields.get("protocol", "tcp"), fields.get("mode", "ingress")
    if protocol not in ("tcp", "udp") or mode not in ("ingress", "host"):
        raise MeshnetError(f"{text!r}: protocol is tcp or udp, mode is ingress or host")
    published = fields.get("published")
    plain = words.ports(f"{published}:{fields['target']}" if published else fields["target"])
    return PortConfig("", protocol, plain[0].target_port, plain[0].published_port, mode)


def networks(items: Iterable[str]) -> tuple[NetworkAttachmentConfig, ...]:
    """--network NAME, or name=NAME,alias=ALIAS."""
    found = []
    for item in items:
        if "=" not in item:
            found.append(NetworkAttachmentConfig(item))
            continue
        aliases = tuple(part[len("alias=") :] for part in item.split(",") if part.startswith("alias="))
        fields = _fields(item, "--network", ("name", "alias"))
        found.append(NetworkAttachmentConfig(fields.get("name", ""), aliases))
    return tuple(found)


def preferences(items: Iterable[str]) -> tuple[PlacementPreference, ...]:
    """--placement-pref spread=node.labels.zone."""
    return tuple(PlacementPreference(SpreadOver(_fields(i, "--placement-pref", ("spread",))["spread"])) for i in items)


def mounts(items: Iterable[str]) -> tuple[Mount, ...]:
    """--mount type=bind,source=/a,target=/b,readonly."""
    known = ("type", "source", "src", "target", "dst", "destination", "readonly", "ro")
    found = []
    for item in items:
        fields = _fields(item, "--mount", known)
        target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
        if not target:
            raise click.UsageError(f"--mount {item!r}: target= is missing", click.get_current_context())
        read_only = "true" in (fields.get("readonly"), fields.get("ro"))
        source = fields.get("source") or fields.get("src") or ""
        found.append(Mount(fields.get("type", "volume"), source, target, read_only))
    return tuple(found)


def mode(word: str, replicas: int | None) -> ServiceMode:
    """--mode and --replicas. Raises MeshnetError in docker's words if they contradict each other."""
    if word == "global":
        if replicas is not None:
            raise MeshnetError("replicas can only be used with replicated or replicated-job mode")
        return ServiceMode(global_=Global())
    return ServiceMode(Replicated(1 if replicas is None else replicas))


def endpoint(word: str, published: tuple[PortConfig, ...]) -> EndpointSpec:
    """--endpoint-mode and --publish. Raises MeshnetError if they contradict each other."""
    if word == "dnsrr" and any(port.publish_mode == "ingress" for port in published):
        raise MeshnetError("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
    return EndpointSpec(word, published)


def health(
    command: str | None, interval: int, timeout: int, retries: int, start_period: int, off: bool
) -> Healthcheck | None:
    """--health-cmd and its companions; None leaves what the image says."""
    given = bool(command or interval or timeout or retries or start_period)
    if off:
        if given:
            raise MeshnetError("--no-healthcheck conflicts with --health-* options")
        return Healthcheck(("NONE",))
    if not given:
        return None
    return Healthcheck(("CMD-SHELL", command) if command else (), interval, timeout, retries, start_period)
