"""Which task of a lab a word means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import enter, tasks
from meshnet.lab.tasks import LabTask


def one(tmp_path: Path, node: str, ident: str, runs: bool) -> LabTask:
    group = tmp_path / ident
    group.mkdir(parents=True)
    (group / "cgroup.events").write_text(f"populated {int(runs)}\nfrozen 0\n")
    spec: Any = SimpleNamespace(name=f"web.1.{ident}", id=f"box{ident}", cgroup=str(group))
    return LabTask(node, ident, spec)


@pytest.mark.parametrize(("runs", "found"), [((False, True), "bbb"), ((True, False), "aaa")])
def test_the_task_that_runs_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: tuple[bool, bool], found: str
) -> None:
    """A task that replaces one of a killed node is found by the name of both; the dead one has its full name still."""
    known = [one(tmp_path, "a", "aaa", runs[0]), one(tmp_path, "b", "bbb", runs[1])]
    monkeypatch.setattr(tasks, "all_tasks", lambda _: known)
    lab: Any = SimpleNamespace(name="x", hosts=())
    assert tasks.find(lab, "web.1").id == found
    assert tasks.find(lab, "web.1.aaa").id == "aaa"


@pytest.mark.parametrize("runs", [True, False])
def test_of_two_that_are_alike_neither_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """Two that run, as in a start-first update, have to be told apart, and so do two that are dead."""
    known = [one(tmp_path, "a", "aaa", runs), one(tmp_path, "b", "bbb", runs)]
    monkeypatch.setattr(tasks, "all_tasks", lambda _: known)
    lab: Any = SimpleNamespace(name="x", hosts=())
    with pytest.raises(MeshnetError, match=r"several tasks are called web\.1: web\.1\.aaa, web\.1\.bbb"):
        tasks.find(lab, "web.1")


def test_a_task_that_is_being_made(tmp_path: Path) -> None:
    """A command in a task whose container is being made, or removed, is refused with words, before it is looked for."""
    spec: Any = SimpleNamespace(name="web.1.abc", id="box", dir=str(tmp_path))
    for refused in (enter.check_program, lambda task, name: enter.task_command(task, [name], False)):
        with pytest.raises(NotFoundError, match=r"the task web\.1\.abc does not run yet, or has ended"):
            refused(LabTask("a", "abc", spec), "sh")
