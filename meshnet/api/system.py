"""What the manager says of itself: ping, version, info."""

from __future__ import annotations

import os
import platform

from aiohttp import web

from meshnet.api import shapes
from meshnet.api.http import answer, manager_of
from meshnet.api.swarm import cluster
from meshnet.control.manager import Manager
from meshnet.control.view import View
from meshnet.model import Node


async def ping(request: web.Request) -> web.Response:
    """GET and HEAD /_ping"""
    text = "" if request.method == "HEAD" else "OK"
    return web.Response(
        text=text, headers={"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    )


async def version(_: web.Request) -> web.Response:
    """GET /version"""
    system = os.uname()
    details = {
        "ApiVersion": shapes.API_VERSION,
        "Arch": _architecture(system.machine),
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "KernelVersion": system.release,
        "MinAPIVersion": shapes.MINIMUM_API_VERSION,
        "Os": "linux",
    }
    components = [{"Name": "Engine", "Version": shapes.ENGINE_VERSION, "Details": {**details, "Experimental": "false"}}]
    return answer(
        {
            "Platform": {"Name": "meshnet"},
            "Components": components,
            "Version": shapes.ENGINE_VERSION,
            "MinAPIVersion": shapes.MINIMUM_API_VERSION,
            **details,
        }
    )


def _architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


async def info(request: web.Request) -> web.Response:
    """GET /info: the parts that a swarm manager's clients read."""
    manager = manager_of(request)
    system = os.uname()
    return answer(
        {
            "ID": manager.view.cluster.id if manager.view.cluster else "",
            "Name": _own_name(manager),
            "ServerVersion": shapes.ENGINE_VERSION,
            "OSType": "linux",
            "OperatingSystem": "linux",
            "KernelVersion": system.release,
            "Architecture": system.machine,
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "Driver": "overlayfs",
            "Plugins": {"Volume": ["local"], "Network": ["overlay"], "Authorization": None, "Log": ["json-file"]},
            "IPv4Forwarding": True,
            "Labels": [],
            "ExperimentalBuild": False,
            "Warnings": None,
            "Swarm": _swarm(manager),
        }
    )


def _own_name(manager: Manager) -> str:
    node = _own_node(manager.view)
    return node.description.hostname if node else ""


def _own_node(view: View) -> Node | None:
    return next((node for node in view.nodes.values() if node.manager_status is not None), None)


def _swarm(manager: Manager) -> shapes.Json:
    view = manager.view
    own = _own_node(view)
    swarm: shapes.Json = {
        "NodeID": own.id if own else "",
        "NodeAddr": own.status.addr if own else "",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": [{"NodeID": own.id, "Addr": manager.advertise}] if own else [],
        "Nodes": len(view.nodes),
        "Managers": sum(node.spec.role == "manager" for node in view.nodes.values()),
    }
    if manager.view.cluster is not None:
        swarm["Cluster"] = cluster(manager)
    return swarm
