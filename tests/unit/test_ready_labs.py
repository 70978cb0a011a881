"""The checks of the ready labs, without a lab: whatever is wrong there, a check that fails shows something of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meshnet.lab import checks, file
from meshnet.lab.spec import LabCheck

LABS = Path(__file__).resolve().parents[2] / "labs"
CHECKS = [(lab.parent.name, check) for lab in sorted(LABS.glob("*/lab.yml")) for check in file.load(lab.parent).checks]
# What each program says where all goes another way than it should. curl is quiet as it is asked to be.
WORLDS = {
    "everything answers nonsense": """
case "$*" in *--json*) echo '{"Answers": {"nonsense": 9, "more": 1}, "Pause": 9}' ;; *) echo nonsense ;; esac
""",
    "nothing answers": """
case "${0##*/} $*" in "curl -s "*|"curl -sf "*) ;; *) echo "${0##*/}: refused" >&2 ;; esac; exit 7
""",
}


@pytest.fixture(params=WORLDS)
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in ("curl", "dig", "ip", "meshnet", "ping", "sleep"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{'exit 0' if name == 'sleep' else WORLDS[request.param]}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("lab", "check"), CHECKS, ids=[f"{lab}: {check.name}" for lab, check in CHECKS])
def test_a_check_that_fails_says_what_it_saw(lab: str, check: LabCheck, programs: Path) -> None:
    """A check of a ready lab that fails prints something of what it saw, if its programs do."""
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(check.run, env=env, capture_output=True, text=True, timeout=20, check=False)
    verdict = checks.judge(check, done, f"/labs/{lab}")
    assert verdict.state != checks.CANNOT, verdict
    if verdict.state == checks.FAILED:
        assert not verdict.seen.endswith(("no output", "nothing"))
        assert "Traceback" not in verdict.seen
