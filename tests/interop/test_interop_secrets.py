"""A secret's way: from the docker command into a task's memory, never to a disk, through updates and crashes."""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Docker, eventually

from meshnet import names
from meshnet.lab import daemons, nodes, processes, state
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"docker-0": {"role": "manager"}, "docker-1": None}}
FIRST, SECOND = (f"hush-{secrets.token_hex(16)}" for _ in range(2))
CONFIG = "key = value"


@pytest.fixture(scope="module")
def manager(lab: LabUnderTest) -> Docker:
    node = Docker(lab, "docker-0")
    node.out("secret", "create", "first", "-", stdin=FIRST)
    node.out("secret", "create", "second", "-", stdin=SECOND)
    node.out("config", "create", "settings", "-", stdin=CONFIG)
    return node


@pytest.fixture(scope="module")
def worker(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-1")


@pytest.fixture
def task(lab: LabUnderTest, manager: Docker, worker: Docker) -> Iterator[str]:
    """The container, on the worker, of a service that reads a secret and a config."""
    given = ("--secret", "source=first,target=pw,uid=1,mode=0400", "--config", "source=settings,target=/etc/app.conf")
    where = ("--constraint", "node.hostname==docker-1", "alpine", "sleep", "1000")
    manager.out("service", "create", "-q", "--no-resolve-image", "--name", "app", *given, *where)
    yield worker.container("app.1")
    lab.remove("app")


def found_on_disk(lab: LabUnderTest) -> list[str]:
    """Files of the lab that hold a secret, as it is or in base64."""
    wanted = [form for text in (FIRST, SECOND) for form in (text.encode(), base64.b64encode(text.encode()))]
    there = []
    # os.walk goes on where a directory goes meanwhile: the lab lives.
    files = (Path(place, name) for place, _, found in os.walk(names.lab_dir(lab.name)) for name in found)
    for path in files:
        if path.is_file() and not path.is_symlink():
            try:
                data = path.read_bytes()
            except OSError:
                continue
            there += [str(path)] if any(form in data for form in wanted) else []
    return there


def read(worker: Docker, container: str) -> list[str]:
    script = "cat /run/secrets/pw; echo; cat /etc/app.conf; echo; stat -c '%u %a' /run/secrets/pw"
    return worker.out("exec", container, "sh", "-c", script).splitlines()


def kill_agent(lab: LabUnderTest, node: str, role: str = "agent") -> None:
    for pid in processes.pids(lab.name, node, role):
        os.kill(pid, signal.SIGKILL)
    eventually(lab, lambda: not processes.alive(lab.name, node, role), f"the {role} of {node} is dead")


def start(lab: LabUnderTest, node: str) -> None:
    nodes.start(state.load(lab.name), node)


def test_a_task_has_them_in_memory_alone(lab: LabUnderTest, manager: Docker, worker: Docker, task: str) -> None:
    """It reads both with owner and mode, from a tmpfs; no file of any node holds the secret; neither can be removed."""
    assert read(worker, task) == [FIRST, CONFIG, "1 400"]
    kind = worker.out("exec", task, "sh", "-c", "grep ' /run/secrets/pw ' /proc/mounts | cut -d ' ' -f 3")
    assert kind == "tmpfs"
    assert "first" in manager.refused("secret", "rm", "first")
    assert "settings" in manager.refused("config", "rm", "settings")
    assert found_on_disk(lab) == []
    shown = (
        worker.out("inspect", task)
        + manager.out("service", "inspect", "app")
        + manager.out("secret", "inspect", "first")
    )
    assert FIRST not in shown
    assert base64.b64encode(FIRST.encode()).decode() not in shown


def test_an_update_to_another_secret(lab: LabUnderTest, manager: Docker, worker: Docker, task: str) -> None:
    """The new task has the other one; the old one's memory is gone, and the secret can be removed and made again."""
    old = Path("/proc", worker.out("inspect", "--format", "{{.State.Pid}}", task))
    change = ("--secret-rm", "first", "--secret-add", "source=second,target=pw")
    manager.out("service", "update", "-q", "--no-resolve-image", *change, "app")
    eventually(lab, lambda: worker.container("app.1") != task, "the new task runs")
    assert read(worker, worker.container("app.1"))[0] == SECOND
    eventually(lab, lambda: not old.exists(), "the old task is gone")

    def mounts() -> list[Path]:
        return [path for path in Path("/proc").glob("[0-9]*/mountinfo") if _mentions(path, f"{task}/container/files")]

    eventually(lab, lambda: not mounts(), "no process has its memory mounted")
    assert found_on_disk(lab) == []
    manager.out("secret", "rm", "first")
    manager.out("secret", "create", "first", "-", stdin=FIRST)


def _mentions(path: Path, text: str) -> bool:
    try:
        return text in path.read_text()
    except OSError:
        return False


def test_the_agent_is_killed(lab: LabUnderTest, worker: Docker, task: str) -> None:
    """The next one takes the task over, with its secret, and nothing of that is on a disk."""
    pid = worker.out("inspect", "--format", "{{.State.Pid}}", task)
    kill_agent(lab, "docker-1")
    assert found_on_disk(lab) == []
    start(lab, "docker-1")
    eventually(lab, lambda: worker.run("ps", "-q").stdout.strip() == task, "it is seen again")
    assert worker.out("inspect", "--format", "{{.State.Pid}}", task) == pid
    assert read(worker, task)[0] == FIRST
    assert found_on_disk(lab) == []


def test_an_agent_without_a_manager(lab: LabUnderTest, manager: Docker, worker: Docker, task: str) -> None:
    """It takes over what runs, though it has no secret for it; once the manager is back, all is as before."""
    pid = worker.out("inspect", "--format", "{{.State.Pid}}", task)
    ident = manager.out("service", "ps", "-q", "--no-trunc", "app")
    kill_agent(lab, "docker-0", "manager")
    kill_agent(lab, "docker-1")
    try:
        spec = state.load(lab.name)
        processes.spawn(daemons.of_node(spec, state.node_of(spec, "docker-1")))
        eventually(lab, lambda: worker.run("ps", "-q").stdout.strip() == task, "it is seen again")
        assert worker.out("inspect", "--format", "{{.State.Pid}} {{.State.Status}}", task) == f"{pid} running"
        assert read(worker, task)[0] == FIRST
        assert found_on_disk(lab) == []
    finally:
        start(lab, "docker-0")
    eventually(lab, lambda: "Running" in manager.run("service", "ps", "app").stdout, "the manager knows it")
    assert manager.out("service", "ps", "-q", "--no-trunc", "app") == ident
    assert worker.out("inspect", "--format", "{{.State.Pid}} {{.State.Status}}", task) == f"{pid} running"
    assert read(worker, task)[0] == FIRST


def test_nothing_is_left(lab: LabUnderTest, manager: Docker, worker: Docker) -> None:
    """After the service both can be removed, and no file of the lab has ever kept the secret."""
    eventually(lab, lambda: not lab.tasks("app"), "its tasks are gone")
    manager.out("secret", "rm", "first", "second")
    manager.out("config", "rm", "settings")
    assert found_on_disk(lab) == []
