"""docker pause, unpause, stats: a container that stands still, and what one uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Docker, client, eventually

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"docker-0": {"role": "manager"}}}
COUNTS = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done"


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture
def counter(node: Docker) -> Iterator[str]:
    node.out("run", "-d", "--name", "counter", "alpine", "sh", "-c", COUNTS)
    yield "counter"
    node.out("rm", "-f", "counter")


def last(node: Docker) -> int:
    return int(node.out("logs", "--tail", "1", "counter") or 0)


def state(node: Docker) -> tuple[str, bool, bool]:
    found = json.loads(node.out("inspect", "--format", "{{json .State}}", "counter"))
    return found["Status"], found["Running"], found["Paused"]


def switches(node: Docker) -> list[str]:
    """How often its program was taken from a processor: of one that stands still, never again.

    Its output may come later than it was written.
    """
    pid = node.out("inspect", "--format", "{{.State.Pid}}", "counter")
    return [line for line in Path("/proc", pid, "status").read_text().splitlines() if "ctxt_switches" in line]


def test_pause_and_unpause(lab: LabUnderTest, node: Docker, counter: str) -> None:
    """A paused container does nothing, is shown as paused and refuses exec and rm; then it goes on where it was."""
    lab.wait_until(lambda: last(node), what="it counts")
    node.out("pause", counter)
    stands = switches(node)
    assert state(node) == ("paused", True, True)
    assert node.out("ps", "--filter", "status=paused", "--format", "{{.Status}}").endswith("(Paused)")
    assert json.loads(node.out("info", "--format", "{{json .ContainersPaused}}")) == 1
    assert "is paused, unpause the container before exec" in node.refused("exec", counter, "true")
    assert "You cannot remove a paused container" in node.refused("rm", counter)
    assert "is already paused" in node.refused("pause", counter)
    assert "cannot start a paused container" in node.refused("start", counter)
    assert "attach to a paused container" in node.refused("attach", "--no-stdin", counter)
    assert switches(node) == stands
    reached = last(node)
    node.out("unpause", counter)
    eventually(lab, lambda: last(node) > reached, "it counts again")
    assert last(node) < reached + 1000
    assert "is not paused" in node.refused("unpause", counter)
    assert state(node) == ("running", True, False)


@pytest.mark.parametrize("end", [("stop", "-t", "30"), ("kill",), ("restart", "-t", "1"), ("rm", "-f")])
def test_a_paused_container_ends(lab: LabUnderTest, node: Docker, end: tuple[str, ...]) -> None:
    """Whoever ends a paused container need not wake it first."""
    node.out("run", "-d", "--name", "counter", "alpine", "sh", "-c", f"trap 'exit 3' TERM; {COUNTS}")
    try:
        lab.wait_until(lambda: last(node), what="it counts, with its trap set")
        node.out("pause", "counter")
        node.out(*end, "counter")
        if end[0] != "rm":
            codes = {"stop": ("exited", False, False), "kill": ("exited", False, False)}
            assert state(node) == codes.get(end[0], ("running", True, False))
        if end[0] == "stop":
            assert node.out("inspect", "--format", "{{.State.ExitCode}}", "counter") == "3"
    finally:
        node.run("rm", "-f", "counter")


def test_a_check_waits(lab: LabUnderTest, node: Docker) -> None:
    """A paused container's health is not checked: it does not become unhealthy by being paused."""
    flags = ("--health-cmd", "true", "--health-interval", "100ms", "--health-timeout", "200ms", "--health-retries", "1")
    node.out("run", "-d", "--name", "counter", *flags, "alpine", "sh", "-c", COUNTS)
    try:
        health = ("inspect", "--format", "{{.State.Health.Status}} {{len .State.Health.Log}}", "counter")

        def paused_while_healthy() -> bool:  # a check of 0.2 s may fail on a busy machine until then
            node.out("pause", "counter")
            if node.out(*health) == "healthy 5":
                return True
            node.out("unpause", "counter")
            return False

        eventually(lab, paused_while_healthy, "it is healthy")
        # As long as the program's own time goes on beside it, a check would have failed by now.
        node.out("run", "--rm", "alpine", "sleep", "1")
        assert node.out(*health) == "healthy 5"
        node.out("unpause", "counter")
    finally:
        node.run("rm", "-f", "counter")


def test_stats(lab: LabUnderTest, node: Docker) -> None:
    """Processor time, memory, processes and traffic of a container, once and as a stream; of an ended one nothing."""
    script = "ping -c 1 -W 1 172.17.0.2 > /dev/null; while :; do :; done"
    node.out("run", "-d", "--name", "counter", "alpine", "sh", "-c", script)
    engine = client(lab, "docker-0")
    try:
        fields = "{{.CPUPerc}} {{.PIDs}} {{.NetIO}} {{.MemPerc}}"

        def busy() -> bool:
            cpu, pids, _, _, sent, _ = node.out("stats", "--no-stream", "--format", fields, "counter").split()
            return float(cpu.rstrip("%")) > 10 and pids == "1" and sent != "0B"

        eventually(lab, busy, "it is busy")
        container = engine.containers.get("counter")
        stream = container.stats(decode=True)
        first, second = next(stream), next(stream)
        assert second["precpu_stats"] == first["cpu_stats"]
        assert second["cpu_stats"]["cpu_usage"]["total_usage"] > first["cpu_stats"]["cpu_usage"]["total_usage"]
        assert 2**14 < second["memory_stats"]["usage"] < second["memory_stats"]["limit"]
        container.stop(timeout=0)
        assert list(stream)[-1]["pids_stats"] == {}
        assert node.out("stats", "--no-stream", "--format", "{{.PIDs}}", "counter") == "0"
    finally:
        engine.close()
        node.run("rm", "-f", "counter")
