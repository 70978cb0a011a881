"""What meshnet offers to tests: waiting for a condition, and skipping what needs root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnet.lab import file
from meshnet.testing import failures, plugin
from meshnet.testing.labs import lab_folder
from meshnet.testing.waiting import wait_until

pytest_plugins = ("pytester",)


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


def test_where_a_lab_is_looked_for(tmp_path: Path) -> None:
    """LAB is a folder beside the test, or below pytest's root directory, or the name of a lab that meshnet brings."""
    beside, root = tmp_path / "tests", tmp_path
    for place in (beside / "labs/mine", root / "labs/mine", root / "labs/other"):
        place.mkdir(parents=True)
        (place / "lab.yml").write_text("nodes: {m: {role: manager}}\n")
    assert lab_folder("labs/mine", (beside, root)) == beside / "labs/mine"
    assert lab_folder("labs/other", (beside, root)) == root / "labs/other"
    assert lab_folder("quickstart", (beside, root)) == file.PACKAGED / "quickstart"
    assert lab_folder("labs/quickstart", (beside, root)) == file.PACKAGED / "quickstart"
    assert lab_folder("nosuch", (beside, root)) == root / "nosuch"


def test_a_lab_test_is_skipped_without_root(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that asks for `lab` without root is skipped with the reason, also without a mark."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    pytester.makepyfile("def test_it(lab): pass")
    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs root: run pytest as root*"])


def test_the_marker_is_known_in_every_project(pytester: pytest.Pytester) -> None:
    """A project that knows nothing of meshnet may mark tests `root`, with strict markers and warnings as errors."""
    pytester.makepyfile("import pytest\npytestmark = pytest.mark.root\ndef test_it(): pass")
    result = pytester.runpytest_subprocess("--strict-markers", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(**{"passed" if os.geteuid() == 0 else "skipped": 1})


def test_what_a_failure_prints_can_be_read() -> None:
    """Views are aligned columns, and counters that are zero are left out."""
    assert failures.lines({"Datapath": {"b": 2, "a": 0}, "Meanings": {"b": "it"}, "Gossip": {"probes": 10}}) == [
        "Datapath  b       2",
        "Gossip    probes  10",
    ]
    backends = [{"IP": "10.0.0.3", "Task": "web.1", "Node": "m"}, {"IP": "10.0.0.4", "Task": "web.2", "Node": "w"}]
    assert failures.lines([{"Service": "web", "Backends": backends}, {"Service": "longer", "Backends": []}]) == [
        "Service  Backends",
        "web      10.0.0.3 web.1 m, 10.0.0.4 web.2 w",
        "longer   none",
    ]
    assert failures.lines([]) == []
