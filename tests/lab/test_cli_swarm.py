"""A swarm made by hand with meshnet's own commands, on nodes that are in none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import pytest

from meshnet.cli import main as cli
from meshnet.testing.labs import LabUnderTest, bring_up, lab_folder, take_down

pytestmark = pytest.mark.root


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """The quickstart with nodes in no swarm; down without a trace after the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root: run pytest as root")
    root = request.config.rootpath
    under_test = bring_up(lab_folder("quickstart", (root,)), root, bare=True)
    yield under_test
    take_down(under_test)


def test_init_join_and_leave(
    bare: LabUnderTest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """init makes a manager and prints what others type to join; leave takes a node out; refusals are docker's."""
    monkeypatch.setenv("MESHNET_LAB", bare.name)

    def meshnet(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["meshnet", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), out, err

    def roles() -> list[str]:
        hosts = json.loads(meshnet("lab", "inspect", "--json")[1])["Hosts"]
        return [host["Role"] for host in hosts if host["Role"] != "client"]

    assert roles() == ["no swarm"] * 3
    code, out, err = meshnet("service", "ls")
    assert (code, out, err.startswith("meshnet: This node is not a swarm manager. Use ")) == (1, "", True)
    code, out, err = meshnet(
        "swarm", "init", "--default-addr-pool", "10.0.0.0/8", "--default-addr-pool-mask-length", "31"
    )
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = meshnet("swarm", "init", "--default-addr-pool", "10.50.0.0/16", "--task-history-limit", "2")
    assert (code, err) == (0, "")
    assert out.startswith("Swarm initialized: current node (")
    assert roles() == ["manager", "no swarm", "no swarm"]
    join = next(line.split()[2:] for line in out.splitlines() if line.startswith("    meshnet swarm join"))
    for node in ("docker-1", "docker-2"):
        words = [node if word == "NODE" else word for word in join]
        assert meshnet("swarm", *words) == (0, "This node joined a swarm as a worker.\n", "")
    assert roles() == ["manager", "worker", "worker"]
    rows = meshnet("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")[1].splitlines()
    assert rows == ["docker-0 Ready Leader", "docker-1 Ready ", "docker-2 Ready "]
    assert meshnet("network", "create", "--attachable", "web")[0] == 0
    subnet = meshnet("network", "inspect", "--format", "{{json .IPAM.Config}}", "web")[1]
    assert subnet.startswith('[{"Subnet":"10.50.')
    assert meshnet("service", "create", "--name", "w", "--mode", "global", "--network", "web", "whoami")[0] == 0
    assert meshnet("swarm", "leave", "--node", "docker-2") == (0, "Node left the swarm.\n", "")
    bare.wait_until(lambda: "docker-2 Down" in meshnet("node", "ls", "--format", "{{.Hostname}} {{.Status}}")[1])
    assert meshnet("node", "rm", "docker-2") == (0, "docker-2\n", "")
    assert meshnet("swarm", "leave", "--node", "docker-2")[::2] == (1, "meshnet: This node is not part of a swarm\n")
    code, _, err = meshnet("swarm", "leave")
    assert (code, err.startswith("meshnet: You are attempting to leave the swarm on a node that is part")) == (1, True)
    assert meshnet("swarm", "leave", "--force")[:2] == (0, "Node left the swarm.\n")
