"""`kill -9` of a manager at any moment: what it acknowledged is there afterwards, and nothing is half done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from swarm import eventually, run

from meshnet.api.client import EngineClient
from meshnet.api.process import ManagerProcess
from meshnet.control.settings import Settings
from meshnet.control.view import addresses_of
from meshnet.errors import MeshnetError

MANAGER = """
import asyncio, sys
from pathlib import Path
from meshnet.api.process import ManagerProcess
from meshnet.control.settings import Settings
path = Path(sys.argv[1])
process = ManagerProcess(path / "store", "127.0.0.1:0", path / "manager.sock", Settings(lab="test"))
asyncio.run(process.run(lambda: print("ready", flush=True)))
"""


def started(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", MANAGER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def body(name: str) -> dict[str, object]:
    template = {"ContainerSpec": {"Image": "app:1"}, "Networks": [{"Target": "demo"}]}
    ports = {"Ports": [{"TargetPort": 80}]}
    return {"Name": name, "TaskTemplate": template, "EndpointSpec": ports, "Mode": {"Replicated": {"Replicas": 3}}}


@pytest.mark.parametrize("acknowledged", [0, 5, 23])
def test_kill_9(tmp_path: Path, acknowledged: int) -> None:
    """Every service that was acknowledged is there with its addresses, ports and tasks after a restart."""
    process = started(tmp_path)
    client = EngineClient(tmp_path / "manager.sock")
    names: dict[str, str] = {}
    writer = os.fork() if acknowledged else 0
    if acknowledged and writer == 0:
        # A second client that is in the middle of a request when the manager dies.
        with contextlib.suppress(MeshnetError):
            for number in range(1000):
                client.post("/networks/create", {"Name": f"other{number}"})
        os._exit(0)
    try:
        client.post("/networks/create", {"Name": "demo"})
        for number in range(acknowledged):
            names[f"s{number}"] = client.post("/services/create", body(f"s{number}"))["ID"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if writer:
            os.waitpid(writer, 0)

    async def scenario() -> None:
        again = ManagerProcess(tmp_path / "store", "127.0.0.1:0", tmp_path / "manager.sock", Settings(lab="test"))
        await again.start()
        try:
            view = again.manager.view
            assert {view.services[ident].spec.name: ident for ident in names.values()} == names
            await eventually(lambda: len(view.tasks) == 3 * len(names), "every service has its tasks")
            held = [item for thing in view.all() for item in addresses_of(thing)]
            assert len(held) == len(set(held))
            ports = [port.published_port for service in view.services.values() for port in service.endpoint.ports]
            assert len(set(ports)) == len(ports) == len(names)
            assert len({network.vni for network in view.networks.values()}) == len(view.networks)
        finally:
            await again.stop()

    run(scenario)


def test_a_manager_that_is_told_to_stop(tmp_path: Path) -> None:
    """SIGTERM ends the process cleanly, and its socket goes with it."""
    process = started(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stdout is not None
    process.stdout.close()
    assert not (tmp_path / "manager.sock").exists()
    with pytest.raises(MeshnetError, match="no engine answers"):
        EngineClient(tmp_path / "manager.sock").get("/info")
