"""The `filters` parameter of list requests, and how a person names an object.

Filters come as `{"name": {"web": true}}` or `{"name": ["web"]}`, each value URL-encoded JSON. Values of one filter are
alternatives, filters are all needed. Ids and names match by prefix, as Swarm's do; unknown filters are refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from meshnet.control.view import View
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import Config, Network, Node, Secret, Service, Task

T = TypeVar("T", Node, Service, Network, Task, Secret, Config)
Filters = Mapping[str, tuple[str, ...]]


def parse(text: str, known: Collection[str]) -> Filters:
    """The filters of a request. Raises MeshnetError for what is none, or is not among `known`."""
    if not text:
        return {}
    try:
        data = json.loads(text)
        filters = {str(name): _values(values) for name, values in data.items()}
    except (ValueError, AttributeError, TypeError):
        raise MeshnetError(f"invalid filters: {text!r} is not an object of filters") from None
    for name in filters:
        if name not in known:
            raise MeshnetError(f"invalid filter '{name}'")
    return filters


def _values(values: object) -> tuple[str, ...]:
    if isinstance(values, Mapping):
        return tuple(str(value) for value, on in values.items() if on)
    if isinstance(values, list):
        return tuple(str(value) for value in values)
    raise TypeError


def any_prefix(filters: Filters, name: str, *texts: str) -> bool:
    """Whether one of the texts begins with one of the filter's values; true if there is no such filter."""
    values = filters.get(name)
    return values is None or any(text.startswith(value) for value in values for text in texts)


def any_equal(filters: Filters, name: str, *texts: str) -> bool:
    """Whether one of the texts is one of the filter's values; true if there is no such filter."""
    values = filters.get(name)
    return values is None or any(text == value for value in values for text in texts)


def labels_match(filters: Filters, name: str, labels: Mapping[str, str]) -> bool:
    """Whether all the filter's `key` or `key=value` hold; true if there is no such filter."""
    for wanted in filters.get(name, ()):
        key, equals, value = wanted.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def find(kind: str, reference: str, things: Mapping[str, T], named: Iterable[T]) -> T:
    """The object by id, by name (`named` are those with that name), or by the beginning of its id.

    Raises NotFoundError, or MeshnetError if the beginning fits several.
    """
    exact = things.get(reference)
    if exact is not None:
        return exact
    by_name = list(named)
    if len(by_name) > 1:
        raise MeshnetError(f"{kind} {reference} is ambiguous ({len(by_name)} matches found)")
    if by_name:
        return by_name[0]
    by_prefix = [thing for ident, thing in things.items() if reference and ident.startswith(reference)]
    if len(by_prefix) > 1:
        raise MeshnetError(f"{kind} {reference} is ambiguous ({len(by_prefix)} matches found)")
    if not by_prefix:
        raise NotFoundError(f"{kind} {reference} not found")
    return by_prefix[0]


def find_node(view: View, reference: str) -> Node:
    """A node by id, hostname or beginning of its id."""
    named = (node for node in view.nodes.values() if node.description.hostname == reference)
    return find("node", reference, view.nodes, named)


def find_service(view: View, reference: str) -> Service:
    """A service by id, name or beginning of its id."""
    ident = view.service_named.get(reference)
    return find("service", reference, view.services, [view.services[ident]] if ident else [])


def find_network(view: View, reference: str) -> Network:
    """A network by id, name or beginning of its id."""
    ident = view.network_named.get(reference)
    return find("network", reference, view.networks, [view.networks[ident]] if ident else [])


def find_secret(view: View, reference: str) -> Secret:
    """A secret by id, name or beginning of its id."""
    named = (secret for secret in view.secrets.values() if secret.spec.name == reference)
    return find("secret", reference, view.secrets, named)


def find_config(view: View, reference: str) -> Config:
    """A config by id, name or beginning of its id."""
    named = (config for config in view.configs.values() if config.spec.name == reference)
    return find("config", reference, view.configs, named)


def find_task(view: View, reference: str) -> Task:
    """A task by id, full name (`service.slot.id`) or beginning of its id."""
    suffix = reference.rpartition(".")[2]
    return find("task", suffix, view.tasks, ())
