"""The `ports` of a compose service, short and long, as PortConfigs."""

from __future__ import annotations

import re

from meshnet.lab.yamlnodes import Value
from meshnet.model import PortConfig

# What nodes themselves listen on: VXLAN, gossip, the manager.
RESERVED = {(4789, "udp"), (7946, "tcp"), (7946, "udp"), (2377, "tcp")}
_SHORT = re.compile(r"(?:(?P<published>\d+(?:-\d+)?):)?(?P<target>\d+(?:-\d+)?)(?:/(?P<protocol>tcp|udp))?")


def ports(value: Value) -> tuple[PortConfig, ...]:
    """Every port that a service's `ports` list asks for; a published port of 0 is chosen by the manager."""
    found: list[PortConfig] = []
    for item in value.list():
        for port in _long(item) if item.is_map else _short(item):
            _refuse_reserved(item, port)
            if any(_same(port, other) for other in found):
                item.error(f"port {port.published_port}/{port.protocol} is published twice")
            found.append(port)
    return tuple(found)


def _same(one: PortConfig, other: PortConfig) -> bool:
    return bool(one.published_port) and (one.published_port, one.protocol) == (other.published_port, other.protocol)


def _refuse_reserved(value: Value, port: PortConfig) -> None:
    if (port.published_port, port.protocol) in RESERVED:
        value.error(f"port {port.published_port}/{port.protocol} is the nodes' own; publish another one")


def _short(value: Value) -> list[PortConfig]:
    text = value.text()
    match = _SHORT.fullmatch(text)
    if match is None:
        if text:
            value.error(f"{text!r} is no port: write 8000, 8000:80, 53:53/udp or 8000-8002:80-82")
        return []
    targets = _range(value, match["target"])
    published = _range(value, match["published"]) if match["published"] else [0] * len(targets)
    if not targets or not published:
        return []
    if len(published) != len(targets):
        value.error(f"the two ranges of {text} are not equally long")
        return []
    protocol = match["protocol"] or "tcp"
    pairs = zip(targets, published, strict=True)
    return [PortConfig(protocol=protocol, target_port=inner, published_port=outer) for inner, outer in pairs]


def _range(value: Value, text: str) -> list[int]:
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        value.error(f"ports go from 1 to 65535, and ranges upward: {text}")
        return []
    return list(range(low, high + 1))


def _long(value: Value) -> list[PortConfig]:
    keys = value.map(("name", "target", "published", "protocol", "mode", "app_protocol"))
    if "target" not in keys:
        value.error("target is missing: the port inside the task")
        return []
    port = PortConfig(
        name=keys["name"].text() if "name" in keys else "",
        protocol=keys["protocol"].choice("tcp", "udp") if "protocol" in keys else "tcp",
        target_port=keys["target"].integer(1, 65535),
        published_port=keys["published"].integer(0, 65535) if "published" in keys else 0,
        publish_mode=keys["mode"].choice("ingress", "host") if "mode" in keys else "ingress",
    )
    return [port]
