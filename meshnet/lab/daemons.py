"""What a lab's agents and managers are told, and how they are started."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import importlib
import json
import os
import secrets
from pathlib import Path

from meshnet import names
from meshnet.agent.settings import AgentSettings
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel import bpfbuild
from meshnet.lab import cgroups, processes, state
from meshnet.lab.processes import Daemon
from meshnet.lab.spec import GOSSIP_PORT, MANAGER_PORT, Lab, LabNode

HEARTBEAT = 1.0  # s; a lab's node that is lost is down after three of them, not after Swarm's 15 s
AGENT, MANAGER = "agent", "manager"
AGENT_FILE, MANAGER_FILE = "settings.json", "manager.json"


@dataclasses.dataclass(frozen=True, slots=True)
class ManagerSettings:
    """One manager of a lab: `listen` is address:port for agents, `avoid` subnets that no network may meet."""

    lab: str
    node: str
    run_dir: str
    listen: str
    avoid: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> ManagerSettings:
        """Reads what `write_settings` wrote. MeshnetError if the file is missing or is not that."""
        try:
            values = json.loads(Path(path).read_text())
            return cls(**{**values, "avoid": tuple(values["avoid"]), "images": tuple(values["images"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MeshnetError(f"{path}: not the settings of a manager: {error}") from None


def write_settings(lab: Lab) -> None:
    """Writes what each agent and manager of the lab is told into its node's directory, for root only."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    for node in lab.nodes:
        directory = Path(names.node_dir(lab.name, node.name))
        _agent(lab, node, key).save(directory / AGENT_FILE)
        if node.role == "manager":
            path = directory / MANAGER_FILE
            path.touch(0o600)
            path.write_text(json.dumps(dataclasses.asdict(_manager(lab, node)), indent=2))


def _agent(lab: Lab, node: LabNode, key: str) -> AgentSettings:
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
        images=lab.images,
        datapath=node.datapath,
        direct_return=lab.direct_return,
        map_sizes=lab.map_sizes,
        neighbours=len(lab.nodes),
        gossip_key=key,
    )


def _manager(lab: Lab, node: LabNode) -> ManagerSettings:
    from meshnet.sandbox.images import Images

    return ManagerSettings(
        lab=lab.name,
        node=node.name,
        run_dir=names.node_dir(lab.name, node.name),
        listen=f"{node.address}:{MANAGER_PORT}",
        avoid=(lab.subnet,),
        images=tuple(Images(lab.images).names()),
    )


def preload(roles: set[str]) -> None:
    """Imports the code of agents and managers into this process, so that its forks have it; compiles what is new."""
    bpfbuild.objects()
    for role in sorted(roles):
        importlib.import_module({AGENT: "meshnet.agent.main", MANAGER: "meshnet.api.process"}[role])


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
            run_agent(AgentSettings.load(directory / AGENT_FILE))

    return Daemon(lab, node, role, run)


def settle_here(lab: str, node: str, role: str) -> None:
    """Moves this process to where an agent or manager of that node belongs. Raises MeshnetError if one runs there."""
    found = state.load(lab)
    state.node_of(found, node)
    if processes.alive(lab, node, role):
        raise ConflictError(f"the {role} of {node} runs already; end it with: meshnet lab stop {node}")
    cgroups.path(lab, node, role).mkdir(parents=True, exist_ok=True)
    processes.settle(lab, node, role)


def run_agent(settings: AgentSettings) -> None:
    """Runs an agent in this process, which is in the node's namespace, until SIGTERM."""
    from meshnet.agent.main import run

    run(settings)


def run_manager(settings: ManagerSettings) -> None:
    """Runs a manager in this process, which is in the node's namespace, until SIGTERM."""
    from meshnet.api.process import ManagerProcess
    from meshnet.control.settings import Settings

    directory = Path(settings.run_dir)
    directory.joinpath("store").mkdir(mode=0o700, exist_ok=True)
    socket = directory / "manager.sock"
    socket.unlink(missing_ok=True)  # of a manager that was killed
    process = ManagerProcess(
        directory / "store",
        settings.listen,
        socket,
        Settings(lab=settings.lab, heartbeat=HEARTBEAT, avoid=settings.avoid, images=settings.images),
    )
    print(f"manager of {settings.node} on {settings.listen}, pid {os.getpid()}", flush=True)
    asyncio.run(process.run())
