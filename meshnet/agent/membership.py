"""How a node comes into a swarm and out of it by hand: `docker swarm init`, `join` and `leave`.

Refusals and their statuses are the Engine's (moby daemon/cluster/swarm.go).
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field, replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import aiohttp

from meshnet.agent import managing
from meshnet.agent.description import description
from meshnet.agent.settings import ManagerSettings
from meshnet.control.trust import joining, swarm, tls, tokens
from meshnet.control.trust.rotation import ca_config
from meshnet.errors import MeshnetError
from meshnet.ipam import DEFAULT_POOLS, DEFAULT_SIZE

if TYPE_CHECKING:
    from meshnet.agent.agent import Agent

PORT, GOSSIP_PORT, VXLAN_PORT = 2377, 7946, 4789
DATA_PORTS = range(1024, 49152)
JOIN_TIME = 20.0  # s to become a member
MEMBER = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
OUTSIDE = "This node is not part of a swarm"
LAST_MANAGER = (
    "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager "
    "erases all current state of the swarm. Use `--force` to ignore this message."
)


@dataclass(frozen=True, slots=True)
class InitRequest:
    """The body of POST /swarm/init. `spec` goes to the new manager as an update of its swarm."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    availability: str = ""
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """The body of POST /swarm/join."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: tuple[str, ...] = ()
    join_token: str = ""
    availability: str = ""


class Membership:
    """One agent's way in and out; one at a time."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._turn = asyncio.Lock()

    async def init(self, asked: InitRequest) -> str:
        """Makes a swarm with this node as its manager; returns the node's id. Raises MeshnetError."""
        async with self._turn:
            self._outside()
            manager, availability = self._new_manager(asked), _availability(asked.availability)
            found = await managing.start(manager)
            token = str(found["JoinTokens"]["Manager"])
            try:
                await managing.tell(manager.run_dir, f"/swarm/update?version={found['Version']['Index']}", asked.spec)
                return await self._enter((manager.advertise,), token, availability)
            except BaseException:
                if self._agent.member:
                    await self._agent.leave()
                await managing.stop(manager.lab, manager.node)
                managing.forget(manager.run_dir)
                raise

    async def join(self, asked: JoinRequest) -> None:
        """Makes this node a member of an existing swarm. Raises MeshnetError; then it is in none."""
        async with self._turn:
            self._outside()
            if not asked.remote_addrs:
                raise MeshnetError("at least 1 RemoteAddr is required to join")
            tokens.parse(asked.join_token)
            own = self._agent.settings.address
            self._own_address(asked.advertise_addr, "advertise", own)
            self._own_address(asked.data_path_addr, "data path", own)
            managers = tuple(_with_port(address) for address in asked.remote_addrs)
            await self._enter(managers, asked.join_token, _availability(asked.availability))

    async def leave(self, force: bool) -> None:
        """Ends this node's tasks and its membership. Raises MeshnetError for the last manager without `force`."""
        async with self._turn:
            agent = self._agent
            if not agent.member:
                raise MeshnetError(OUTSIDE, 503)
            manages = agent.settings.role == "manager"
            if manages and not force:
                raise MeshnetError(LAST_MANAGER, 503)
            await agent.leave()
            if manages:
                await managing.stop(agent.lab, agent.node)
                managing.forget(agent.settings.run_dir)

    def _outside(self) -> None:
        if self._agent.member:
            raise MeshnetError(MEMBER, 503)

    async def _enter(self, managers: tuple[str, ...], token: str, availability: str) -> str:
        """Gets a certificate from one of the managers, and begins the membership."""
        agent, credentials = self._agent, self._agent.credentials
        node, silent, told = replace(description(agent.settings), availability=availability), "", 0
        async with aiohttp.ClientSession() as http:
            for address in managers:
                try:
                    told = await joining.join(http, address, token, node, credentials, SystemRandom())
                    break
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    silent = f"the manager at {address} cannot be asked: {tls.explained(error)}"
            else:
                raise MeshnetError(f"{silent}; is that a manager's address, and can this node reach it?", 503)
        seeds = tuple(f"{address.rpartition(':')[0]}:{GOSSIP_PORT}" for address in managers)
        settings = replace(
            agent.settings,
            managers=managers,
            join=seeds,
            token="",
            role=credentials.identity.role,
            vxlan_port=told,
        )
        await agent.enter(settings, JOIN_TIME)
        return agent.manager.node_id

    def _new_manager(self, asked: InitRequest) -> ManagerSettings:
        """What the manager is told. Raises MeshnetError for what cannot be, before anything is changed."""
        if asked.force_new_cluster:
            raise MeshnetError("ForceNewCluster: not supported: a swarm has one manager, whose store must be kept", 501)
        if asked.auto_lock_managers:
            raise MeshnetError("AutoLockManagers: not supported: managers that must be unlocked", 501)
        own, ca = self._agent.settings, ca_config(asked.spec)
        if ca.external_cas or ca.signing_ca_cert:
            raise MeshnetError("CAConfig: a new swarm makes its own CA; give it another with docker swarm ca", 501)
        listen = _address(asked.listen_addr or "0.0.0.0", "listen")
        if listen[0] not in ("0.0.0.0", own.address):
            listen = (self._own_address(asked.listen_addr, "listen", own.address)[0], listen[1])
        address, port = self._own_address(asked.advertise_addr, "advertise", own.address)
        if ":" not in asked.advertise_addr:
            port = listen[1]
        self._own_address(asked.data_path_addr, "data path", own.address)
        pools = asked.default_addr_pool or DEFAULT_POOLS
        size = asked.subnet_size or DEFAULT_SIZE
        _check_pools(pools, size)
        return ManagerSettings(
            lab=own.lab,
            node=own.node,
            run_dir=own.run_dir,
            listen=f"{listen[0]}:{listen[1]}",
            advertise=f"{address}:{port}",
            avoid=own.avoid,
            images=tuple(self._agent.containers.images.catalogue()),
            heartbeat=own.heartbeat,
            pools=pools,
            pool_size=size,
            data_path_port=_data_port(asked.data_path_port),
            resolver=own.resolver,
            expiry=swarm.checked_expiry(ca.node_cert_expiry or swarm.EXPIRY),
        )

    def _own_address(self, text: str, what: str, own: str) -> tuple[str, int]:
        """An address of this node, or its interface's name, with a port. Raises MeshnetError for any other."""
        if not text:
            return own, PORT
        host, port = _address(text.replace(self._agent.settings.underlay, own, 1), what)
        if host != own:
            raise MeshnetError(f"{what} address {host} is not an address of this node; it has {own}")
        return host, port


