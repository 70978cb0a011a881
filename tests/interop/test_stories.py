"""The stories of docs/stories, typed into the real docker command as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import NODES, PATIENCE, Docker, program, sweep
from storyscript import Step, steps

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
PAGES = Path(__file__).parent.parent.parent / "docs" / "stories"
STORIES = sorted(page.name for page in PAGES.glob("[0-9]-*.md"))
LONGEST = 60.0  # s that one command may take


@pytest.fixture(autouse=True)
def clean(lab: LabUnderTest) -> Iterator[None]:
    """A story that failed leaves nothing for the next one."""
    yield
    sweep(lab)


def run(lab: LabUnderTest, step: Step) -> subprocess.CompletedProcess[str]:
    """Types the command where the story says."""
    if step.host not in (*NODES, "lab"):
        return lab.client(step.host).run(step.command)
    folders = {str(Path(sys.executable).parent), str(Path(program()).parent)}
    env = {**os.environ, "PATH": ":".join([*folders, os.environ["PATH"]]), "MESHNET_LAB": lab.name}
    if step.host in NODES:
        env.update(Docker(lab, step.host).env, PATH=env["PATH"])
    return subprocess.run(
        ["sh", "-c", step.command],
        cwd=PAGES,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@pytest.mark.parametrize("page", STORIES)
def test_with_the_docker_command(lab: LabUnderTest, page: str) -> None:
    """Every command of the story prints what the page says. Those that look are asked again, and those refused."""
    for step in steps(PAGES / page):
        deadline = time.monotonic() + PATIENCE
        while True:
            done = run(lab, step)
            said = done.stdout if done.returncode == 0 else done.stdout + done.stderr
            if step.matches(said):
                break
            again = step.looks or done.returncode != 0
            if not again or time.monotonic() > deadline:
                expected = "\n".join(step.expected)
                pytest.fail(
                    f"{page}:{step.line}: {step.host}$ {step.command}\n--- expected\n{expected}\n--- said "
                    f"({done.returncode})\n{said}\n--- stderr\n{done.stderr}"
                )
            time.sleep(0.1)
