"""Commands whose output, time and input are bounded."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from meshnet.lab import bounded


def test_what_a_command_says() -> None:
    """Status, output and errors are the command's own, and it reads all that it is given."""
    done = bounded.run(["sh", "-c", "wc -c; echo no >&2; exit 3"], 10.0, "x" * 300_000)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, "300000", "no\n")
    assert bounded.run(["true"], None, "x" * 300_000).returncode == 0, "nobody reads it"
    assert bounded.run([sys.executable, "-c", "print('y' * 300_000)"], 10.0).stdout == "y" * 300_000 + "\n"


def test_a_command_that_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output without end takes no memory without end: the command is killed, and how it began is known."""
    monkeypatch.setattr(bounded, "LIMIT", 1 << 20)
    begun = time.monotonic()
    with pytest.raises(bounded.TooMuchError, match="more than 1 MiB") as flood:
        bounded.run(["yes"], 30.0)
    assert flood.value.output.startswith(b"y\ny\n")
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("words", ["echo so far; sleep 60", "echo so far; exec >&- 2>&-; sleep 60"])
def test_a_command_without_an_end(words: str) -> None:
    """A command that goes on, silent or not, is killed when its time is over; what it said is known."""
    for limit in (0.5, 5.0, 20.0):  # a busy machine may not let it say anything at first
        with pytest.raises(subprocess.TimeoutExpired) as cut:
            bounded.run(["sh", "-c", words], limit)
        if cut.value.output:
            break
    assert cut.value.output == b"so far\n"
