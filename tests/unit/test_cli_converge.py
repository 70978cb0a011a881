"""Waiting for services: a service has gone back when the manager says so, and not before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshnet.cli import converge as waiting
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
