"""The top-level `networks` of a compose file as NetworkSpecs."""

from __future__ import annotations

from ipaddress import IPv4Network

from meshnet import ipam
from meshnet.errors import MeshnetError
from meshnet.lab.compose_files import STACK, own_name
from meshnet.lab.compose_words import pairs
from meshnet.lab.words import name_problem
from meshnet.lab.yamlnodes import Value
from meshnet.model import IPAMConfig, IPAMOptions, NetworkSpec

KEYS = ("driver", "driver_opts", "internal", "attachable", "ipam", "name", "external", "labels")


def network(key: str, value: Value, keys: dict[str, Value], stack: str) -> NetworkSpec:
    """The network that the file calls `key`: under that name, or in a stack with the stack's name before it."""
    name = own_name(key, keys, stack)
    if problem := name_problem(name):
        keys.get("name", value).error(problem)
    if name.lower() == "ingress":
        value.error("ingress is the routing mesh's own network; ports published in mode ingress use it")
    if "driver" in keys:
        keys["driver"].choice("overlay")
    return NetworkSpec(
        name=name,
        labels=(pairs(keys["labels"]) if "labels" in keys else {}) | ({STACK: stack} if stack else {}),
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


def subnets(keys: dict[str, Value], others: list[tuple[Value, IPv4Network]]) -> list[tuple[Value, IPv4Network]]:
    """The subnets of a network, each with its place; `others` are those of networks before it."""
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
