"""A lab's life with real agents: up, looked at, cut, stopped, killed, started again, and down without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pulse import Pulse

from meshnet import names
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel import netns
from meshnet.lab import daemons, down, engine, leftovers, nodes, processes, state, topology, up, view
from meshnet.lab.spec import Lab, LabClient, LabNode
from meshnet.testing.labs import LabUnderTest, bring_up, take_down

pytestmark = pytest.mark.root
NODES = ("docker-0", "docker-1", "docker-2")


def test_up_is_quick_and_every_node_is_ready(lab: LabUnderTest) -> None:
    """The manager sees three nodes ready, and each node knows all three members."""
    ready = [node for node in lab.engine.nodes() if node.status.state == "ready"]
    assert {node.description.hostname for node in ready} == set(NODES)
    for name in NODES:
        assert {m["Node"] for m in lab.inspect(name, "members") if m["State"] == "alive"} == set(NODES)


def test_one_swarm_of_services(lab: LabUnderTest) -> None:
    """A service's tasks answer from a client outside, from a node itself and from another task, each by its name."""
    lab.network("life")
    lab.service("whoami", replicas=3, networks=["life"], ports=["8000:8000"])
    lab.service("box", "alpine", "sleep", "1000000", networks=["life"])
    hostnames = {task.spec.hostname for task in lab.tasks("whoami")}
    box = lab.task("box.1")
    assert {box.out("curl -s http://whoami:8000").splitlines()[0] for _ in range(3)} == {f"I'm {h}" for h in hostnames}
    for node in ("172.17.0.2", "172.17.0.3", "172.17.0.4"):
        assert lab.client().out(f"curl -s http://{node}:8000").splitlines()[1] == "172.17.0.10"
    assert lab.node("docker-1").out("curl -s http://127.0.0.1:8000").startswith("I'm ")
    assert box.run("exit 41").returncode == 41
    assert box.run("cat", stdin="through").stdout == "through"
    lab.scale("whoami", 1)
    lab.remove("whoami", "box")
    lab.engine.remove_network("life")


