"""The labs that come with the project: each comes up, passes its own checks and goes without a trace."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from meshnet.lab import checks, down, leftovers
from meshnet.testing.labs import bring_up, take_down

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
LABS = sorted(path.parent for path in ROOT.glob("labs/*/lab.yml"))


@pytest.mark.parametrize("folder", LABS, ids=lambda path: path.name)
def test_a_lab_keeps_its_promises(folder: Path) -> None:
    """Every lab has a README and checks, and all of its checks pass."""
    assert (folder / "README.md").is_file()
    lab = bring_up(folder)
    try:
        outcomes = checks.run(lab.spec)
        assert outcomes
        assert [f"{one.check.name}: {one.reason}" for one in outcomes if not one.passed] == []
    finally:
        take_down(lab)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """The walk through the quickstart gets the right answer at every step, in under 20 seconds."""
    name = f"demo{os.getpid()}"
    text = (ROOT / "labs/quickstart/lab.yml").read_text()
    (tmp_path / "lab.yml").write_text(re.sub(r"^name: .*$", f"name: {name}", text, flags=re.MULTILINE))
    try:
        done = subprocess.run(
            [ROOT / "scripts/demo", tmp_path], capture_output=True, text=True, check=False, timeout=55
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        spent = re.search(r"That was all of it, in (\d+) s", done.stdout)
        assert spent
        assert int(spent[1]) < 20
    finally:
        down.down(name)
    assert leftovers.find(name) == []
