"""Addresses for containers that people start by themselves on attachable networks.

As in swarmkit such a container is a task without a service (`NetworkAttachmentSpec`): it holds its addresses like any
other task, its node is told its networks, and only that node lets it go. No controller looks at it.
"""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

from meshnet.containerspec import named
from meshnet.control.allocator import Ledger
from meshnet.control.objects import Changes, stamp
from meshnet.control.operations import NewId, find_network
from meshnet.control.view import View
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.ipam import number_of
from meshnet.model import ContainerStatus, Network, NetworkAttachment, NetworkAttachmentSpec, Task, TaskSpec, TaskStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """A network that a container wants to be on, by name or id; `address` is one asked for, or ""."""

    target: str = ""
    aliases: tuple[str, ...] = ()
    address: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Attach:
    """What a node asks for a container: the networks that it shall be on from now on."""

    container_id: str = named("ContainerID", "")
    networks: tuple[Wish, ...] = ()


def attach(view: View, node_id: str, asked: Attach, ledger: Ledger, new_id: NewId, now: float) -> tuple[Changes, Task]:
    """The container's task with an address on each network; what it has already it keeps.

    NotFoundError for an unknown network, MeshnetError for one that cannot be joined by hand, Exhausted.
    """
    before = _task_of(view, node_id, asked.container_id)
    held = {item.network_id: item for item in before.networks_attachments} if before is not None else {}
    attachments = []
    for wish in asked.networks:
        network = _attachable(view, wish.target)
        kept = held.get(network.id)
        addresses = kept.addresses if kept is not None else (_address(view, ledger, network, wish.address),)
        attachments.append(NetworkAttachment(network.id, addresses, wish.aliases))
    task = before or Task(
        id=new_id(),
        spec=TaskSpec(network_attachment_spec=NetworkAttachmentSpec(asked.container_id)),
        node_id=node_id,
        status=TaskStatus(stamp(now), "running", "attached", "", ContainerStatus(asked.container_id)),
    )
    task = dataclasses.replace(task, networks_attachments=tuple(attachments))
    return Changes((task, *ledger.cursors())), task


def _attachable(view: View, target: str) -> Network:
    network = find_network(view, target)
    if not network.spec.attachable and not network.spec.ingress:
        raise MeshnetError(
            f"Could not attach to network {target}: rpc error: code = PermissionDenied desc = network {target} not "
            "manually attachable",
            403,
        )
    return network


def _address(view: View, ledger: Ledger, network: Network, asked: str) -> str:
    if not asked:
        return ledger.address(network.id)
    prefix = network.subnet.partition("/")[2]
    try:
        inside = ip_address(asked) in ip_network(network.subnet)
    except ValueError:
        inside = False
    if not inside:
        raise MeshnetError(f"{asked} is no address of network {network.spec.name} ({network.subnet})")
    if number_of(asked) in view.taken[network.id]:
        raise MeshnetError("Address already in use", 403)
    return f"{asked}/{prefix}"


def detach(view: View, node_id: str, task_id: str) -> Changes:
    """Lets a container's addresses go. NotFoundError if the node has no such attachment."""
    task = view.tasks.get(task_id)
    if task is None or task.node_id != node_id or task.spec.network_attachment_spec is None:
        raise NotFoundError(f"attachment {task_id} not found")
    return Changes(drop=(task,))


def _task_of(view: View, node_id: str, container_id: str) -> Task | None:
    for task in view.tasks_on.get(node_id, {}).values():
        spec = task.spec.network_attachment_spec
        if spec is not None and spec.container_id == container_id:
            return task
    return None
