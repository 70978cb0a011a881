"""Waiting for services: a service has gone back when the manager says so, and not before."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Sequence

import pytest

from meshnet.cli import converge as waiting
from meshnet.cli import render
from meshnet.errors import MeshnetError
from meshnet.lab import converge
from meshnet.model import Service, ServiceSpec, UpdateStatus


class Going:
    """A manager whose service is in one state of its update after the other, and stays in the last."""

    def __init__(self, states: Sequence[str]) -> None:
        self.states = list(states)

    def service(self, _: str) -> Service:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Service("s", spec=ServiceSpec("web"), update_status=UpdateStatus(state, "", "", "task t failed"))


ROLLED = "web: the update failed and was rolled back; see: meshnet service ps web\n"
BACK = "verify: Waiting until the rollback is completed\n"
DONE = "verify: Service web converged\n"


@pytest.mark.parametrize(
    ("states", "asked", "said"),
    [
        (["completed"], False, DONE),
        (
            ["rollback_started", "rollback_started", "rollback_started", "rollback_completed"],
            False,
            BACK + ROLLED + DONE,
        ),
        (["rollback_started", "rollback_completed"], True, BACK + DONE),
        (["rollback_completed"], False, ROLLED + DONE),
        (
            ["rollback_started"],
            False,
            f"{BACK}web: on its way back: its tasks run, and are still monitored; see: meshnet service ps web\n{DONE}",
        ),
    ],
)
def test_back_when_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, states: list[str], asked: bool, said: str
) -> None:
    """That an update was rolled back is said once that is completed; what takes longer is not said to be."""
    monkeypatch.setattr(converge, "wait", lambda *_: None)
    monkeypatch.setattr(converge.gone_back, "__defaults__", (0.2,))
    manager = Going(states)
    waiting.wait(manager, "web", quiet=False, back=asked)  # type: ignore[arg-type]  # as much of it as is used
    assert (capsys.readouterr().err, len(manager.states)) == (said, 1)


def test_a_rollback_that_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback that is paused while its tasks are monitored is a failure, and nothing converged."""
    monkeypatch.setattr(converge, "wait", lambda *_: None)
    with pytest.raises(MeshnetError, match=r"^web: task t failed; see: meshnet service ps web$"):
        waiting.wait(Going(["rollback_started", "rollback_paused"]), "web", quiet=True)  # type: ignore[arg-type]  # as above
    assert capsys.readouterr().err == ""


def show(*steps: converge.Progress) -> None:
    view = waiting._View(quiet=False)
    for step in steps:
        view(step)


def test_an_error_that_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Away from a terminal each change is a line, and an error that is over is no empty one."""
    running = converge.Progress("web", 2, 3, {})
    show(running, dataclasses.replace(running, error="task: unhealthy container"), running)
    assert capsys.readouterr().err == "overall progress: 2 out of 3 tasks\ntask: unhealthy container\n"


class Screen(io.StringIO):
    """A terminal of 40 columns, in place of stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(sys, "stderr", self)
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((40, 24)))

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the block is rewritten from its first row, also when a line of it takes several."""
    screen = Screen(monkeypatch)
    first = converge.Progress("web", 0, 1, {"1": "failed"}, "x" * 81)
    show(first, converge.Progress("web", 1, 1, {"1": "running"}))
    again = "overall progress: 1 out of 1 tasks\n1/1: running\n"
    assert screen.getvalue() == f"overall progress: 0 out of 1 tasks\n1/1: failed\n{'x' * 81}\n\x1b[5A\x1b[J{again}"


def test_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tasks than fit on a screen are shown as their sum, as docker does."""
    screen = Screen(monkeypatch)
    slots = {str(slot): "running" for slot in range(21)}
    show(converge.Progress("web", 21, 21, slots))
    assert screen.getvalue() == "overall progress: 21 out of 21 tasks\n"


def test_a_step_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is written over stays in one row."""
    screen = Screen(monkeypatch)
    with render.Progress() as progress:
        progress("x" * 99)
    assert screen.getvalue() == f"\r\x1b[K{'x' * 39}\r\x1b[K"
