"""Networks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from aiohttp import web

from meshnet.api import filters, lists, shapes, validate
from meshnet.api.http import answer, body_as, flag, manager_of
from meshnet.control import operations
from meshnet.control.objects import Changes
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.kernel import capabilities
from meshnet.model import IPAMConfig, IPAMOptions, Network, NetworkSpec

ENCRYPTED = "encrypted"
INSTEAD = "leave out --opt encrypted, and encrypt between the nodes (WireGuard, IPsec) or in the services (TLS)"


@dataclass(frozen=True, slots=True)
class IPAMConfigRequest:
    subnet: str = ""
    ip_range: str = field(default="", metadata={"name": "IPRange"})
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IPAMRequest:
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    config: tuple[IPAMConfigRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigFrom:
    network: str = ""


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """The body of `POST /networks/create`, which is not shaped like Swarm's own network spec."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom = ConfigFrom()
    enable_ipv4: bool = field(default=True, metadata={"name": "EnableIPv4"})
    enable_ipv6: bool = field(default=False, metadata={"name": "EnableIPv6"})
    ipam: IPAMRequest = field(default=IPAMRequest(), metadata={"name": "IPAM"})
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def spec(self) -> NetworkSpec:
        configs = tuple(IPAMConfig(c.subnet, c.ip_range, c.gateway, c.auxiliary_addresses) for c in self.ipam.config)
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
    _check_supported(asked)
    spec = validate.network_spec(asked.spec(), asked.driver, asked.scope)
    if ENCRYPTED in spec.options and _asks(spec.options[ENCRYPTED]):
        raise await asyncio.to_thread(_no_encryption)
    changes = await manager.state.write(
        lambda view: operations.create_network(view, spec, manager.ledger(view), manager.new_id)
    )
    return answer({"Id": changes.put[0].id, "Warning": ""}, 201)


def _check_supported(asked: NetworkRequest) -> None:
    """Refuses what would make another network than the one that was asked for."""
    if asked.enable_ipv6 or not asked.enable_ipv4:
        raise MeshnetError("IPv6 addresses on overlay networks are not supported; leave out --ipv6")
    if asked.config_only or asked.config_from.network:
        raise MeshnetError("networks that hold or take only a configuration are not supported", 501)
    if asked.ipam.driver not in ("", "default") or asked.ipam.options:
        raise MeshnetError("addresses of overlay networks come from the default IPAM driver, which has no options")


def _asks(value: str) -> bool:
    """Whether an option without a value, or with one that means yes, is given."""
    return value.lower() not in ("0", "f", "false")


def _no_encryption() -> MeshnetError:
    """Why a network cannot be encrypted here. Unencrypted instead would be worse than none."""
    probe = capabilities.esp()
    kernel = "though this kernel could (it has ESP)"
    if not probe.works:
        kernel = f"and this kernel cannot: it has no ESP with AES-GCM ({probe.detail})"
    return MeshnetError(f"meshnet does not encrypt overlay networks yet, {kernel}; {INSTEAD}", 501)


async def prune_networks(request: web.Request) -> web.Response:
    """POST /networks/prune, with `filters`: removes the networks that nothing uses, but not ingress."""
    wanted = filters.parse(request.query.get("filters", ""), lists.PRUNED)
    before = lists.until(wanted, time.time())

    def unused(view: View) -> Changes:
        found = lists.unused_networks(view, wanted, before)
        return Changes(
            drop=tuple(thing for network in found for thing in operations.remove_network(view, network).drop)
        )

    dropped = (await manager_of(request).state.write(unused)).drop
    return answer({"NetworksDeleted": [thing.spec.name for thing in dropped if isinstance(thing, Network)] or None})


async def remove_network(request: web.Request) -> web.Response:
    """DELETE /networks/{id}"""
    await manager_of(request).state.write(
        lambda view: operations.remove_network(view, filters.find_network(view, request.match_info["id"]))
    )
    return web.Response(status=204)
