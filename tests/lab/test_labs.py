"""The labs that come with the project: each comes up, passes its own checks and goes without a trace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from meshnet.lab import checks, down, leftovers
from meshnet.testing.labs import bring_up, take_down

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
# The others' checks grade what their READMEs tell to do: test_teaching_labs.py
LABS = [ROOT / "labs" / name for name in ("quickstart", "two-tier")]


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


def quickstart(tmp_path: Path) -> str:
    """Writes the quickstart under another name, and returns that."""
    name = f"demo{os.getpid()}"
    text = (ROOT / "labs/quickstart/lab.yml").read_text()
    (tmp_path / "lab.yml").write_text(re.sub(r"^name: .*$", f"name: {name}", text, flags=re.MULTILINE))
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "kept"),
    [("starting managers and agents", False), ("# in the background", True)],
    ids=["while the lab comes up", "under load"],
)
def test_a_terminated_demo(tmp_path: Path, when: str, kept: bool) -> None:
    """SIGTERM leaves no half lab: none if it was coming up, else the whole one, with how to take it down; no process
    of the walk stays."""
    name = quickstart(tmp_path)
    command = [ROOT / "scripts/demo", tmp_path]
    try:
        for _ in range(3):
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
                assert demo.stdout is not None
                said = next(line for line in demo.stdout if when in line)
                demo.send_signal(signal.SIGTERM)
                said = demo.stdout.read()  # ends when no child holds the pipe any more
            over = "is up: " if not kept else "That was all of it"
            if over not in said:
                break
            down.down(name)  # it had gone on before this process, held up, could end it
        assert demo.returncode == 128 + signal.SIGTERM, said
        assert "demo: interrupted\n" in said
        assert (f"take it down with: meshnet lab down {name}\n" in said) == kept
        assert (leftovers.find(name) != []) == kept
    finally:
        down.down(name)
    assert leftovers.find(name) == []


def processors() -> tuple[float, float]:
    """Seconds for which each of this machine's processors had nothing to do, and for which the hypervisor gave it to
    others (proc_stat)."""
    ticks = Path("/proc/stat").read_text().split("\n")[0].split()
    unit = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    return int(ticks[4]) / unit, int(ticks[8]) / unit


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """The walk through the quickstart gets the right answer at every step, in under 20 s on a machine that is quiet."""
    name = quickstart(tmp_path)
    quiet = os.getloadavg()[0] < (os.cpu_count() or 1)
    idle, stolen = processors()
    try:
        done = subprocess.run(
            [ROOT / "scripts/demo", tmp_path], capture_output=True, text=True, check=False, timeout=55
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        spent = re.search(r"That was all of it, in (\d+) s", done.stdout)
        assert spent
        idle, stolen = (after - before for before, after in zip((idle, stolen), processors(), strict=True))
        # Load that began with the walk is not in the load average yet; the walk alone leaves much of both processors.
        print(f"{spent[1]} s, idle for {idle:.1f} s, stolen {stolen:.1f} s")
        quiet = quiet and stolen < 0.05 * int(spent[1]) and idle > 0.2 * int(spent[1])
        assert int(spent[1]) < (20 if quiet else 45)
    finally:
        down.down(name)
    assert leftovers.find(name) == []
