"""meshnet's own commands end as docker's do: with the same status, question and leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engines import PATIENCE, Docker

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
COMMANDS = ("docker", "meshnet")


@pytest.fixture(scope="module")
def manager(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


def typed(manager: Docker, command: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The same words to either command, for the lab's manager."""
    if command == "docker":
        return manager.run(*words, stdin=stdin)
    return subprocess.run(
        [sys.executable, "-m", "meshnet.cli", *words],
        input=stdin,
        env={**os.environ, "MESHNET_LAB": manager.lab.name},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["network", "volume"])
def test_prune_asks(manager: Docker, command: str, kind: str) -> None:
    """Without an answer or with a no, the question is all, the status is 0 and nothing goes; with y it does."""
    create = ("network", "create", "-d", "overlay", "idle") if kind == "network" else ("volume", "create", "idle")
    manager.out(*create)
    question = {"network": "all custom networks", "volume": "all local volumes"}[kind]
    for answer in ("", "n\n", "yes\n"):
        done = typed(manager, command, kind, "prune", stdin=answer)
        assert done.stdout.startswith(
            f"WARNING! This will remove {question} not used by at least one container.\n"
            "Are you sure you want to continue? [y/N] "
        )
        assert done.returncode == 0
        assert "idle" in manager.out(kind, "ls", "--format", "{{.Name}}").split()
    done = typed(manager, command, kind, "prune", stdin="y\n")
    assert (done.returncode, "idle" in done.stdout) == (0, True), done.stderr
    assert "idle" not in manager.out(kind, "ls", "--format", "{{.Name}}").split()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_refused_stack_leaves(manager: Docker, command: str, tmp_path: Path) -> None:
    """A service that the engine refuses stops the deployment where it is: what was made stays, until `stack rm`."""
    manager.out("service", "create", "-q", "--no-resolve-image", "--name", "first", "-p", "8500:8000", "whoami")
    file = tmp_path / "stack.yml"
    file.write_text('version: "3.8"\nservices: {web: {image: whoami, ports: ["8500:8000"]}}\n')
    try:
        done = typed(manager, command, "stack", "deploy", "-c", str(file), "late")
        assert done.returncode == 1
        assert "port '8500' is already in use by service 'first'" in done.stderr
        assert "Creating network late_default" in done.stdout
        assert "late_default" in manager.out("network", "ls", "--format", "{{.Name}}").split()
        assert "late" not in manager.out("stack", "ls", "--format", "{{.Name}}").split()
        done = typed(manager, command, "stack", "rm", "late")
        assert "Removing network late_default" in done.stdout + done.stderr
        assert "late_default" not in manager.out("network", "ls", "--format", "{{.Name}}").split()
    finally:
        manager.out("service", "rm", "first")


@pytest.mark.parametrize("action", ["rollback", "pause"])
def test_how_a_failed_update_ends(manager: Docker, action: str) -> None:
    """An update that goes back by itself ends with 0, as docker's does, a paused one with 1; both say of which task."""
    monitors = ("--update-monitor", "1s", "--rollback-monitor", "1s", "--update-failure-action", action)
    once = ("--restart-condition", "none", "--no-resolve-image")
    manager.out(
        "service", "create", "-q", "--name", "web", "--replicas", "2", *monitors, *once, "alpine", "sleep", "1000"
    )
    try:
        for command in COMMANDS:
            done = typed(manager, command, "service", "update", "--args", "false", "web")
            word = {"rollback": "rolled back", "pause": "paused"}[action]
            assert f"update {word} due to failure or early termination of task " in done.stdout + done.stderr
            assert done.returncode == {"rollback": 0, "pause": 1}[action]
            if action == "pause":
                manager.out("service", "rollback", "-q", "web")
    finally:
        manager.out("service", "rm", "web")
