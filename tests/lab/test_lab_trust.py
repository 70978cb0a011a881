"""Certificates and keys in a lab: who may speak to the manager, and changes that nobody notices."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from places import LAB as PLACES

from meshnet import names
from meshnet.agent.settings import MANAGER_FILE, ManagerSettings
from meshnet.control.trust.credentials import Credentials
from meshnet.errors import MeshnetError
from meshnet.lab import nodes
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = PLACES
NODES = ("docker-0", "docker-1", "docker-2")
SPEAK = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(cadata=open(sys.argv[1]).read())
if len(sys.argv) > 3:
    context.load_cert_chain(sys.argv[3])
with socket.create_connection(("172.17.0.2", 2377), 5) as plain:
    with context.wrap_socket(plain, server_hostname="swarm-manager") as tls:
        tls.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
        print(tls.version(), b"".join(iter(lambda: tls.recv(65536), b"")).decode())
"""


def certificates(lab: LabUnderTest, node: str) -> Path:
    return Path(names.node_dir(lab.name, node), "certificates")


def identity(lab: LabUnderTest, node: str) -> str:
    return Credentials(certificates(lab, node)).identity.node


def asked(lab: LabUnderTest, target: str, node: str = "") -> str:
    """What the manager answers to the client outside, who shows a node's certificate or none."""
    shown = [str(certificates(lab, node) / "swarm-node.pem")] if node else []
    root = str(certificates(lab, "docker-0") / "swarm-root-ca.crt")
    return lab.client().out(["/usr/bin/python3", "-c", SPEAK, root, target, *shown])


def test_the_managers_port_takes_members_only(lab: LabUnderTest) -> None:
    """TLS 1.3; a stranger gets the CA's certificate and nothing else, a member what is its own and nothing else."""
    own, other = identity(lab, "docker-1"), identity(lab, "docker-2")
    answer = asked(lab, "/v1/ca")
    assert answer.startswith("TLSv1.3 HTTP/1.1 200")
    assert Credentials(certificates(lab, "docker-1")).root in answer + "\n"
    assert "401 Unauthorized" in asked(lab, f"/v1/nodes/{own}/assignments")
    assert "200 OK" in asked(lab, f"/v1/nodes/{own}/assignments", "docker-1")
    refused = asked(lab, f"/v1/nodes/{other}/assignments", "docker-1")
    assert "403 Forbidden" in refused
    assert f"the certificate is that of node {own}, not of node {other}" in refused


def test_keys_that_change_are_not_noticed(lab: LabUnderTest) -> None:
    """While the gossip keys change again and again, every member stays alive, and names follow on all nodes."""
    path = Path(names.node_dir(lab.name, "docker-0"), MANAGER_FILE)
    told = ManagerSettings.load(path)
    nodes.stop(lab.spec, "docker-0")
    replace(told, key_period=3.0).save()
    nodes.start(lab.spec, "docker-0")
    lab.network("keys")
    lab.service("box", "alpine", "sleep", "1000000", global_=True, networks=["keys"])
    failed = {node: lab.inspect(node, "statistics")["Gossip"].get("undecryptable", 0) for node in NODES}
    first = held(lab, "docker-1")
    for number in range(3):
        wanted = held(lab, "docker-2") + 3
        lab.wait_until(partial(holds, lab, "docker-2", wanted), what="a new key alone")
        lab.service(f"app{number}", "alpine", "sleep", "1000000", networks=["keys"])
        for task in lab.tasks("box"):
            lab.wait_until(partial(resolved, lab, task.name, f"app{number}"), what="the name everywhere")
        for node in NODES:  # one that was held up may be suspected for a moment: lost it is not
            found = {m["Node"] for m in lab.inspect(node, "members") if m["State"] in ("alive", "suspect")}
            assert found == set(NODES), f"{node} at {time.monotonic()}"
            lab.wait_until(lambda node=node: all(alive(lab, node, other) for other in NODES))  # type: ignore[misc]
    assert held(lab, "docker-1") >= first + 9
    after = {node: lab.inspect(node, "statistics")["Gossip"].get("undecryptable", 0) for node in NODES}
    assert after == failed
    nodes.stop(lab.spec, "docker-0")
    told.save()
    nodes.start(lab.spec, "docker-0")


def held(lab: LabUnderTest, node: str) -> int:
    """The version of the gossip keys that a node has."""
    version: int = json.loads((certificates(lab, node) / "gossip-keys.json").read_text())["Version"]
    return version


def holds(lab: LabUnderTest, node: str, version: int) -> bool:
    return held(lab, node) >= version


def resolved(lab: LabUnderTest, task: str, name: str) -> bool:
    return bool(lab.task(task).run(f"dig +short +tries=1 tasks.{name}").stdout.strip())


def test_an_agent_that_starts_without_its_manager(lab: LabUnderTest) -> None:
    """A node that was killed comes back with its certificate and keys while the manager is away, and is a member."""
    before = identity(lab, "docker-1")
    nodes.stop(lab.spec, "docker-0")
    nodes.kill(lab.spec, "docker-1")
    with pytest.raises(MeshnetError, match=r"docker-1 is started, .*; start that with: meshnet lab start docker-0"):
        nodes.start(lab.spec, "docker-1")
    lab.wait_until(lambda: alive(lab, "docker-2", "docker-1"), what="docker-1 known to docker-2 again")
    nodes.start(lab.spec, "docker-0")
    lab.wait_until(lambda: len(ready(lab)) == 3, what="three nodes ready")
    assert identity(lab, "docker-1") == before


def alive(lab: LabUnderTest, where: str, node: str) -> bool:
    return any(m["Node"] == node and m["State"] == "alive" for m in lab.inspect(where, "members"))


def ready(lab: LabUnderTest) -> set[str]:
    return {node.description.hostname for node in lab.engine.nodes() if node.status.state == "ready"}
