"""Nodes that are in no swarm, and how docker's own command takes them in and out again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Docker

from meshnet import names
from meshnet.control.trust.credentials import Credentials
from meshnet.kernel import netns
from meshnet.lab import nodes, processes, state
from meshnet.testing.labs import LabUnderTest, bring_up, lab_folder, take_down

pytestmark = pytest.mark.root
FIRST, SECOND, THIRD = "docker-0", "docker-1", "docker-2"
ADDRESS = "172.17.0.2"
NO_SWARM = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node'
MEMBER = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
TOKEN = re.compile(r"SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}")


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """The quickstart with nodes in no swarm; down without a trace after the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root: run pytest as root")
    root = request.config.rootpath
    under_test = bring_up(lab_folder("quickstart", (root,)), root, bare=True)
    yield under_test
    take_down(under_test)


def dockers(lab: LabUnderTest) -> tuple[Docker, Docker, Docker]:
    return Docker(lab, FIRST), Docker(lab, SECOND), Docker(lab, THIRD)


def directory(lab: LabUnderTest, node: str) -> Path:
    return Path(names.node_dir(lab.name, node))


def states(docker: Docker) -> dict[str, str]:
    """hostname -> status of the nodes that `docker node ls` shows; the newest of a name."""
    rows = docker.out("node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
    return dict(row.split() for row in rows)


def own_id(docker: Docker) -> str:
    return docker.out("info", "--format", "{{.Swarm.NodeID}}")


def swarm_state(docker: Docker) -> str:
    return docker.out("info", "--format", "{{.Swarm.LocalNodeState}}")


def test_init_join_and_leave_by_hand(bare: LabUnderTest) -> None:
    """Three nodes become a swarm that serves, one leaves and comes back, and in the end the swarm is dissolved."""
    first, second, third = dockers(bare)
    for docker in (first, second):
        assert NO_SWARM in docker.refused("node", "ls")
        assert docker.refused("swarm", "leave") == "This node is not part of a swarm"
        assert swarm_state(docker) == "inactive"
    said = first.out("swarm", "init", "--advertise-addr", ADDRESS)
    own = first.out("info", "--format", "{{.Swarm.NodeID}}")
    assert f"Swarm initialized: current node ({own}) is now a manager." in said
    token = TOKEN.findall(said)[0]
    assert f"docker swarm join --token {token} {ADDRESS}:2377" in said
    assert first.refused("swarm", "init") == MEMBER
    assert first.refused("swarm", "join", "--token", "SWMTKN-1-bad", f"{ADDRESS}:2377") == MEMBER
    assert states(first) == {FIRST: "Ready"}
    for docker in (second, third):
        assert (
            docker.out("swarm", "join", "--token", token, f"{ADDRESS}:2377") == "This node joined a swarm as a worker."
        )
        assert swarm_state(docker) == "active"
    assert states(first) == {FIRST: "Ready", SECOND: "Ready", THIRD: "Ready"}
    assert "Worker nodes can't be used to view or modify cluster state" in second.refused("node", "ls")

    bare.network("web")
    bare.service("whoami", replicas=3, networks=["web"], ports=["8000:8000"])
    for last in (2, 3, 4):
        ask = f"curl -s --retry 5 --retry-connrefused http://172.17.0.{last}:8000"
        assert bare.client().out(ask).startswith("I'm ")

    assert third.out("swarm", "leave") == "Node left the swarm."
    assert swarm_state(third) == "inactive"
    assert states(first)[THIRD] == "Down"
    assert not Credentials(directory(bare, THIRD) / "certificates")
    assert not [task for task in bare.tasks() if task.node == THIRD]
    space = names.node_netns(bare.name, THIRD) + "-"
    assert not [one for one in netns.names(space) if one.startswith(space)]
    assert "mnt" not in bare.node(THIRD).out("ip -o link")
    bare.wait_until(lambda: len([t for t in bare.tasks("whoami") if t.node != THIRD]) == 3, what="its task elsewhere")
    third.out("swarm", "join", "--token", token, "--availability", "drain", f"{ADDRESS}:2377")
    assert states(first)[THIRD] == "Ready"
    assert first.out("node", "inspect", "--format", "{{.Spec.Availability}}", own_id(third)) == "drain"

    assert "Removing the last manager erases all current state of the swarm" in first.refused("swarm", "leave")
    assert first.out("swarm", "leave", "--force") == "Node left the swarm."
    assert swarm_state(first) == "inactive"
    assert not processes.alive(bare.name, FIRST, "manager")
    assert {path.name for path in directory(bare, FIRST).iterdir()}.isdisjoint(
        {"store", "manager.json", "manager.sock"}
    )
    for docker in (second, third):
        assert docker.out("swarm", "leave") == "Node left the swarm."
    assert bare.tasks() == []


def test_what_init_and_join_refuse(bare: LabUnderTest) -> None:
    """What cannot be is refused with the reason, and the node is in no swarm afterwards."""
    first, second, third = dockers(bare)
    for words, reason in (
        (["--force-new-cluster"], "ForceNewCluster: not supported"),
        (["--autolock"], "AutoLockManagers: not supported"),
        (["--advertise-addr", "10.9.9.9"], "advertise address 10.9.9.9 is not an address of this node"),
        (["--listen-addr", "eth7"], "listen address must be an IP address or network interface"),
        (["--data-path-port", "80"], "Datapath port number must be between 1024 and 49151"),
        (["--data-path-addr", "10.9.9.9"], "data path address 10.9.9.9 is not an address of this node"),
        (["--dispatcher-heartbeat", "1ms"], "at least 100ms is needed"),
        (["--cert-expiry", "1m"], "minimum certificate expiry time is 1h0m0s"),
        (["--default-addr-pool", "10.5.0.0/16", "--default-addr-pool-mask-length", "8"], "SubnetSize: 8"),
        (["--external-ca", "protocol=cfssl,url=https://x"], "a new swarm makes its own CA"),
    ):
        assert reason in first.refused("swarm", "init", *words)
        assert swarm_state(first) == "inactive"
    assert not (directory(bare, FIRST) / "store").exists()
    first.out("swarm", "init", "--advertise-addr", "eth0")
    worker = first.out("swarm", "join-token", "-q", "worker")
    manager = first.out("swarm", "join-token", "-q", "manager")
    for token, where, reason in (
        ("SWMTKN-1-bad", ADDRESS, "invalid join token"),
        (worker[:-25] + "0" * 25, ADDRESS, "A valid join token is necessary to join this cluster"),
        (worker.replace(worker.split("-")[2], "0" * 50), ADDRESS, "remote CA does not match fingerprint"),
        (worker, "172.17.0.4:2377", "the manager at 172.17.0.4:2377 cannot be asked"),
        (manager, ADDRESS, "a swarm has one manager so far"),
    ):
        assert reason in second.refused("swarm", "join", "--token", token, where)
        assert swarm_state(second) == "inactive"
    assert states(first) == {FIRST: "Ready"}
    first.out("swarm", "join-token", "--rotate", "worker")
    assert "A valid join token" in third.refused("swarm", "join", "--token", worker, ADDRESS)


def test_options_of_init(bare: LabUnderTest) -> None:
    """Pools, mask length, history, expiry and the tunnels' port hold for the swarm, on a node that joins, too."""
    first, second, _ = dockers(bare)
    pool = ("--default-addr-pool", "10.50.0.0/16", "--default-addr-pool-mask-length", "25")
    first.out("swarm", "init", *pool, "--data-path-port", "5789", "--task-history-limit", "2", "--cert-expiry", "24h")
    second.out("swarm", "join", "--token", first.out("swarm", "join-token", "-q", "worker"), ADDRESS)
    cluster = json.loads(first.out("info", "--format", "{{json .Swarm.Cluster}}"))
    assert (cluster["DefaultAddrPool"], cluster["SubnetSize"]) == (["10.50.0.0/16"], 25)
    assert cluster["DataPathPort"] == 5789
    assert cluster["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 2
    assert cluster["Spec"]["CAConfig"]["NodeCertExpiry"] == 24 * 3600 * 10**9
    certificate = Credentials(directory(bare, SECOND) / "certificates").certificate
    assert 86400 <= (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() <= 90000
    bare.network("web")
    bare.service("whoami", replicas=2, networks=["web"], ports=["8000:8000"])
    assert {task.node for task in bare.tasks("whoami")} == {FIRST, SECOND}
    one, two = bare.tasks("whoami")
    assert bare.task(f"{one.service}.1").out("curl -s http://tasks.whoami:8000").startswith("I'm ")
    for node in (FIRST, SECOND):
        assert "dstport 5789" in bare.node(node).out("ip -d link show type vxlan")
    assert one.id != two.id


def test_a_swarm_that_was_made_by_hand_survives(bare: LabUnderTest) -> None:
    """Agents and manager that are stopped, killed and started again are what they were, without any token."""
    first, second, _ = dockers(bare)
    first.out("swarm", "init")
    second.out("swarm", "join", "--token", first.out("swarm", "join-token", "-q", "worker"), ADDRESS)
    identities = [docker.out("info", "--format", "{{.Swarm.NodeID}}") for docker in (first, second)]
    for node, end in ((FIRST, nodes.stop), (SECOND, nodes.kill), (FIRST, nodes.kill)):
        end(state.load(bare.name), node)
        nodes.start(state.load(bare.name), node)
    bare.wait_until(lambda: states(first) == {FIRST: "Ready", SECOND: "Ready"}, what="both nodes ready")
    assert [docker.out("info", "--format", "{{.Swarm.NodeID}}") for docker in (first, second)] == identities
    for place, folders, files in os.walk(directory(bare, FIRST)):
        for path in (Path(place, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):  # the node lives: a file may be replaced meanwhile
                mode = path.stat().st_mode
                assert not ((stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IMODE(mode) & 0o077), path
    assert 'token": ""' in (directory(bare, SECOND) / "settings.json").read_text()


def test_a_ca_that_changes_under_load(bare: LabUnderTest) -> None:
    """`docker swarm ca --rotate` ends with every node on the new CA; requests and the old nodes go on."""
    first, second, third = dockers(bare)
    first.out("swarm", "init")
    token = first.out("swarm", "join-token", "-q", "worker")
    for docker in (second, third):
        docker.out("swarm", "join", "--token", token, ADDRESS)
    bare.service("whoami", replicas=2, ports=["8000:8000"])
    before = first.out("swarm", "ca")
    first.out("swarm", "ca", "--rotate")
    after = first.out("swarm", "ca")
    assert after != before
    roots = {Credentials(directory(bare, node) / "certificates").root.strip() for node in (FIRST, SECOND, THIRD)}
    assert roots == {after}
    described = first.out("node", "inspect", "--format", "{{.Description.TLSInfo.TrustRoot}}", SECOND)
    assert described == after
    bare.scale("whoami", 4)
    assert token != first.out("swarm", "join-token", "-q", "worker")


def test_a_node_that_is_removed_is_in_no_swarm(bare: LabUnderTest) -> None:
    """`docker node rm --force` of a node that lives ends its tasks; it can be told to join again."""
    first, second, _ = dockers(bare)
    first.out("swarm", "init")
    token = first.out("swarm", "join-token", "-q", "worker")
    second.out("swarm", "join", "--token", token, ADDRESS)
    bare.service("whoami", replicas=2)
    first.out("node", "rm", "--force", SECOND)
    bare.wait_until(lambda: swarm_state(second) == "inactive", what="the node outside")
    assert {task.node for task in bare.tasks()} == {FIRST}
    second.out("swarm", "join", "--token", token, ADDRESS)
    assert states(first) == {FIRST: "Ready", SECOND: "Ready"}


def test_a_membership_that_cannot_begin_again_is_left(bare: LabUnderTest) -> None:
    """A member whose keys are lost while the manager is away waits for it, and can be told to leave instead."""
    first, second, _ = dockers(bare)
    first.out("swarm", "init")
    token = first.out("swarm", "join-token", "-q", "worker")
    second.out("swarm", "join", "--token", token, ADDRESS)
    for node in (SECOND, FIRST):
        nodes.kill(state.load(bare.name), node)
    (directory(bare, SECOND) / "certificates" / "gossip-keys.json").unlink()
    nodes.start(state.load(bare.name), SECOND)
    assert second.refused("swarm", "join", "--token", token, ADDRESS) == MEMBER
    assert second.out("swarm", "leave") == "Node left the swarm."
    assert swarm_state(second) == "inactive"
    nodes.start(state.load(bare.name), FIRST)
    second.out("swarm", "join", "--token", token, ADDRESS)
    assert states(first)[SECOND] == "Ready"
