"""Published ports of a container that a person starts: `HostConfig.PortBindings`, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshnet.agent.hostports import PortWish
from meshnet.api.unserved import refused
from meshnet.codec import from_json
from meshnet.errors import MeshnetError

LAST_PORT = 65535
EVERYWHERE = ("", "0.0.0.0", "::")
_PORT = re.compile(r"([0-9]{1,5})(?:/(\w+))?")
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class PortBinding:
    host_ip: str = ""
    host_port: str = ""


def wishes_of(bindings: Mapping[str, Any]) -> tuple[PortWish, ...]:
    """From `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`. MeshnetError for what is no port, or cannot be had."""
    return tuple(
        _wish(port, from_json(PortBinding, asked))
        for port, asked_for in bindings.items()
        for asked in _list(port, asked_for)
    )


def _list(port: str, asked: Any) -> list[Any]:
    if asked is None:
        return []
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise MeshnetError(f"HostConfig.PortBindings.{port}: a list of objects is needed, not {asked!r}")
    return asked


def _wish(port: str, asked: PortBinding) -> PortWish:
    target = _PORT.fullmatch(port)
    if target is None or not 1 <= int(target[1]) <= LAST_PORT:
        raise MeshnetError(f'invalid port specification: "{port}"')
    protocol = target[2] or "tcp"
    if protocol not in ("tcp", "udp"):
        raise refused(f"publishing {protocol} is", "use tcp or udp")
    if asked.host_ip not in EVERYWHERE:
        raise refused(f"publishing on {asked.host_ip} alone is", "leave the address out: each of the node's is meant")
    if asked.host_port in ("", "0"):
        return PortWish(protocol, int(target[1]))
    wanted = _RANGE.fullmatch(asked.host_port)
    first = int(wanted[1]) if wanted is not None else 0
    last = int(wanted[2] or first) if wanted is not None else 0
    if not 1 <= first <= last <= LAST_PORT:
        raise MeshnetError(f'invalid port specification: "{asked.host_port}"')
    return PortWish(protocol, int(target[1]), first, last)


def bindings_of(wishes: tuple[PortWish, ...]) -> dict[str, list[dict[str, str]]]:
    """The same as the Engine shows it."""
    found: dict[str, list[dict[str, str]]] = {}
    for wish in wishes:
        asked = f"{wish.first}-{wish.last}" if wish.last > wish.first else str(wish.first or "")
        found.setdefault(f"{wish.target_port}/{wish.protocol}", []).append({"HostIp": "", "HostPort": asked})
    return found
