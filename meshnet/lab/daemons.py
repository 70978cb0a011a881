"""What a lab's agents and managers are told, and how they are started."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshnet import names
from meshnet.agent.settings import AGENT_FILE, MANAGER_FILE, AgentSettings, ManagerSettings
from meshnet.errors import ConflictError
from meshnet.gossip.settings import patience
from meshnet.kernel import bpfbuild
from meshnet.lab import cgroups, packages, processes, state
from meshnet.lab.processes import Daemon
from meshnet.lab.spec import GOSSIP_PORT, MANAGER_PORT, Lab, LabNode

HEARTBEAT, SWARMS_HEARTBEAT = 1.0, 5.0  # s; a lost node of a small lab is down after 3 s, not after Swarm's 15
AGENT, MANAGER = "agent", "manager"
_CODE = {AGENT: ("meshnet.agent.main", "meshnet.api.node.server"), MANAGER: ("meshnet.api.process",)}


def write_managers(lab: Lab) -> None:
    """Writes what each manager of the lab is told into its node's directory, for root only."""
    for node in lab.managers:
        _manager(lab, node).save()


def write_agents(lab: Lab, tokens: Mapping[str, str]) -> None:
    """Writes what each agent of the lab is told. `tokens` are the swarm's join tokens: `Worker` and `Manager`.

    Without tokens, the agents are in no swarm.
    """
    for node in lab.nodes:
        _agent(lab, node, tokens.get(node.role.capitalize(), "")).save(_agent_file(lab.name, node.name))


def renew_token(lab: Lab, node: LabNode, tokens: Mapping[str, str]) -> None:
    """Gives the settings of a node that is started again the token that is in force now."""
    if not is_out(lab, node.name):
        path = _agent_file(lab.name, node.name)
        dataclasses.replace(AgentSettings.load(path), token=tokens[node.role.capitalize()]).save(path)


def is_out(lab: Lab, node: str) -> bool:
    """Whether a node is in no swarm: it left, or was removed and has noticed."""
    return not AgentSettings.load(_agent_file(lab.name, node)).managers


def _agent_file(lab: str, node: str) -> Path:
    return Path(names.node_dir(lab, node), AGENT_FILE)


def _agent(lab: Lab, node: LabNode, token: str) -> AgentSettings:
    return AgentSettings(
        lab=lab.name,
        node=node.name,
        address=node.address,
        run_dir=names.node_dir(lab.name, node.name),
        role=node.role,
        labels=node.labels,
        managers=tuple(f"{manager.address}:{MANAGER_PORT}" for manager in lab.managers),
        join=tuple(f"{manager.address}:{GOSSIP_PORT}" for manager in lab.managers),
        resolvers=lab.resolvers,
        resolver=lab.resolver,
        images=lab.images,
        layers=packages.layers(lab),
        datapath=node.datapath,
        direct_return=lab.direct_return,
        map_sizes=lab.map_sizes,
        neighbours=len(lab.nodes),
        avoid=(lab.subnet,),
        heartbeat=heartbeat(lab),
        token=token,
    )


def heartbeat(lab: Lab) -> float:
    """Seconds between two reports of a node; after three of them without one, the manager calls it down."""
    return min(HEARTBEAT * patience(len(lab.nodes)), SWARMS_HEARTBEAT)


def _manager(lab: Lab, node: LabNode) -> ManagerSettings:
    from meshnet.sandbox.images import Images

    return ManagerSettings(
        lab=lab.name,
        node=node.name,
        run_dir=names.node_dir(lab.name, node.name),
        listen=f"{node.address}:{MANAGER_PORT}",
        avoid=(lab.subnet,),
        heartbeat=heartbeat(lab),
        resolver=lab.resolver,
        images=tuple(Images(lab.images).catalogue()),
    )


def preload(roles: set[str]) -> None:
    """Imports the code of agents and managers into this process, so that its forks have it; compiles what is new."""
    bpfbuild.objects()
    with _no_authorities():
        for role in sorted(roles):
            for module in _CODE[role]:
                importlib.import_module(module)
    if AGENT in roles:
        from meshnet.api.node.server import learn_routes

        learn_routes()


@contextlib.contextmanager
def _no_authorities() -> Iterator[None]:
    """aiohttp reads the machine's authorities as it is imported, which takes 40 ms. In a swarm only its own counts."""
    names = ssl.get_default_verify_paths()
    before = {name: os.environ.get(name) for name in (names.openssl_cafile_env, names.openssl_capath_env)}
    os.environ |= dict.fromkeys(before, os.devnull)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def of_node(lab: Lab, node: LabNode) -> list[Daemon]:
    """The processes of a node: its manager if it has that role, then its agent."""
    roles = (MANAGER, AGENT) if node.role == "manager" else (AGENT,)
    return [_daemon(lab.name, node.name, role) for role in roles]


def _daemon(lab: str, node: str, role: str) -> Daemon:
    directory = Path(names.node_dir(lab, node))

    def run() -> None:
        if role == MANAGER:
            run_manager(ManagerSettings.load(directory / MANAGER_FILE))
        else:
            run_agent(AgentSettings.load(_agent_file(lab, node)))

    return Daemon(lab, node, role, run)


def settle_here(lab: str, node: str, role: str) -> None:
    """Moves this process to where an agent or manager of that node belongs. Raises MeshnetError if one runs there."""
    found = state.load(lab)
    state.node_of(found, node)
    with state.turn(lab, node):
        if processes.alive(lab, node, role):
            raise ConflictError(f"the {role} of {node} runs already; end it with: meshnet lab stop {node}")
        cgroups.path(lab, node, role).mkdir(parents=True, exist_ok=True)
        processes.settle(lab, node, role)


def run_agent(settings: AgentSettings) -> None:
    """Runs an agent in this process, which is in the node's namespace, until SIGTERM."""
    from meshnet.agent.main import run
    from meshnet.api.node.server import EngineServer

    run(settings, (EngineServer,))


def run_manager(settings: ManagerSettings) -> None:
    """Runs a manager in this process, which is in the node's namespace, until SIGTERM."""
    from meshnet.api.process import ManagerProcess
    from meshnet.control.settings import Settings
    from meshnet.control.trust.gossipkeys import PERIOD
    from meshnet.control.trust.swarm import EXPIRY
    from meshnet.ipam import DEFAULT_POOLS, DEFAULT_SIZE
    from meshnet.sandbox.images import WHOAMI, Images

    directory = Path(settings.run_dir)
    directory.joinpath("store").mkdir(mode=0o700, exist_ok=True)
    socket = directory / "manager.sock"
    socket.unlink(missing_ok=True)  # of a manager that was killed
    # What the images are does not matter here, only which there are.
    images = Images(dict.fromkeys(settings.images, WHOAMI), str(directory.parent / "images"))
    process = ManagerProcess(
        directory / "store",
        settings.listen,
        socket,
        Settings(
            lab=settings.lab,
            heartbeat=settings.heartbeat,
            pools=settings.pools or DEFAULT_POOLS,
            pool_size=settings.pool_size or DEFAULT_SIZE,
            avoid=settings.avoid,
            has_image=images.has,
            advertise=settings.advertise,
            key_period=settings.key_period or PERIOD,
            expiry=settings.expiry or EXPIRY,
            data_path_port=settings.data_path_port,
            resolver=settings.resolver,
        ),
    )
    print(f"manager of {settings.node} on {settings.listen}, pid {os.getpid()}", flush=True)
    asyncio.run(process.run())
