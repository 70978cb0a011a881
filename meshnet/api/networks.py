"""Networks."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from meshnet.api import filters, lists, shapes, validate
from meshnet.api.http import answer, body_as, flag, manager_of
from meshnet.control import operations
from meshnet.model import IPAMConfig, IPAMOptions, NetworkSpec


@dataclass(frozen=True, slots=True)
class IPAMConfigRequest:
    subnet: str = ""
    ip_range: str = field(default="", metadata={"name": "IPRange"})
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class IPAMRequest:
    driver: str = ""
    config: tuple[IPAMConfigRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """The body of `POST /networks/create`, which is not shaped like Swarm's own network spec."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv6: bool = field(default=False, metadata={"name": "EnableIPv6"})
    ipam: IPAMRequest = field(default=IPAMRequest(), metadata={"name": "IPAM"})
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def spec(self) -> NetworkSpec:
        configs = tuple(IPAMConfig(c.subnet, c.ip_range, c.gateway) for c in self.ipam.config)
        return NetworkSpec(
            name=self.name,
            labels=self.labels,
            internal=self.internal,
            attachable=self.attachable,
            ingress=self.ingress,
            options=self.options,
            ipam_options=IPAMOptions(configs),
        )


async def list_networks(request: web.Request) -> web.Response:
    """GET /networks, with `filters`."""
    view = manager_of(request).view
    wanted = filters.parse(request.query.get("filters", ""), lists.NETWORKS)
    return answer([shapes.network(item) for item in lists.networks(view, wanted)])


async def inspect_network(request: web.Request) -> web.Response:
    """GET /networks/{id}, with `verbose`."""
    view = manager_of(request).view
    network = filters.find_network(view, request.match_info["id"])
    return answer(shapes.network(network, view, flag(request, "verbose")))


async def create_network(request: web.Request) -> web.Response:
    """POST /networks/create"""
    manager = manager_of(request)
    asked = await body_as(NetworkRequest, request)
    spec = validate.network_spec(asked.spec(), asked.driver, asked.scope, asked.enable_ipv6)
    changes = await manager.state.write(
        lambda view: operations.create_network(view, spec, manager.ledger(view), manager.new_id)
    )
    return answer({"Id": changes.put[0].id, "Warning": ""}, 201)


async def remove_network(request: web.Request) -> web.Response:
    """DELETE /networks/{id}"""
    await manager_of(request).state.write(
        lambda view: operations.remove_network(view, filters.find_network(view, request.match_info["id"]))
    )
    return web.Response(status=204)
