"""How names, times and ports are written: in lab files, in compose files and on the command line alike."""

from __future__ import annotations

import re

from meshnet.errors import MeshnetError
from meshnet.model import PortConfig

MAX_NAME = 63
NAME_RULE = "letters, digits, - and _ are allowed, a letter or digit first and last"
# What nodes themselves listen on: VXLAN, gossip, the manager.
RESERVED_PORTS = {(4789, "udp"), (7946, "tcp"), (7946, "udp"), (2377, "tcp")}
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
LONGEST = 2**63 - 1  # ns, what the Engine API can carry
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmgtp]?)(?:i?b)?")
_CPUS = re.compile(r"\d{1,6}(?:\.\d{1,9})?")
_SHORT = re.compile(r"(?:(?P<published>\d+(?:-\d+)?):)?(?P<target>\d+(?:-\d+)?)(?:/(?P<protocol>tcp|udp))?")


def name_problem(name: str) -> str:
    """What is wrong with a name by Swarm's rule; "" if nothing is."""
    if len(name) > MAX_NAME:
        return f"the name {name[:20]}... has {len(name)} characters; at most {MAX_NAME} are allowed"
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name: {NAME_RULE}"
    return ""


def duration(text: str) -> int | None:
    """A time such as `1m30s`, `500ms` or `0` (Go's notation) in nanoseconds; None if it is not one, or too long."""
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return round(found) if found < LONGEST else None


def ports(text: str) -> list[PortConfig]:
    """Docker's short notation: `8000`, `8000:80`, `53:53/udp`, `8000-8002:80-82`.

    A port that is not published at a given number has `published_port` 0. Raises MeshnetError.
    """
    match = _SHORT.fullmatch(text)
    if match is None:
        raise MeshnetError(f"{text!r} is no port: write 8000, 8000:80, 53:53/udp or 8000-8002:80-82")
    targets = _range(match["target"])
    published = _range(match["published"]) if match["published"] else [0] * len(targets)
    if len(published) != len(targets):
        raise MeshnetError(f"the two ranges of {text} are not equally long")
    protocol = match["protocol"] or "tcp"
    pairs = zip(targets, published, strict=True)
    return [PortConfig(protocol=protocol, target_port=inner, published_port=outer) for inner, outer in pairs]


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise MeshnetError(f"ports go from 1 to 65535, and ranges upward: {text}")
    return list(range(low, high + 1))


def size(text: str) -> int | None:
    """Bytes in docker's notation (units of 1024): `4096`, `50m`, `1.5g`, `64MB`, `2GiB`; None for anything else."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    found = int(float(match[1]) * 1024 ** " kmgtp".index(match[2] or " "))
    return found if found <= LONGEST else None


def cpus(text: str) -> int | None:
    """Billionths of a processor from `0.5` or `2`; None for anything else."""
    match = _CPUS.fullmatch(text.strip())
    return round(float(match[0]) * 10**9) if match else None
