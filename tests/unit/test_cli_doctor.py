"""`meshnet doctor`: a line per thing that meshnet needs, the fix for what is missing, and an exit code for scripts."""

from __future__ import annotations

import json
import sys

import pytest

from meshnet.cli import main as cli
from meshnet.kernel import capabilities
from meshnet.kernel.capabilities import Probe

WORKS = Probe("veth", True, "tried")
LACKS_SOME = Probe("netem", False, "not here", "boot another kernel", needed=False)
LACKS_MUCH = Probe("nft", False, "missing", "apt-get install nftables")


def doctor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: list[Probe], *words: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr on a machine where the probes find this."""
    monkeypatch.setattr(capabilities, "probes", lambda: found)
    monkeypatch.setattr(sys, "argv", ["meshnet", "doctor", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_what_is_optional_does_not_matter(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 0 when everything that is needed works; the rest is shown with its fix all the same."""
    code, out, err = doctor(capsys, monkeypatch, [WORKS, LACKS_SOME])
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["WHAT", "STATE", "FOUND", "FIX"],
        ["veth", "ok", "tried"],
        ["netem", "missing", "(optional)", "not", "here", "boot", "another", "kernel"],
    ]


def test_what_is_needed_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1, the fix beside what is missing, and one line on stderr that names it."""
    code, out, err = doctor(capsys, monkeypatch, [WORKS, LACKS_SOME, LACKS_MUCH])
    assert code == 1
    assert out.splitlines()[-1].split() == ["nft", "MISSING", "missing", "apt-get", "install", "nftables"]
    assert err == "meshnet: labs cannot run here until this works: nft\n"


def test_the_same_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For scripts: every field of every line, and the same exit code."""
    code, out, _ = doctor(capsys, monkeypatch, [LACKS_MUCH], "--json")
    fields = {"Name": "nft", "Works": False, "Detail": "missing", "Fix": "apt-get install nftables", "Needed": True}
    assert (code, json.loads(out)) == (1, [fields])


def test_every_probe_of_this_machine_is_whole() -> None:
    """Each says what it found, and how to fix what does not work, in one line."""
    for probe in capabilities.probes():
        assert probe.detail, probe
        assert probe.works or probe.fix, probe
        assert "\n" not in probe.detail + probe.fix, probe
