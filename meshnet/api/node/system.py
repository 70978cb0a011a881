"""What a node says of itself: ping, version, info, disk usage."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.description import PLUGINS
from meshnet.api import shapes, system
from meshnet.api.http import answer
from meshnet.api.node import forward
from meshnet.api.node.context import Node, node_of
from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import limits

ping, version = system.ping, system.version


def _identity(node: Node) -> str:
    """The engine's id in the form that clients know: twelve groups of four letters, the same at each start."""
    settings = node.agent.settings
    digest = sha256(f"{settings.lab}/{settings.node}".encode()).digest()
    letters = "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[byte % 32] for byte in (digest + digest)[:48])
    return ":".join(letters[start : start + 4] for start in range(0, 48, 4))


async def info(request: web.Request) -> web.Response:
    """GET /info"""
    node = node_of(request)
    kernel, lacking = os.uname(), limits.missing(cgroup2_root())
    return answer(
        {
            "ID": _identity(node),
            **counts(node),
            "Name": node.agent.settings.node,
            "Driver": "overlay",
            "DriverStatus": None,
            "Plugins": {
                "Volume": list(PLUGINS["Volume"]),
                "Network": list(PLUGINS["Network"]),
                "Authorization": None,
                "Log": list(PLUGINS["Log"]),
            },
            **_machine(lacking),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2",
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "KernelVersion": kernel.release,
            "OperatingSystem": _system(),
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": kernel.machine,
            "IndexServerAddress": "",
            "RegistryConfig": None,
            "DockerRootDir": str(node.agent.run_dir),
            "Labels": [f"{name}={value}" for name, value in engine_labels(node).items()],
            "ExperimentalBuild": False,
            "ServerVersion": shapes.ENGINE_VERSION,
            "Runtimes": {"crun": {"path": "crun"}},
            "DefaultRuntime": "crun",
            "Swarm": await _swarm(node),
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "tini-static",
            "SecurityOptions": ["name=seccomp,profile=default"],
            "Warnings": [f"WARNING: No {name} limit support: {why}" for name, why in lacking.items()] or None,
        }
    )


def _system() -> str:
    """What the machine's system calls itself."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "linux")
    except OSError:
        return "linux"


def _machine(lacking: Mapping[str, str]) -> dict[str, Any]:
    """What the machine has, and what is bounded for a container; `lacking` are the controllers that are not there."""
    return {
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "IPv4Forwarding": True,
        "BridgeNfIptables": True,
        "BridgeNfIp6tables": True,
        "MemoryLimit": "memory" not in lacking,
        "SwapLimit": "memory" not in lacking,
        "CpuCfsPeriod": "cpu" not in lacking,
        "CpuCfsQuota": "cpu" not in lacking,
        "CPUShares": False,
        "CPUSet": False,
        "PidsLimit": "pids" not in lacking,
        "OomKillDisable": False,
        "Debug": False,
    }


def counts(node: Node) -> dict[str, int]:
    """How many containers and images the node has."""
    states = Counter(entry.state for entry in inventory.entries(node.agent))
    return {
        "Containers": states.total(),
        "ContainersRunning": states["running"] + states["restarting"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": states["exited"] + states["created"],
        "Images": len(node.agent.containers.image_names()),
    }


def engine_labels(node: Node) -> dict[str, str]:
    return {"datapath": node.agent.settings.datapath}


async def _swarm(node: Node) -> dict[str, Any]:
    """The swarm as this node sees it: in full on a manager that answers."""
    agent = node.agent
    state = "active" if agent.joined else "inactive"
    if node.manages:
        try:
            found: dict[str, Any] = (await forward.asked(node, "/info"))["Swarm"]
            return found
        except MeshnetError as error:
            state, failure = "error", str(error)
    else:
        failure = ""
    known = agent.manager.node_id
    return {
        "NodeID": known,
        "NodeAddr": agent.settings.address if known else "",
        "LocalNodeState": state,
        "ControlAvailable": False,
        "Error": failure,
        "RemoteManagers": [{"NodeID": "", "Addr": address} for address in agent.settings.managers] if known else None,
    }
