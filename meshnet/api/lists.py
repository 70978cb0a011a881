"""Lists of objects as filters ask for them, in the order of their creation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from meshnet.api.filters import Filters, any_equal, any_prefix, find_node, find_service, labels_match
from meshnet.control.allocator import task_networks
from meshnet.control.defaults import duration
from meshnet.control.objects import seconds
from meshnet.control.orchestrator import outdated
from meshnet.control.view import View, alive, wanted
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import Config, Network, Node, Secret, Service, ServiceMode, Task, task_name

T = TypeVar("T", Node, Service, Network, Task, Secret, Config)
C = TypeVar("C", Secret, Config)
NODES = ("id", "name", "label", "node.label", "membership", "role")
SERVICES = ("id", "name", "label", "mode", "runtime")
PRUNED = ("label", "label!", "until")
NETWORKS = ("id", "name", "label", "driver", "scope", "type", "dangling")
CONFIDENTIAL = ("id", "name", "names", "label")
TASKS = ("id", "name", "label", "service", "node", "desired-state", "runtime", "_up-to-date")


def _ordered(things: Iterable[T]) -> list[T]:
    return sorted(things, key=lambda thing: (thing.created_at, getattr(thing, "slot", 0), thing.id))


def nodes(view: View, filters: Filters) -> list[Node]:
    return _ordered(
        node
        for node in view.nodes.values()
        if any_prefix(filters, "id", node.id)
        and any_prefix(filters, "name", node.description.hostname)
        and any_equal(filters, "role", node.spec.role)
        and any_equal(filters, "membership", "accepted")
        and labels_match(filters, "label", node.description.engine.labels)
        and labels_match(filters, "node.label", node.spec.labels)
    )


def services(view: View, filters: Filters) -> list[Service]:
    return _ordered(
        service
        for service in view.services.values()
        if any_prefix(filters, "id", service.id)
        and any_prefix(filters, "name", service.spec.name)
        and any_equal(filters, "mode", mode_name(service.spec.mode))
        and any_equal(filters, "runtime", "container")
        and labels_match(filters, "label", service.spec.labels)
    )


def confidential(things: Mapping[str, C], filters: Filters) -> list[C]:
    """Secrets or configs. `name` is how a name begins, `names` the whole of it, as in the Engine."""
    return _ordered(
        thing
        for thing in things.values()
        if any_prefix(filters, "id", thing.id)
        and any_prefix(filters, "name", thing.spec.name)
        and any_equal(filters, "names", thing.spec.name)
        and labels_match(filters, "label", thing.spec.labels)
    )


def mode_name(mode: ServiceMode) -> str:
    """What a person calls the mode: as after `--mode`."""
    if mode.job:
        return "global-job" if mode.everywhere else "replicated-job"
    return "global" if mode.everywhere else "replicated"


def networks(view: View, filters: Filters) -> list[Network]:
    return _ordered(
        network
        for network in view.networks.values()
        if any_prefix(filters, "id", network.id)
        and (
            "name" not in filters or any(value in network.spec.name for value in filters["name"])  # the Engine's rule
        )
        and any_equal(filters, "driver", "overlay")
        and any_equal(filters, "scope", "swarm")
        and any_equal(filters, "type", "builtin" if network.spec.ingress else "custom")
        and labels_match(filters, "label", network.spec.labels)
        and any_equal(filters, "dangling", *_dangling(view, network))
    )


def unused_networks(view: View, filters: Filters, before: float) -> list[Network]:
    """What a prune removes: networks made before that time that neither a service nor a task uses."""
    busy = {item.network_id for task in view.tasks.values() if alive(task) for item in task.networks_attachments}
    return _ordered(
        network
        for network in view.networks.values()
        if not network.spec.ingress
        and not view.services_on.get(network.id)
        and network.id not in busy
        and seconds(network.created_at) <= before
        and labels_match(filters, "label", network.spec.labels)
        and not ("label!" in filters and labels_match(filters, "label!", network.spec.labels))
    )


def until(filters: Filters, now: float) -> float:
    """The time of an `until` filter, in s since the epoch: a time, or how long ago. Raises MeshnetError."""
    values = filters.get("until", ())
    if len(values) > 1:
        raise MeshnetError("more than one until filter specified")
    if not values:
        return now
    text = values[0]
    if text.replace(".", "", 1).isdigit() and text.isascii():
        return float(text[:20])
    if text[:1].isdigit() and "T" in text:
        moment = seconds(text)
        if moment:
            return moment
    try:
        return now - duration(text)
    except MeshnetError:
        raise MeshnetError(f"invalid filter 'until={text}': a time or a duration such as 24h is needed") from None


def _dangling(view: View, network: Network) -> tuple[str, ...]:
    used = network.spec.ingress or view.services_on.get(network.id)
    return ("false", "0") if used else ("true", "1")


def tasks(view: View, filters: Filters) -> list[Task]:
    """Swarm's `_up-to-date` filter: tasks of the service's present spec, as the CLI needs to show progress."""
    service_ids = [_service_id(view, name) for name in filters.get("service", ())]
    node_ids = [_node_id(view, name) for name in filters.get("node", ())]
    found: Iterable[Task] = view.tasks.values()
    if service_ids:
        found = [task for ident in dict.fromkeys(service_ids) for task in view.tasks_of.get(ident, {}).values()]
    elif node_ids:
        found = [task for ident in dict.fromkeys(node_ids) for task in view.tasks_on.get(ident, {}).values()]
    return _ordered(
        task
        for task in found
        if task.spec.network_attachment_spec is None
        and (not node_ids or task.node_id in node_ids)
        and any_prefix(filters, "id", task.id)
        and ("name" not in filters or any_prefix(filters, "name", _name(view, task)))
        and any_equal(filters, "desired-state", *_desired(task))
        and any_equal(filters, "runtime", "container")
        and ("_up-to-date" not in filters or _is_current(view, filters, task))
        and ("label" not in filters or labels_match(filters, "label", _labels(view, task)))
    )


def _service_id(view: View, reference: str) -> str:
    """Raises NotFoundError for a service that neither exists nor has left tasks."""
    return reference if view.tasks_of.get(reference) else find_service(view, reference).id


def _node_id(view: View, reference: str) -> str:
    try:
        return find_node(view, reference).id
    except NotFoundError:
        return reference


def _name(view: View, task: Task) -> str:
    service = view.services.get(task.service_id)
    return task_name(service.spec.name if service else task.service_id, task)


def _desired(task: Task) -> tuple[str, ...]:
    """The names of the desired state; the task of a job is to complete."""
    names = [task.desired_state]
    if task.job_iteration is not None and task.desired_state == "running":
        names.append("complete")
    return (*names, "accepted") if wanted(task) else tuple(names)


def _is_current(view: View, filters: Filters, task: Task) -> bool:
    return any_equal(filters, "_up-to-date", "true" if _up_to_date(view, task) else "false")


def _up_to_date(view: View, task: Task) -> bool:
    service = view.services.get(task.service_id)
    return service is not None and not outdated(view, service, task, task_networks(view, service))


def _labels(view: View, task: Task) -> dict[str, str]:
    """A task is found by its service's labels."""
    service = view.services.get(task.service_id)
    return {**(service.spec.labels if service else {}), **task.spec.container_spec.labels}
