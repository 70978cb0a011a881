"""What is asked before something is removed: docker's question, and no answer means no."""

from __future__ import annotations

import io
import sys

import pytest

from meshnet.cli.confirm import agreed

QUESTION = "WARNING! This will go.\nAre you sure you want to continue? [y/N] "


@pytest.mark.parametrize(
    ("answer", "yes"), [("y\n", True), ("Y\n", True), ("y", True), ("n\n", False), ("yes\n", False), ("\n", False)]
)
def test_only_y_is_a_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, yes: bool
) -> None:
    """The question is on stdout, the answer comes from stdin, and a no is said."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert agreed("This will go.") is yes
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == QUESTION
    assert err.startswith("nothing was removed; ") is not yes


@pytest.mark.parametrize("stdin", [io.StringIO(""), io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), "utf-8"), None])
def test_no_answer_is_a_no(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdin: io.TextIOBase | None
) -> None:
    """Without a terminal, with nothing on stdin or bytes that are no text, nothing is removed, and that is said."""
    monkeypatch.setattr(sys, "stdin", stdin)
    assert not agreed("This will go.")
    out, err = capsys.readouterr()
    assert out == QUESTION + "\n"
    assert err.count("\n") == 1
