"""Lists of objects as filters ask for them, in the order of their creation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from meshnet.api.filters import Filters, any_equal, any_prefix, find_node, labels_match
from meshnet.control.allocator import task_networks
from meshnet.control.orchestrator import outdated
from meshnet.control.view import View, wanted
from meshnet.errors import NotFoundError
from meshnet.model import Network, Node, Service, ServiceMode, Task, task_name

T = TypeVar("T", Node, Service, Network, Task)
NODES = ("id", "name", "label", "node.label", "membership", "role")
SERVICES = ("id", "name", "label", "mode", "runtime")
NETWORKS = ("id", "name", "label", "driver", "scope", "type", "dangling")
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


def _dangling(view: View, network: Network) -> tuple[str, ...]:
    used = network.spec.ingress or view.services_on.get(network.id)
    return ("false", "0") if used else ("true", "1")


def tasks(view: View, filters: Filters) -> list[Task]:
    """Swarm's `_up-to-date` filter: tasks of the service's present spec, as the CLI needs to show progress."""
    service_ids = [_service_id(view, name) for name in filters.get("service", ())]
    node_ids = [_node_id(view, name) for name in filters.get("node", ())]
    return _ordered(
        task
        for task in view.tasks.values()
        if task.spec.network_attachment_spec is None
        and (not service_ids or task.service_id in service_ids)
        and (not node_ids or task.node_id in node_ids)
        and any_prefix(filters, "id", task.id)
        and any_prefix(filters, "name", _name(view, task))
        and any_equal(filters, "desired-state", *_desired(task))
        and any_equal(filters, "runtime", "container")
        and any_equal(filters, "_up-to-date", "true" if _up_to_date(view, task) else "false")
        and labels_match(filters, "label", _labels(view, task))
    )


def _service_id(view: View, reference: str) -> str:
    return view.service_named.get(reference, reference)


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


def _up_to_date(view: View, task: Task) -> bool:
    service = view.services.get(task.service_id)
    return service is not None and not outdated(view, service, task, task_networks(view, service))


def _labels(view: View, task: Task) -> dict[str, str]:
    """A task is found by its service's labels."""
    service = view.services.get(task.service_id)
    return {**(service.spec.labels if service else {}), **task.spec.container_spec.labels}
