"""What a check has started ends with it, wherever it went; what was there before, and what it brought back, stays."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from meshnet.lab import cgroups, checks, leftovers
from meshnet.lab.processes import pids
from meshnet.lab.spec import SHELL, LabCheck
from meshnet.model import SECOND
from meshnet.testing.labs import LabUnderTest
from meshnet.testing.waiting import wait_until

pytestmark = pytest.mark.root
MARK = f"sleep 98765.{os.getpid()}"
BEFORE = f"sleep 98764.{os.getpid()}"
# Six that go on: two in the background, of which one has its own session, an orphan, and one each on another host, in
# a task, and in the foreground. None of them, nor their shell, minds being asked to end.
SPREAD = (
    f"trap '' INT TERM HUP; {MARK} & setsid {MARK} & ({MARK} >/dev/null 2>&1 &); "
    f"meshnet lab exec client -- {MARK} & meshnet lab exec box.1 -- {MARK} & {MARK}"
)
LAB = {
    "name": "processes",
    "nodes": {"a": {"address": "172.17.0.2", "role": "manager"}, "b": {"address": "172.17.0.3"}},
    "clients": {"client": {"address": "172.17.0.10"}},
    "checks": [{"name": "goes on", "on": "a", "run": SPREAD, "within": "60s"}],
}


def running(mark: str) -> list[int]:
    found = subprocess.run(["pgrep", "-fx", mark.replace(".", "[.]")], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture(scope="module")
def box(lab: LabUnderTest) -> Iterator[LabUnderTest]:
    """The lab with a task, and with a process that somebody left on a node."""
    lab.network("net")
    lab.service("box", "debian", "sleep", "1000", networks=["net"])
    lab.node("a").run(f"setsid {BEFORE} >/dev/null 2>&1 </dev/null &", check=True)
    yield lab
    for pid in running(BEFORE):
        os.kill(pid, signal.SIGKILL)


def nothing_is_left(lab: LabUnderTest) -> bool:
    """Whether no process of a check runs, no group of one is there, and what was there before runs."""
    assert len(running(BEFORE)) == 1
    groups = glob.glob(f"{cgroups.path(lab.name)}/**/check-*/", recursive=True)
    return not running(MARK) and not groups


@pytest.mark.parametrize(
    ("on", "run", "count"),
    [("a", SPREAD, 6), ("client", SPREAD, 6), ("box.1", f"trap '' TERM; {MARK} & setsid {MARK} & {MARK}", 3)],
)
def test_when_its_time_is_over(box: LabUnderTest, on: str, run: str, count: int) -> None:
    """On a node, a client and in a task: its whole tree ends, and the outcome says that there was no end."""
    for seconds in (5, 20):  # in which all of them must have begun
        check = LabCheck("goes on", on, (*SHELL, run), within=seconds * SECOND)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(checks.run, replace(box.spec, checks=(check,)))
            wait_until(lambda: len(running(MARK)) == count or future.done(), what=f"{count} processes of the check")  # noqa: B023
            all_began = not future.done()
            (outcome,) = future.result()
        if all_began:
            break
    assert all_began
    assert (outcome.verdict.state, outcome.verdict.expected) == (checks.FAILED, "an end")
    assert nothing_is_left(box)


def test_when_it_passed(box: LabUnderTest) -> None:
    """What it left in the background ends, too; a node that it brought back stays."""
    run = f"setsid {MARK} >/dev/null 2>&1 </dev/null & meshnet lab kill b && meshnet lab start b"
    check = LabCheck("passes", "a", (*SHELL, run), within=30 * SECOND)
    (outcome,) = checks.run(replace(box.spec, checks=(check,)))
    assert outcome.passed, outcome.told
    assert nothing_is_left(box)
    assert len(pids(box.name, "b", "agent")) == 1


def interrupted(count: int, number: signal.Signals, *words: str) -> int:
    """The exit status of a `lab check` that alone gets a signal once so many processes of the check run."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "meshnet.cli", "lab", "check", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=env, start_new_session=True) as process:
        try:
            wait_until(lambda: len(running(MARK)) == count, 20, what=f"{count} processes of the check")
            process.send_signal(number)
            return process.wait(20)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_it_is_interrupted(box: LabUnderTest, number: signal.Signals) -> None:
    """Ctrl-C, or SIGTERM, that only the command itself gets: its checks end before it does."""
    assert interrupted(6, number, box.name) == 128 + number
    assert nothing_is_left(box)


def test_when_it_was_killed(box: LabUnderTest) -> None:
    """What a killed `lab check` could not end is ended by the next one."""
    assert interrupted(6, signal.SIGKILL, box.name) == -signal.SIGKILL
    assert len(running(MARK)) == 6
    checks.run(replace(box.spec, checks=()))
    assert nothing_is_left(box)


def test_when_it_is_interrupted_with_its_lab(tmp_path: Path) -> None:
    """With --up, the lab that came up for it goes, too."""
    name = f"briefly{os.getpid()}"
    check = {"name": "goes on", "on": "client", "run": f"{MARK} & {MARK}", "within": "60s"}
    lab = {"name": name, "nodes": {"a": {"role": "manager"}}, "clients": {"client": None}, "checks": [check]}
    (tmp_path / "lab.yml").write_text(json.dumps(lab))
    assert interrupted(2, signal.SIGINT, "--up", str(tmp_path)) == 130
    assert (running(MARK), leftovers.find(name)) == ([], [])
