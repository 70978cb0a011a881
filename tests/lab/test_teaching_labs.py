"""The labs that teach: what their READMEs tell to type prints what stands there, checks and all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshnet.lab import down, file, leftovers, packages, state
from meshnet.testing.story import Step, steps

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
LABS = sorted(path.parent.name for path in ROOT.glob("labs/*/README.md") if "```console" in path.read_text())
LONGEST = 50.0  # s that one command may take
PATIENCE = 15.0  # s in which a command that only looks must show what is expected


def typed(step: Step, lab: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Types a command as a reader does, in the checkout, who has said which lab is meant."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", step.command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "MESHNET_LAB": lab, "TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def follow(lab: str, directory: Path) -> None:
    """Types every command of a README; those that only look are typed again until they show what is expected."""
    for step in steps(ROOT / "labs" / lab / "README.md"):
        begun = time.monotonic()
        deadline = begun + PATIENCE
        while True:
            done = typed(step, lab, directory)
            said = done.stdout if done.returncode == 0 else done.stdout + done.stderr
            if step.matches(said):
                break
            if not step.looks or time.monotonic() > deadline:
                expected = "\n".join(step.expected)
                pytest.fail(
                    f"labs/{lab}/README.md:{step.line}: {step.command}\n--- expected\n{expected}\n--- said "
                    f"({done.returncode})\n{said}\n--- stderr\n{done.stderr}"
                )
            time.sleep(0.1)
        print(f"{time.monotonic() - begun:5.1f} s  {step.command}")


@pytest.mark.parametrize("lab", LABS)
@pytest.mark.timeout(120)
def test_a_readme_is_true(lab: str, tmp_path: Path) -> None:
    """Whoever follows the README sees what it says; the checks pass at the end of it, and `down` leaves nothing."""
    if lab in state.up():
        pytest.skip(f"the lab {lab} is up already; take it down with: meshnet lab down {lab}")
    if missing := packages.missing(file.load(ROOT / "labs" / lab)):
        pytest.skip(f"Debian's {', '.join(missing)} are not here; get them with: meshnet lab get labs/{lab}")
    text = (ROOT / "labs" / lab / "README.md").read_text()
    for needed in (
        f"$ meshnet lab up labs/{lab}\n",
        "$ meshnet lab check",
        f"$ meshnet lab down {lab}\n",
        "topology.svg",
    ):
        assert needed in text
    try:
        follow(lab, tmp_path)
        assert leftovers.find(lab) == []
    finally:
        if leftovers.find(lab):
            down.down(lab)
