"""Unlucky moments and many repetitions: what happens at once does not get in its own way, and nothing piles up.

MESHNET_ROUNDS makes the loops longer than the few rounds that fit into every run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from census import Census

from meshnet import names
from meshnet.datapath.ebpf.tables import NAMES
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.kernel.netlink import Netlink
from meshnet.lab import converge, daemons, down, engine, leftovers, nodes, processes
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("MESHNET_ROUNDS", "2"))
NODES = ("docker-0", "docker-1", "docker-2")
PATIENCE = 30.0


def folder(directory: Path, name: str) -> str:
    """A copy of the quickstart under another name."""
    text = (ROOT / "labs/quickstart/lab.yml").read_text()
    (directory / "lab.yml").write_text(text.replace("name: quickstart", f"name: {name}"))
    return str(directory)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meshnet.cli", "lab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_two_ups_at_once(tmp_path: Path) -> None:
    """Of several `up` of one lab at once, one brings it up and the others are refused; the lab works."""
    name = f"u{os.getpid()}"
    where = folder(tmp_path, name)
    started = [start("up", where) for _ in range(3)]
    said = [one.communicate(timeout=60)[0] for one in started]
    codes = sorted(one.returncode for one in started)
    assert codes == [0, 1, 1], said
    losers = [text for one, text in zip(started, said, strict=True) if one.returncode]
    assert all(f"the lab {name} is up already" in text for text in losers), losers
    census = Census.take(name)
    assert len(census.namespaces) == 5
    down.down(name)
    census.assert_gone()


@pytest.mark.parametrize("node", ["docker-0", "docker-2"])
def test_starts_of_one_node_at_once(lab: LabUnderTest, node: str) -> None:
    """Of several `start` of one node at once one starts it and the others say so; its sockets are those that answer."""
    nodes.kill(lab.spec, node)
    started = [start("start", node, "--lab", lab.name) for _ in range(4)]
    said = [one.communicate(timeout=60)[0] for one in started]
    assert sorted(one.returncode for one in started) == [0, 1, 1, 1], said
    losers = [text for one, text in zip(started, said, strict=True) if one.returncode]
    assert all(f"{node} runs already" in text for text in losers), losers
    assert lab.engine.nodes()
    assert engine.listens(lab.spec, node)


@pytest.mark.parametrize("moment", ["claimed", "namespaces", "pins", "agents"])
def test_down_in_the_middle_of_up(tmp_path: Path, moment: str) -> None:
    """A down in the middle of an up ends it: in one line, and after both nothing is left."""
    name = f"d{os.getpid()}-{moment}"
    where = folder(tmp_path, name)
    there: Callable[[], object] = {
        "claimed": lambda: os.path.isdir(names.lab_dir(name)),
        "namespaces": lambda: netns.exists(names.underlay_netns(name)),
        "pins": lambda: os.path.isdir(f"{names.BPFFS}/meshnet/{name}"),
        "agents": lambda: leftovers.processes(name),
    }[moment]
    up = start("up", where)
    wait_until(lambda: there() or up.poll() is not None, PATIENCE, interval=0.0005)
    ending = start("down", name)
    said = ending.communicate(timeout=60)[0]
    answer = up.communicate(timeout=60)[0]
    assert "Traceback" not in said + answer, said + answer
    assert up.returncode in (0, 1), answer
    if up.returncode == 0:
        down.down(name)
    Census.take(name).assert_gone()


def settled(lab: LabUnderTest) -> None:
    """Every container belongs to a task that the manager wants, every task has one; nobody is left over."""

    def right() -> bool:
        wanted = Counter(
            task.id for task in lab.engine.tasks() if task.desired_state == "running" and task.status.state == "running"
        )
        return wanted == Counter(task.id for task in lab.tasks()) and spaces(lab) == wanted.total()

    lab.wait_until(right, PATIENCE, what="one container and one namespace per task")


def spaces(lab: LabUnderTest) -> int:
    """Namespaces of tasks."""
    hosts = 1 + len(lab.spec.hosts)
    return len(down.namespaces(lab.name)) - hosts


def test_removed_while_created(lab: LabUnderTest) -> None:
    """Services that are removed while their tasks are being made leave none."""
    lab.network("quick")
    for round_ in range(ROUNDS):
        rng = random.Random(round_)
        for number in range(3):
            lab.service(f"q{number}", replicas=3, networks=["quick"], wait=False)
        for number in range(3):
            wanted = rng.randrange(3)
            lab.wait_until(lambda wanted=wanted: spaces(lab) >= wanted)  # type: ignore[misc]
            lab.engine.remove_service(f"q{number}")
        lab.wait_until(lambda: not lab.tasks() and spaces(lab) == 0, PATIENCE)


def test_scaled_while_a_node_is_killed(lab: LabUnderTest) -> None:
    """A service that is scaled while a node dies and comes back has as many tasks as wanted, and no more."""
    lab.service("steady", replicas=3, ports=["8100:8000"])
    for _ in range(max(1, ROUNDS // 3)):
        lab.scale("steady", 6, wait=False)
        nodes.kill(lab.spec, "docker-2")
        lab.scale("steady", 4, wait=False)
        nodes.start(lab.spec, "docker-2")
        converge.wait(lab.engine, ["steady"], lambda _: None, PATIENCE)
        settled(lab)
        for node in ("172.17.0.2", "172.17.0.3", "172.17.0.4"):
            assert lab.client().out(f"curl -s -m 5 http://{node}:8100").startswith("I'm ")
    lab.remove("steady")


def test_agent_killed_while_it_makes_tasks(lab: LabUnderTest) -> None:
    """kill -9 of an agent at any moment of making or ending a task: started again, all is as wanted."""
    lab.network("killed")
    for round_ in range(ROUNDS):
        rng = random.Random(round_)
        lab.service("work", replicas=6, networks=["killed"], ports=["8200:8000"], wait=False)
        agents = processes.pids(lab.name, "docker-1", daemons.AGENT)
        events = rng.randrange(1, 60)  # an unlucky moment, by how much the agent has written of its tasks
        lab.wait_until(lambda events=events: traces(lab, "docker-1") >= events)  # type: ignore[misc]
        for pid in agents:
            os.kill(pid, signal.SIGKILL)
        lab.wait_until(lambda: not processes.alive(lab.name, "docker-1", daemons.AGENT))
        nodes.start(lab.spec, "docker-1")
        converge.wait(lab.engine, ["work"], lambda _: None, PATIENCE)
        settled(lab)
        assert lab.client().out("curl -s -m 5 http://172.17.0.3:8200").startswith("I'm ")
        lab.remove("work")
        lab.wait_until(lambda: spaces(lab) == 0, PATIENCE)
        assert cgroups_of_tasks(lab) == []


def traces(lab: LabUnderTest, node: str) -> int:
    """How far a node is with its tasks: their files, groups and links. Grows while tasks are made, to some 60."""
    files = sum(len(found) for _, _, found in os.walk(Path(names.node_dir(lab.name, node), "tasks")))
    with Netlink(names.node_netns(lab.name, node)) as netlink:
        return 10 * len(cgroups_of_tasks(lab)) + files + len(netlink.links())


def cgroups_of_tasks(lab: LabUnderTest) -> list[str]:
    found = []
    for node in NODES:
        for path in (cgroup2_root() / names.cgroup(lab.name, node)).iterdir():
            if path.is_dir() and path.name not in ("agent", "manager", "exec"):
                found.append(path.name)
    return found


def sizes(lab: LabUnderTest) -> dict[str, int]:
    """What must not grow: descriptors and threads, namespaces, links, groups, directories, and mounts of agents."""
    found = {"namespaces": spaces(lab), "groups": len(cgroups_of_tasks(lab))}
    for node in NODES:
        pid = min(processes.pids(lab.name, node, daemons.AGENT))
        found[f"{node} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"{node} mounts"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
        found[f"{node} tasks"] = len(list(Path(names.node_dir(lab.name, node), "tasks").glob("*")))
        with Netlink(names.node_netns(lab.name, node)) as netlink:
            found[f"{node} links"] = len(netlink.links())
            found[f"{node} neighbours"] = len([one for one in netlink.neighbours() if one.permanent])
            found[f"{node} routes"] = len(netlink.routes())
        found[f"{node} endpoints"] = len([e for e in lab.inspect(node, "endpoints") if e["Task"]])
    return found


def entries(lab: LabUnderTest) -> dict[str, int]:
    """How much is in each table that agents write, but for addresses: a removed one has an entry until it is reused."""
    found = {}
    for node in NODES:
        for table in set(NAMES) - {"endpoints"}:
            pin = f"{names.pin_dir(lab.name, node)}/maps/{table}"
            shown = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", pin], capture_output=True, check=True)
            found[f"{node} {table}"] = len(json.loads(shown.stdout))
    return found


def memory(lab: LabUnderTest) -> dict[str, int]:
    """Private memory of agents and manager in KiB."""
    found = {}
    for node in NODES:
        for role in (daemons.AGENT, daemons.MANAGER) if node == "docker-0" else (daemons.AGENT,):
            pid = min(processes.pids(lab.name, node, role))
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found[f"{node} {role}"] = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return found


def cycle(lab: LabUnderTest) -> None:
    lab.service("leak", replicas=3, networks=["leak"], ports=["8300:8000"])
    lab.client().out("curl -s http://172.17.0.3:8300")
    lab.remove("leak")
    lab.wait_until(lambda: spaces(lab) == 0)


def test_nothing_piles_up(lab: LabUnderTest) -> None:
    """However many services were made and removed, descriptors, links, namespaces, entries, memory are the same."""
    lab.network("leak")
    for _ in range(2):
        cycle(lab)
    before, held, used = sizes(lab), entries(lab), memory(lab)
    for _ in range(ROUNDS):
        cycle(lab)
    lab.wait_until(lambda: all(value <= before[key] + 2 for key, value in sizes(lab).items()), PATIENCE)

    def more() -> dict[str, tuple[int, int]]:
        return {key: (held[key], value) for key, value in entries(lab).items() if value > held[key]}

    lab.wait_until(lambda: not more(), PATIENCE, what="no more entries than before")
    grown = {key: value - used[key] for key, value in memory(lab).items()}
    print(f"after {ROUNDS} rounds, KiB more: {grown}")
    assert max(grown.values()) < 4096 + 40 * ROUNDS, grown
