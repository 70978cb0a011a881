"""Networks as one node knows them: the swarm's, in full on a manager and on a worker those that it is on, and its own.

The node's own three are `host` (the node's namespace), `none` (loopback alone) and `bridge`, which here is no bridge:
what is started without a network gets an address on the ingress network, which leads out as the node's tasks get out.
Networks of other drivers cannot be made.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.agent import Agent
from meshnet.api import filters, lists, shapes
from meshnet.api.http import answer
from meshnet.api.node import forward
from meshnet.api.node.container_shapes import endpoint_id
from meshnet.api.node.context import Node, agent_of, json_body, node_of
from meshnet.errors import MeshnetError
from meshnet.model import Network, mac_of

Json = dict[str, Any]
OWN = {"bridge": "bridge", "host": "host", "none": "null"}
CREATED = "1970-01-01T00:00:00Z"


def own_id(name: str, agent: Agent) -> str:
    """The id of one of the node's own networks: 64 hex digits, as the Engine's local networks have."""
    return sha256(f"{agent.lab}/{agent.node}/{name}".encode()).hexdigest()


def _own(agent: Agent, name: str) -> Json:
    return {
        "Name": name,
        "Id": own_id(name, agent),
        "Created": CREATED,
        "Scope": "local",
        "Driver": OWN[name],
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }


def _held(agent: Agent, network: Network) -> Json:
    """A network of the swarm that this node is on, with its containers and the nodes it spans."""
    containers: Json = {}
    for entry in inventory.entries(agent):
        for item in entry.attachments:
            if item.network_id == network.id and entry.status == "running":
                containers[entry.id] = {
                    "Name": entry.name,
                    "EndpointID": endpoint_id(entry.id, network.id),
                    "MacAddress": mac_of(item.address),
                    "IPv4Address": item.addresses[0],
                    "IPv6Address": "",
                }
    nodes = {peer.id: peer.address for peer in agent.neighbours.peers} if agent.joined else {}
    there = {item.owner for item in agent.neighbours.located if item.network == network.id} if agent.joined else set()
    peers = [{"Name": ident[:12], "IP": nodes[ident]} for ident in sorted(there) if ident in nodes]
    return {**shapes.network(network), "Containers": containers, "Peers": peers}


async def list_networks(request: web.Request) -> web.Response:
    """GET /networks, with `filters`."""
    node = node_of(request)
    wanted = filters.parse(request.query.get("filters", ""), lists.NETWORKS)
    swarm = await _of_swarm(node, request) if node.agent.joined else []
    return answer([*swarm, *(found for name in OWN if _matches(found := _own(node.agent, name), wanted))])


async def _of_swarm(node: Node, request: web.Request) -> list[Json]:
    if node.manages:
        found: list[Json] = await forward.asked(node, request.raw_path)
        return found
    wanted = filters.parse(request.query.get("filters", ""), lists.NETWORKS)
    held = [_held(node.agent, network) for network in node.agent.assignments.networks.values()]
    return [shown for shown in sorted(held, key=lambda one: str(one["Created"])) if _matches(shown, wanted)]


def _matches(shown: Json, wanted: filters.Filters) -> bool:
    names = wanted.get("name")
    kind = "builtin" if shown["Scope"] == "local" or shown["Ingress"] else "custom"
    return (
        filters.any_prefix(wanted, "id", shown["Id"])
        and (names is None or any(name in shown["Name"] for name in names))
        and filters.any_equal(wanted, "driver", shown["Driver"])
        and filters.any_equal(wanted, "scope", shown["Scope"])
        and filters.any_equal(wanted, "type", kind)
        and filters.labels_match(wanted, "label", shown["Labels"] or {})
        and filters.any_equal(wanted, "dangling", "false", "0")
    )


def own_named(agent: Agent, reference: str) -> str | None:
    """The node's own network that is meant by a name or id."""
    for name in OWN:
        if reference == name or (len(reference) >= 12 and own_id(name, agent).startswith(reference)):
            return name
    return None


def held_named(agent: Agent, reference: str) -> Network | None:
    """The network of the swarm that this node is on, by name or id."""
    there = agent.assignments.networks
    return there.get(reference) or next((one for one in there.values() if one.spec.name == reference), None)


async def inspect(request: web.Request) -> web.StreamResponse:
    """GET /networks/{id}, with `verbose` and `scope`."""
    node, reference = node_of(request), request.match_info["id"]
    own = own_named(node.agent, reference)
    if own is not None and request.query.get("scope", "local") == "local":
        return answer(_own(node.agent, own))
    if own is not None and node.manages:
        raise MeshnetError(f"network {own} not found: it is the node's own, and services use those of the swarm", 404)
    held = held_named(node.agent, reference) if node.agent.joined else None
    if node.manages:
        shown = await forward.asked(node, request.raw_path)
        whole = request.query.get("scope") != "swarm"  # else as the swarm's own, without what this node adds
        return answer({**shown, **_local_part(node.agent, held)} if held is not None and whole else shown)
    if held is None:
        raise MeshnetError(f"network {reference} not found", 404)
    return answer(_held(node.agent, held))


def _local_part(agent: Agent, network: Network) -> Json:
    shown = _held(agent, network)
    return {name: shown[name] for name in ("Containers", "Peers") if shown["Containers"]}


async def create(request: web.Request) -> web.StreamResponse:
    """POST /networks/create: the swarm's alone can be made, and by a manager."""
    node = node_of(request)
    if node.agent.joined and not node.manages:
        asked = await json_body(request)
        if isinstance(asked, dict) and asked.get("Driver") == "overlay":
            raise MeshnetError(
                "Cannot create a multi-host network from a worker node. Please create the network from a manager node.",
                403,
            )
    return await forward.to_manager(request)


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /networks/{id}"""
    own = own_named(agent_of(request), request.match_info["id"])
    if own is not None:
        raise MeshnetError(f"{own} is a pre-defined network and cannot be removed", 403)
    return await forward.to_manager(request)


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /networks/prune: a worker has none to remove."""
    if node_of(request).manages:
        return await forward.to_manager(request)
    return answer({"NetworksDeleted": None})


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/networks", list_networks),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", remove),
)
