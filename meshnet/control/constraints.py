"""Placement constraints: `key==value` and `key!=value` over what a node is (swarmkit manager/constraint).

Keys: node.id, node.hostname, node.ip (an address or a network), node.role, node.platform.os, node.platform.arch,
node.labels.<name>, engine.labels.<name>. Values are compared without regard to case; an unknown key matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from netaddr import AddrFormatError, IPAddress, IPNetwork

from meshnet.errors import MeshnetError
from meshnet.model import Node, Platform

KEY = re.compile(r"^(?i:[a-z_][a-z0-9\-_.]+)$")
VALUE = re.compile(r"^(?i:[a-z0-9:\-_\s./|]+)$")
SYNONYMS = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Constraint:
    key: str
    equal: bool
    value: str

    def holds(self, node: Node) -> bool:
        """Whether the node satisfies it."""
        if self.key.lower() == "node.ip":
            return _in_network(node.status.addr, self.value) == self.equal
        found = _value(node, self.key)
        if found is None:
            return False
        return (_fold(self.key, found) == _fold(self.key, self.value)) == self.equal


@lru_cache(maxsize=1024)
def parse(text: str) -> Constraint:
    """One constraint. Raises MeshnetError with Swarm's words for what is none."""
    for operator, equal in (("==", True), ("!=", False)):
        key, found, value = text.partition(operator)
        if not found:
            continue
        key, value = key.strip(), value.strip()
        if not KEY.match(key):
            raise MeshnetError(f"key '{key}' is invalid")
        if not VALUE.match(value):
            raise MeshnetError(f"value '{value}' is invalid")
        return Constraint(key, equal, value)
    raise MeshnetError("constraint expected one operator from ==, !=")


def satisfied(constraints: Iterable[str], node: Node) -> bool:
    """Whether the node satisfies all of them; one that cannot be read is satisfied by none."""
    try:
        return all(parse(text).holds(node) for text in constraints)
    except MeshnetError:
        return False


def label(node: Node, key: str) -> str:
    """The value of `node.labels.X` or `engine.labels.X` on a node; "" if it has none. The prefix knows no case."""
    lowered = key.lower()
    if lowered.startswith("node.labels."):
        return node.spec.labels.get(key[len("node.labels.") :], "")
    if lowered.startswith("engine.labels."):
        return node.description.engine.labels.get(key[len("engine.labels.") :], "")
    return ""


def platform_fits(platforms: Iterable[Platform], platform: Platform) -> bool:
    """Whether a node of that platform can run an image made for `platforms`; none named means any."""
    wanted = list(platforms)
    return not wanted or any(
        item.os in ("", platform.os)
        and (not item.architecture or _architecture(item.architecture) == _architecture(platform.architecture))
        for item in wanted
    )


def _architecture(name: str) -> str:
    return SYNONYMS.get(name.lower(), name.lower())


def _value(node: Node, key: str) -> str | None:
    platform = node.description.platform
    plain = {
        "node.id": node.id,
        "node.hostname": node.description.hostname,
        "node.role": node.spec.role,
        "node.platform.os": platform.os,
        "node.platform.arch": platform.architecture,
    }
    lowered = key.lower()
    if lowered.startswith(("node.labels.", "engine.labels.")):
        return label(node, key)
    return plain.get(lowered)


def _fold(key: str, value: str) -> str:
    return _architecture(value) if key.lower() == "node.platform.arch" else value.lower()


def _in_network(address: str, value: str) -> bool:
    try:
        return IPAddress(address) in IPNetwork(value)
    except (AddrFormatError, ValueError):
        return False
