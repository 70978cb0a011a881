"""Reads the part of the compose file format that Swarm uses into specs of services, networks, secrets and configs.

A lab is one stack, so names stay as they are written; a stack that is deployed has its name before them, as
`docker stack deploy` writes it. Dollar signs: variables are not substituted, so a single one is refused and `$$` stands
for one, as in compose.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from meshnet.lab import compose_files, compose_mounts, compose_networks, compose_service
from meshnet.lab.compose_files import Declared, Spec
from meshnet.lab.words import name_problem
from meshnet.lab.yamlnodes import Value
from meshnet.model import NetworkSpec, ServiceSpec
from meshnet.secretspec import ConfigSpec, SecretSpec


@dataclass(frozen=True, slots=True)
class Stack:
    """What a compose file asks for. The pairs with a Value point into the file, for further checks.

    Services refer to secrets and configs by name; `references.with_ids` puts the ids in. `external` is what must be
    there already, each with its name in the swarm.
    """

    networks: tuple[NetworkSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    secrets: tuple[SecretSpec, ...] = ()
    configs: tuple[ConfigSpec, ...] = ()
    placed_networks: tuple[tuple[Value, NetworkSpec], ...] = ()
    placed_services: tuple[tuple[Value, ServiceSpec], ...] = ()
    placed_secrets: tuple[tuple[Value, SecretSpec], ...] = ()
    placed_configs: tuple[tuple[Value, ConfigSpec], ...] = ()
    external: tuple[tuple[Value, str], ...] = ()
    subnets: tuple[tuple[Value, IPv4Network], ...] = ()
    images: tuple[tuple[Value, str], ...] = ()
    users: tuple[Value, ...] = ()
    warnings: tuple[str, ...] = ()


def parse(root: Value, directory: Path = Path(), stack: str = "") -> Stack:
    """What a compose file asks for; its paths begin at `directory`. With `stack`, the names of a stack of that name.

    Mistakes are collected in the root's `problems`.
    """
    keys = root.map(("version", "services", "networks", "volumes", "secrets", "configs"))
    declared = Declared(stack, directory)
    external: list[tuple[Value, str]] = []
    subnets: list[tuple[Value, IPv4Network]] = []
    places = keys["networks"].map() if "networks" in keys else {}
    for key, value in places.items():
        entries = value.map(compose_networks.KEYS)
        declared.networks[key] = compose_networks.network(key, value, entries, stack)
        if "external" in entries and entries["external"].flag():
            external.append((value, declared.networks[key].name))
        subnets.extend(compose_networks.subnets(entries, subnets))
    owned = {value.name for value, _ in external}
    if "volumes" in keys:
        compose_mounts.declare(keys["volumes"], declared)
    secrets, outside = _files("secrets", SecretSpec, keys, declared)
    external += outside
    configs, outside = _files("configs", ConfigSpec, keys, declared)
    external += outside
    services, images, users, warnings = _services(root, keys.get("services"), declared)
    placed = tuple(
        (places.get(key, root), spec) for key, spec in declared.networks.items() if f"networks.{key}" not in owned
    )
    for kind, named in (
        ("network", [(place, spec.name) for place, spec in placed]),
        ("service", [(place, spec.name) for place, spec in services]),
        ("secret", [(place, secret.name) for place, secret in secrets]),
        ("config", [(place, config.name) for place, config in configs]),
    ):
        _distinct(kind, named)
    return Stack(
        networks=tuple(spec for _, spec in placed),
        services=tuple(spec for _, spec in services),
        secrets=tuple(spec for _, spec in secrets),
        configs=tuple(spec for _, spec in configs),
        placed_networks=placed,
        placed_services=tuple(services),
        placed_secrets=tuple(secrets),
        placed_configs=tuple(configs),
        external=tuple(external),
        subnets=tuple(subnets),
        images=tuple(images),
        users=tuple(users),
        warnings=tuple(warnings),
    )


def _files(
    kind: str, cls: type[Spec], keys: dict[str, Value], declared: Declared
) -> tuple[list[tuple[Value, Spec]], list[tuple[Value, str]]]:
    return compose_files.specs(kind, cls, keys[kind], declared) if kind in keys else ([], [])


Placed = list[tuple[Value, ServiceSpec]]


def _services(
    root: Value, value: Value | None, declared: Declared
) -> tuple[Placed, list[tuple[Value, str]], list[Value], list[str]]:
    """The services with their places, the places of their images and of their users, and warnings."""
    services: Placed = []
    images, users, warnings = [], [], []
    for name, place in (value.map() if value else {}).items():
        if problem := name_problem(name):
            place.error(problem)
        entries = place.map((*compose_service.KEYS, *compose_service.IGNORED))
        spec = compose_service.service(name, place, entries, declared)
        services.append((place, spec))
        container = spec.task_template.container_spec
        if "image" in entries:
            images.append((entries["image"], container.image))
        if "user" in entries and container.user:
            users.append(entries["user"])
        left = [entries[key] for key in compose_service.IGNORED if key in entries]
        warnings += [value.warning("a swarm has no use for it, so it changes nothing") for value in left]
    if not services:
        root.error("there are no services in it")
    _published_once(services)
    return services, images, users, warnings


def _distinct(kind: str, named: list[tuple[Value, str]]) -> None:
    """Names that differ by case alone would be one in DNS, and are one in Swarm's store."""
    taken: dict[str, str] = {}
    for place, name in named:
        known = taken.setdefault(name.lower(), place.name)
        if known != place.name:
            place.error(f"{known} has the name of this {kind} already; names must differ by more than case")


def _published_once(services: Placed) -> None:
    taken: dict[tuple[int, str], str] = {}
    for place, spec in services:
        for port in spec.endpoint_spec.ports:
            key = (port.published_port, port.protocol)
            if port.published_port and taken.setdefault(key, spec.name) != spec.name:
                place.error(f"port {port.published_port}/{port.protocol} is published by {taken[key]} already")
