"""What meshnet offers to tests: waiting for a condition, and skipping what needs root."""

from __future__ import annotations

import os

import pytest

from meshnet.testing import plugin
from meshnet.testing.waiting import wait_until


def test_wait_until_returns_what_came_true() -> None:
    """The first true result is returned, however often the condition had to be asked."""
    answers = iter([0, 0, 7])
    assert wait_until(lambda: next(answers), interval=0.001) == 7


def test_wait_until_names_what_it_waited_for() -> None:
    """When the deadline passes, the failure says for what, how long, and what was seen last."""
    with pytest.raises(AssertionError, match=r"waited 0\.01 s in vain for the moon; last result: \[\]"):
        wait_until(list, timeout=0.01, interval=0.001, what="the moon")


@pytest.mark.parametrize(("uid", "skipped"), [(0, []), (1000, ["needs root: run pytest as root"])])
def test_root_tests_are_skipped_without_root(
    uid: int, skipped: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test marked `root` is skipped with the reason and the fix when the user is not root, and runs otherwise."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    item = pytest.Function.from_parent(request.node.parent, name="probe", callobj=lambda: None)
    item.add_marker(pytest.mark.root)
    plugin.pytest_collection_modifyitems([item])
    assert [mark.kwargs["reason"] for mark in item.iter_markers("skip")] == skipped
