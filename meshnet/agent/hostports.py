"""Ports of a node that lead to containers which people started by themselves: as ports in host mode lead to tasks.

The node alone decides about them. A port that the swarm publishes is taken, here as on every node; one that it begins
to publish later is the swarm's from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshnet.datapath.rows import Plan, PublishedRow
from meshnet.errors import MeshnetError
from meshnet.ipam import RESERVED_PORTS
from meshnet.model import Assignments, PortConfig

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent
    from meshnet.agent.standalone import Standalone

# Above those that a node's own connections come from (ip_local_port_range), whose answers they would take.
FIRST, LAST = 61000, 65535


@dataclass(frozen=True, slots=True)
class PortWish:
    """One port of a container, and the ports of the node that may lead to it; any if `first` is 0."""

    protocol: str = "tcp"
    target_port: int = 0
    first: int = 0
    last: int = 0


Port = tuple[str, int]  # protocol, number


def choose(wishes: Iterable[PortWish], taken: Iterable[Port], name: str) -> tuple[PortConfig, ...]:
    """A port of the node for each wish. MeshnetError in an engine's words if one cannot be had."""
    used = set(taken)
    found = []
    # What can be had in one way only comes first.
    for wish in sorted(wishes, key=lambda wish: (wish.last - wish.first if wish.first else LAST, wish.target_port)):
        first, last = (wish.first, wish.last) if wish.first else (FIRST, LAST)
        number = next((each for each in range(first, last + 1) if (wish.protocol, each) not in used), 0)
        if not number:
            raise MeshnetError(
                f"driver failed programming external connectivity on endpoint {name}: Bind for 0.0.0.0:{first} failed: "
                "port is already allocated",
                500,
            )
        used.add((wish.protocol, number))
        found.append(PortConfig("", wish.protocol, wish.target_port, number, "host"))
    return tuple(sorted(found, key=lambda port: (port.published_port, port.protocol)))


def taken(agent: Agent, but: Standalone) -> set[Port]:
    """Ports of the node that lead somewhere already, or to the node itself."""
    found = set(RESERVED_PORTS) | {("udp", agent.settings.vxlan_port)} | _of_the_swarm(agent.assignments)
    if agent.settings.resolver:
        found |= {("udp", agent.settings.resolver), ("tcp", agent.settings.resolver)}
    for one in agent.standalones.values():
        if one is not but:
            found |= {(port.protocol, port.published_port) for port in one.kept.published}
    return found


def _of_the_swarm(assignments: Assignments) -> set[Port]:
    """Those of every node, and in host mode those of services with a task here."""
    here = {task.service_id for task in assignments.tasks.values()}
    return {
        (port.protocol, port.published_port)
        for service in assignments.services.values()
        for port in service.endpoint.ports
        if port.publish_mode == "ingress" or service.id in here
    }


def publisher(assignments: Assignments, number: int) -> str:
    """The name of a service that publishes a port of that number here; "" if none does."""
    here = {task.service_id for task in assignments.tasks.values()}
    return next(
        (
            service.spec.name
            for service in assignments.services.values()
            for port in service.endpoint.ports
            if port.published_port == number and (port.publish_mode == "ingress" or service.id in here)
        ),
        "",
    )


def with_containers(plan: Plan, standalones: Mapping[str, Standalone]) -> Plan:
    """The plan with the published ports of containers that run."""
    known = {(row.protocol, row.port) for row in plan.published}
    own = tuple(
        row for one in standalones.values() for row in _rows(plan, one) if (row.protocol, row.port) not in known
    )
    if not own:
        return plan
    return replace(plan, published=tuple(sorted((*plan.published, *own), key=lambda row: (row.protocol, row.port))))


def _rows(plan: Plan, one: Standalone) -> Iterator[PublishedRow]:
    task = one.kept.task
    if task is None or not one.reachable:
        return
    here = [row.ip for row in plan.endpoints if row.vni == plan.ingress_vni and row.task == task.id]
    for port in one.kept.published if here else ():
        yield PublishedRow(task.id, port.protocol, port.published_port, port.target_port, tuple(here))
