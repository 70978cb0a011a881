"""The `ports` of a compose service, short and long, as PortConfigs."""

from __future__ import annotations

from meshnet.errors import MeshnetError
from meshnet.lab import words
from meshnet.lab.yamlnodes import Value
from meshnet.model import PortConfig


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
    if (port.published_port, port.protocol) in words.RESERVED_PORTS:
        value.error(f"port {port.published_port}/{port.protocol} is the nodes' own; publish another one")


def _short(value: Value) -> list[PortConfig]:
    text = value.text()
    try:
        return words.ports(text) if text else []
    except MeshnetError as error:
        value.error(str(error))
        return []


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