def _address(text: str, what: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    try:
        number = int(port) if port else PORT
        ipaddress.IPv4Address(host)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise MeshnetError(f"{what} address must be an IP address or network interface (with optional port number)")
    return host, number


def _with_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return address if host and port.isdigit() else f"{address}:{PORT}"


def _availability(text: str) -> str:
    if text not in ("", "active", "pause", "drain"):
        raise MeshnetError(f'invalid Availability: "{text}"')
    return text or "active"


def _data_port(port: int) -> int:
    if port and port not in DATA_PORTS:
        raise MeshnetError(f"Datapath port number must be between {DATA_PORTS[0]} and {DATA_PORTS[-1]}")
    return port or VXLAN_PORT


def _check_pools(pools: tuple[str, ...], size: int) -> None:
    """Raises MeshnetError for pools that overlap, or that no subnet of that size can be cut from."""
    networks: list[ipaddress.IPv4Network] = []
    for text in pools:
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise MeshnetError(f"DefaultAddrPool: {text} is no subnet: {error}") from None
        if not network.prefixlen <= size <= 29:
            raise MeshnetError(f"SubnetSize: {size} must be between the prefix length of {text} and 29")
        if any(network.overlaps(other) for other in networks):
            raise MeshnetError(f"DefaultAddrPool: {text} overlaps another pool")
        networks.append(network)