def test_exec_in_a_task_becomes_the_command(lab: LabUnderTest) -> None:
    """`meshnet lab exec TASK` runs as the task: its hostname, its exit status, its input."""
    lab.service("cli", "alpine", "sleep", "1000000", hostname="inside")
    words = [sys.executable, "-m", "meshnet.cli", "lab", "exec", "--lab", lab.name, "cli.1", "--"]
    script = "read x; hostname; echo $x; exit 5"
    done = subprocess.run([*words, "sh", "-c", script], input="word\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "inside\nword\n"), done.stderr
    lab.remove("cli")


def test_logs_of_a_task(lab: LabUnderTest, capfd: pytest.CaptureFixture[str]) -> None:
    """What a task writes to stdout and stderr is shown where it was written."""
    from meshnet.lab import logs

    lab.service("talk", "alpine", "sh", "-c", "echo one; echo two >&2; sleep 1000000")
    sources = logs.sources(lab.spec, "talk.1")
    lab.wait_until(lambda: "two" in sources[0].path.read_text())
    capfd.readouterr()
    logs.show(sources, None)
    out, err = capfd.readouterr()
    assert (out, err) == ("one\n", "two\n")
    lab.remove("talk")


def test_stop_and_start(lab: LabUnderTest) -> None:
    """A stopped node has no process left of its own; started again it is a member again. Twice is refused."""
    nodes.stop(lab.spec, "docker-2")
    assert not processes.alive(lab.name, "docker-2", daemons.AGENT)
    assert leftovers.processes(lab.name)
    with pytest.raises(ConflictError, match="docker-2 does not run; start it with: meshnet lab start docker-2"):
        nodes.stop(lab.spec, "docker-2")
    nodes.start(lab.spec, "docker-2")
    assert "docker-2" in {m["Node"] for m in lab.inspect("docker-2", "members")}
    with pytest.raises(ConflictError, match="docker-2 runs already"):
        nodes.start(lab.spec, "docker-2")


def test_kill_cuts_a_node_off_at_once(lab: LabUnderTest) -> None:
    """A killed node answers nobody and has no process; started again it is back with its tasks."""
    lab.service("steady", replicas=3)
    assert nodes.kill(lab.spec, "docker-1") is nodes.Was.RUNNING
    assert nodes.kill(lab.spec, "docker-1") is nodes.Was.KILLED
    topology.plug(lab.spec, "docker-1", True)
    assert nodes.kill(lab.spec, "docker-1") is nodes.Was.ENDED
    assert not processes.alive(lab.name, "docker-1", daemons.AGENT)
    assert lab.client().run("ping -c 1 -W 1 172.17.0.3").returncode != 0
    nodes.start(lab.spec, "docker-1")
    assert lab.client().run("ping -c 1 -W 10 172.17.0.3").returncode == 0
    lab.wait_until(lambda: all(task.status.state != "running" or task.node_id for task in lab.engine.tasks()))
    lab.remove("steady")


def test_a_killed_agent_is_started_again(lab: LabUnderTest) -> None:
    """`start` brings back only what is missing: the manager goes on with the same process."""
    before = processes.pids(lab.name, "docker-0", daemons.MANAGER)
    for pid in processes.pids(lab.name, "docker-0", daemons.AGENT):
        os.kill(pid, signal.SIGKILL)
    lab.wait_until(lambda: not processes.alive(lab.name, "docker-0", daemons.AGENT))
    nodes.start(lab.spec, "docker-0")
    assert processes.pids(lab.name, "docker-0", daemons.MANAGER) == before


def test_down_after_everything_was_killed() -> None:
    """After kill -9 of every process of a lab, down leaves no namespace, link, pin, group, mount, file or process."""
    one = bring_up("labs/quickstart")
    one.network("n")
    one.service("whoami", replicas=3, networks=["n"], ports=["8000:8000"])
    for pid in leftovers.processes(one.name):
        os.kill(pid, signal.SIGKILL)
    take_down(one)


def test_two_labs_side_by_side(lab: LabUnderTest) -> None:
    """A second lab with the same names, addresses and ports works beside the first, and its end is not noticed."""
    lab.service("mine", ports=["9000:8000"], hostname="first")
    other = bring_up("labs/quickstart")
    try:
        other.service("mine", ports=["9000:8000"], hostname="second")
        assert other.client().out("curl -s http://172.17.0.3:9000").startswith("I'm second")
        assert lab.client().out("curl -s http://172.17.0.3:9000").startswith("I'm first")
    finally:
        take_down(other)
    assert lab.client().out("curl -s http://172.17.0.4:9000").startswith("I'm first")
    lab.remove("mine")


def small(name: str) -> Lab:
    return Lab(
        name, "/", "172.17.0.0/16", 1500, (LabNode("m", "172.17.0.2", "manager"),), (LabClient("c", "172.17.0.3"),)
    )


def test_a_namespace_of_another_lab_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lab `x` with node `y` collides with the lab `x-y`: the advice is another name, not to delete what is in use."""
    name = f"c{os.getpid()}"
    owner, other = small(f"{name}-m"), small(name)
    monkeypatch.setattr(state, "up", lambda: [owner.name])
    monkeypatch.setattr(state, "load", {owner.name: owner}.__getitem__)
    netns.create(names.underlay_netns(owner.name))
    try:
        with pytest.raises(MeshnetError, match=f"the lab {owner.name} has it: rename this lab or its node$"):
            up.up(other)
    finally:
        netns.delete(names.underlay_netns(owner.name))


def test_a_failed_up_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When an agent cannot start, up ends with the end of its log and removes what it had made."""

    def fails(_: object) -> None:
        raise MeshnetError("the moon is in the wrong phase")

    monkeypatch.setattr(daemons, "run_agent", fails)
    name = f"f{os.getpid()}"
    with pytest.raises(MeshnetError, match="the agent of m ended: meshnet agent: the moon is in the wrong phase"):
        up.up(small(name))
    assert leftovers.find(name) == []


def test_a_node_that_does_not_get_ready(lab: LabUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The complaint is a sentence and where to look: the log while the lab stays, else the log's last line."""
    monkeypatch.setattr(up, "_ready", lambda *_: set())
    said = f"^docker-1 is not ready after 0 s; see: meshnet lab logs docker-1 --lab {lab.name}$"
    with pytest.raises(MeshnetError, match=said):
        up.wait_ready(lab.spec, ["docker-1"], lambda _: None, 0)
    with pytest.raises(MeshnetError, match=r"^docker-1 is not ready after 0 s; its log ends with: [^|]+$"):
        up.wait_ready(lab.spec, ["docker-1"], lambda _: None, 0, stays=False)


def interrupted_up(tmp_path: Path, name: str, interrupt: Callable[[subprocess.Popen[str]], object]) -> tuple[int, str]:
    """Exit status and last words of an `up` of a lab that something happens to while its agents start."""
    (tmp_path / "lab.yml").write_text(f"name: {name}\nnodes: {{m: {{role: manager}}, w: }}\n")
    words = [sys.executable, "-m", "meshnet.cli", "lab", "up", str(tmp_path)]
    for _ in range(5):
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "starting managers and agents" in line:
                    interrupt(process)
                    break
            said = process.stderr.read()
        if process.returncode:
            break
        down.down(name)  # it was up before this process, held up, could interrupt it
    return process.returncode, said.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_up_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP while a lab starts take away what was made, say so, and end as signals do."""
    name = f"i{os.getpid()}"
    code, said = interrupted_up(tmp_path, name, lambda process: process.send_signal(number))
    assert (code, said) == (128 + number, "meshnet: interrupted; what was made is removed")
    assert leftovers.find(name) == []


def test_a_lab_that_is_taken_down_while_it_comes_up(tmp_path: Path) -> None:
    """`down` during `up`: the `up` ends with a line that says so, and nothing is left."""
    name = f"d{os.getpid()}"
    code, said = interrupted_up(tmp_path, name, lambda _: down.down(name))
    assert (code, said) == (1, f"meshnet: the lab {name} was taken down while it came up")
    assert leftovers.find(name) == []


def test_one_of_two_at_once(tmp_path: Path) -> None:
    """Of two that bring up the same lab at the same time one does, and the other is told that it is up."""
    name = f"j{os.getpid()}"
    (tmp_path / "lab.yml").write_text(f"name: {name}\nnodes: {{m: {{role: manager}}}}\n")
    words = [sys.executable, "-m", "meshnet.cli", "lab", "up", str(tmp_path)]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=30)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert f"meshnet: the lab {name} is up already; take it down with: meshnet lab down {name}\n" in said
    down.down(name)
    assert leftovers.find(name) == []


def test_up_twice_is_refused_and_changes_nothing(lab: LabUnderTest) -> None:
    """A lab that is up is refused with what to do, and goes on."""
    with pytest.raises(ConflictError, match=f"is up already; take it down with: meshnet lab down {lab.name}"):
        up.up(lab.spec)
    assert len(lab.engine.nodes()) == 3
    assert state.current(lab.name) == lab.spec


def test_times() -> None:
    """The quickstart is up in under 3 seconds and down in under 2, also with services in it; the best of three."""
    ups: list[float] = []
    downs: list[float] = []
    while not ups or (len(ups) < 3 and not (min(ups) < 3 and min(downs) < 2)):
        begun = time.monotonic()
        one = bring_up("labs/quickstart")
        ups.append(time.monotonic() - begun)
        one.service("whoami", replicas=6)
        begun = time.monotonic()
        down.down(one.name)
        downs.append(time.monotonic() - begun)
        assert leftovers.find(one.name) == []
    assert min(ups) < 3
    assert min(downs) < 2


def test_a_silent_manager_is_named(lab: LabUnderTest) -> None:
    """Without its manager a lab says which node has none, and how to get it back; traffic goes on."""
    lab.service("on", ports=["9100:8000"])
    for pid in processes.pids(lab.name, "docker-0", daemons.MANAGER):
        os.kill(pid, signal.SIGKILL)
    lab.wait_until(lambda: not processes.alive(lab.name, "docker-0", daemons.MANAGER))
    assert view.state(lab.spec) == "up, no manager"
    assert [row["State"] for row in view.hosts(lab.spec)] == ["up, no manager", "up", "up", "up"]
    with pytest.raises(MeshnetError, match="manager on docker-0 does not answer; start it with: meshnet lab start"):
        engine.of_lab(lab.spec).nodes()
    assert lab.client().out("curl -s http://172.17.0.3:9100").startswith("I'm ")
    nodes.start(lab.spec, "docker-0")
    assert lab.client().out("curl -s http://172.17.0.4:9100").startswith("I'm ")
    lab.remove("on")


def test_a_stopped_manager_is_named(lab: LabUnderTest) -> None:
    """A manager that does not go on (SIGSTOP) is named within seconds with what to do, and that helps."""
    for pid in processes.pids(lab.name, "docker-0", daemons.MANAGER):
        os.kill(pid, signal.SIGSTOP)
    with Pulse() as pulse:
        begun = time.monotonic()
        with pytest.raises(
            MeshnetError, match="hangs; see: meshnet lab logs docker-0; restart it with: meshnet lab st"
        ):
            engine.of_lab(lab.spec).nodes()
        assert pulse.moved(begun, time.monotonic()) < 7
    nodes.stop(lab.spec, "docker-0")
    nodes.start(lab.spec, "docker-0")
    assert len(engine.of_lab(lab.spec).nodes()) == 3
