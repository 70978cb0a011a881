"""The swarm that `meshnet bench vip-vs-dnsrr` measures: two services, alike but for their endpoint mode, and a client's
task. Everything is asked of the Engine API, as `docker` does it; only killing is not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from meshnet.api.client import EngineClient
from meshnet.bench import swarm
from meshnet.bench.modes import DNSRR, MODES, PORT, VIP
from meshnet.errors import MeshnetError

CLIENT, NETWORK = "client", "bench"
PATIENCE = 60.0  # s that anything may take
_PAUSE = 0.02
_SECOND = 10**9
_PARTS = ("modes", "modes_server", "modes_client", "modes_dns", "modes_waits")
_SOURCES = [Path(__file__).with_name(f"{name}.c") for name in _PARTS]
RESTART = _SECOND  # ns after which a task that was killed is replaced
_GRACE = 10 * _SECOND
_RARELY = 3600 * _SECOND  # between health checks, once it is healthy: they are no part of what is measured


class Ground(Protocol):
    """Where the swarm runs; the first node is its manager's."""

    nodes: list[str]
    socket: Path
    group: Path

    def start(self, task: str, command: Sequence[str]) -> subprocess.Popen[bytes]: ...

    def beside(self, task: str, command: Sequence[str]) -> subprocess.Popen[bytes]: ...

    def kill_task(self, ident: str) -> None: ...

    def kill_node(self, name: str) -> None: ...


class Services:
    """The services. Methods raise MeshnetError if the swarm refuses or gets stuck."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._client = EngineClient(ground.socket)
        self._ids: dict[str, str] = {}

    def create(self, replicas: int) -> None:
        """Makes network, image and services, and returns when all tasks run."""
        image = swarm.import_image(self.ground.socket, swarm.root_file_system(*_SOURCES))
        self._client.post("/networks/create", {"Name": NETWORK, "Driver": "overlay"})
        here, elsewhere = (f"node.hostname{sign}{self.ground.nodes[0]}" for sign in ("==", "!="))
        self._create(CLIENT, image, ["/task", "wait"], 1, VIP, here)
        for mode in MODES:
            self._create(mode, image, ["/task", "serve", str(PORT)], replicas, mode, elsewhere)
        wanted = {CLIENT: 1} | dict.fromkeys(MODES, replicas)
        _until(lambda: all(len(self.running(name)) == count for name, count in wanted.items()), "the services to run")

    def _create(self, name: str, image: str, command: list[str], replicas: int, mode: str, where: str) -> None:
        container: dict[str, Any] = {
            "Image": image,
            "Command": command,
            "StopGracePeriod": _GRACE,
            "Hostname": "{{.Task.ID}}",
        }
        if name != CLIENT:  # without it a backend is asked as soon as it runs, which may be before it listens
            check = ["CMD", "/task", "check", str(PORT)]
            container["Healthcheck"] = {"Test": check, "Interval": _RARELY, "Timeout": _GRACE, "Retries": 1}
        template = {
            "ContainerSpec": container,
            "Networks": [{"Target": NETWORK}],
            "Placement": {"Constraints": [where]},
            "RestartPolicy": {"Condition": "any", "Delay": RESTART},
        }
        spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}
        spec["EndpointSpec"] = {"Mode": "dnsrr" if mode == DNSRR else "vip"}
        self._ids[name] = str(self._client.post("/services/create", spec)["ID"])

    def running(self, name: str) -> dict[str, str]:
        """Tasks of a service that run on nodes that are there, and should: id -> node."""
        ready = {
            node["ID"]: str(node["Description"]["Hostname"])
            for node in self._client.get("/nodes")
            if node["Status"]["State"] == "ready"
        }
        tasks = self._client.get("/tasks", filters={"service": [self._ids[name]], "desired-state": ["running"]})
        return {
            str(task["ID"]): ready[task["NodeID"]]
            for task in tasks
            if task["Status"]["State"] == "running" and task.get("NodeID") in ready
        }

    def vip(self, name: str) -> str:
        """The VIP of a service."""
        service = self._client.get(f"/services/{self._ids[name]}")
        return str(service["Endpoint"]["VirtualIPs"][0]["Addr"]).partition("/")[0]

    def address(self, name: str) -> str:
        """The address of one of a service's tasks."""
        ident = min(self.running(name))
        attached = self._client.get(f"/tasks/{ident}")["NetworksAttachments"]
        return next(
            str(one["Addresses"][0]).partition("/")[0] for one in attached if one["Network"]["Spec"]["Name"] == NETWORK
        )

    def scale(self, name: str, replicas: int) -> None:
        """Changes the number of replicas."""
        self._update(name, lambda spec: spec["Mode"].update(Replicated={"Replicas": replicas}))

    def replace(self, name: str) -> None:
        """Has all tasks replaced, as `docker service update --force` does."""

        def force(spec: dict[str, Any]) -> None:
            spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1

        self._update(name, force)

    def _update(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        service = self._client.get(f"/services/{self._ids[name]}")
        change(service["Spec"])
        self._client.post(f"/services/{self._ids[name]}/update", service["Spec"], version=service["Version"]["Index"])

    def wait(self, replicas: int) -> None:
        """Returns when so many tasks of each service run, and no more."""
        _until(
            lambda: all(len(self.running(mode)) == replicas for mode in MODES),
            f"{replicas} tasks of each service to run",
        )


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise MeshnetError(f"waited {PATIENCE:g} s for {what}; what was made is removed")
        time.sleep(_PAUSE)
