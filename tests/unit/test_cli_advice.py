"""What a refusal of the engine has people type: in the command's own words, and with names of the lab."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from cli_engine import LAB, answering, meshnet

from meshnet.agent.membership import MEMBER
from meshnet.api.node.context import NO_SWARM, WORKER
from meshnet.errors import MeshnetError
from meshnet.lab import advice

SECOND = "a swarm has one manager so far: join as a worker, with what docker swarm join-token worker says"


@pytest.mark.parametrize(
    ("engine", "command"),
    [
        (MEMBER, 'Use "meshnet swarm leave --node docker-1" to leave this swarm and join another one.'),
        (NO_SWARM, 'Use "meshnet swarm init --node docker-1" or "meshnet swarm join --node docker-1" to connect'),
        (WORKER, "Please run this command on a manager node (--node docker-0) or promote the current node"),
        (SECOND, "with what meshnet swarm join-token worker --node docker-0 says"),
    ],
)
def test_the_command_speaks_for_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: str, command: str
) -> None:
    """Where the engine names docker's commands, the command says which of its own to type, and for which node."""
    answering(monkeypatch, {"GET /nodes": MeshnetError(engine, 503)})
    code, out, err = meshnet(capsys, monkeypatch, "node", "ls", "--node", "docker-1")
    assert (code, out, "docker swarm" in err) == (1, "", False)
    assert command in err


def test_no_manager_is_known() -> None:
    """In a lab whose nodes joined nothing the person knows which one is the manager; other words stay."""
    bare = replace(LAB, nodes=tuple(replace(node, role="worker") for node in LAB.nodes))
    assert advice.here("docker swarm ca", bare, "docker-1") == "meshnet swarm ca --node MANAGER"
    for words, lab in product(("docker swarming", "docker node ls", "", "docker swarm"), (LAB, bare)):
        assert advice.here(words, lab, "docker-1") == words
