"""What an agent shows of itself: pure views of its state, as JSON-ready values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshnet.agent.agent import Agent
from meshnet.agent.zones import Zones
from meshnet.dns.zone import listing
from meshnet.model import task_name


async def lb(agent: Agent) -> list[dict[str, Any]]:
    """What stands behind each VIP and published port, read back from the kernel, with the tasks' names."""
    plan = await agent.datapath.observe()
    tasks = _tasks_by_address(agent)
    nodes = _nodes_by_address(agent)
    places = {(row.vni, row.ip): nodes.get(row.node, row.node) for row in plan.remotes}
    places |= {(row.vni, row.ip): agent.node for row in plan.endpoints}
    wanted = agent.reconciler.plan
    networks = {row.vni: row.name for row in wanted.networks} if wanted else {}

    def backend(vni: int, ip: str) -> dict[str, str]:
        return {"IP": ip, "Task": tasks.get(ip, ""), "Node": places.get((vni, ip), "")}

    rows: list[dict[str, Any]] = [
        {
            "Service": _service_name(agent, _service_of_vip(agent, row.vip)),
            "Network": networks.get(row.vni, str(row.vni)),
            "Address": row.vip,
            "Port": "",
            "Backends": [backend(row.vni, ip) for ip in row.backends],
        }
        for row in plan.services
    ]
    rows += [
        {
            "Service": _service_name(agent, _service_of_port(agent, row.protocol, row.port)),
            "Network": "ingress",
            "Address": "*",
            "Port": f"{row.port}/{row.protocol} -> {row.target_port}",
            "Backends": [backend(plan.ingress_vni, ip) for ip in row.backends],
        }
        for row in plan.published
    ]
    return rows


def dns(agent: Agent) -> list[dict[str, Any]]:
    """Each local task's resolver: the names that it knows now, and what it has answered so far."""
    zones = Zones()
    zones.follow(agent.assignments, agent.neighbours.located, agent.neighbours.suspected)

    def names(networks: Iterable[str]) -> list[dict[str, str]]:
        records = listing(zones.for_networks(networks))
        return [{"Name": name, "Type": kind, "Value": value} for name, kind, value in records]

    return [
        {
            "Task": _task_name(agent, task_id),
            "Networks": [_network_name(agent, a.network_id) for a in runner.task.networks_attachments],
            "Names": names(a.network_id for a in runner.task.networks_attachments),
            "Statistics": runner.resolver.statistics(),
        }
        for task_id, runner in sorted(agent.runners.items())
        if not runner.finished
    ]


def members(agent: Agent) -> list[dict[str, Any]]:
    """The members as this node's gossip sees them."""
    return [
        {
            "Node": m.meta.hostname if m.meta else m.name,
            "ID": m.name,
            "Address": f"{m.address}:{m.port}",
            "State": m.state,
            "Role": m.meta.role if m.meta else "",
            "Datapath": m.meta.datapath if m.meta else "",
            "Incarnation": m.incarnation,
        }
        for m in sorted(agent.neighbours.members(), key=lambda m: m.address)
    ]


def endpoints(agent: Agent) -> list[dict[str, Any]]:
    """Every endpoint record this node knows, with its owner."""
    return [
        {
            "Network": _network_name(agent, item.network),
            "IP": item.endpoint.ip,
            "Task": _task_name(agent, item.endpoint.task) if item.endpoint.task else "",
            "State": item.endpoint.state,
            "Owner": item.owner,
        }
        for item in sorted(agent.neighbours.located, key=lambda item: (item.network, item.endpoint.ip))
    ]


def statistics(agent: Agent) -> dict[str, Any]:
    """Counters of the data path, of gossip and of the resolver for clients outside, and what the data path's mean."""
    return {
        "Datapath": agent.datapath.statistics(),
        "Gossip": agent.neighbours.statistics(),
        "Outside": agent.outside.statistics(),
        "Meanings": agent.datapath.meanings(),
    }


def capabilities(agent: Agent) -> list[dict[str, Any]]:
    """What this node's data path needs and can do here."""
    return [{"Name": c.name, "Works": c.works, "Detail": c.detail, "Fix": c.fix} for c in agent.datapath.capabilities()]


def _tasks_by_address(agent: Agent) -> dict[str, str]:
    return {i.endpoint.ip: _task_name(agent, i.endpoint.task) for i in agent.neighbours.located if i.endpoint.task}


def _nodes_by_address(agent: Agent) -> dict[str, str]:
    return {m.meta.tunnel: m.meta.hostname for m in agent.neighbours.members() if m.meta is not None}


def _task_name(agent: Agent, task_id: str) -> str:
    for item in agent.neighbours.located:
        if item.endpoint.task == task_id:
            if not item.endpoint.service and item.endpoint.aliases:
                return item.endpoint.aliases[0]  # a container that somebody started, by its name
            slot = item.endpoint.slot or item.owner
            return f"{_service_name(agent, item.endpoint.service)}.{slot}.{task_id}"
    runner = agent.runners.get(task_id)  # on no network it has no endpoint
    return task_name(_service_name(agent, runner.task.service_id), runner.task) if runner is not None else task_id


def _service_name(agent: Agent, service_id: str) -> str:
    service = agent.assignments.services.get(service_id)
    return service.spec.name if service else service_id


def _network_name(agent: Agent, network_id: str) -> str:
    network = agent.assignments.networks.get(network_id)
    return network.spec.name if network else network_id


def _service_of_vip(agent: Agent, vip: str) -> str:
    for service in agent.assignments.services.values():
        if any(v.addr.partition("/")[0] == vip for v in service.endpoint.virtual_ips):
            return service.id
    return ""


def _service_of_port(agent: Agent, protocol: str, port: int) -> str:
    for service in agent.assignments.services.values():
        if any(p.protocol == protocol and p.published_port == port for p in service.endpoint.ports):
            return service.id
    return ""
