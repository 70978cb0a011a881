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

from meshnet.testing.labs import LabUnderTest
from meshnet.testing.story import Step, steps

pytestmark = pytest.mark.root
LAB = "quickstart"
PAGES = Path(__file__).parent.parent.parent / "docs" / "stories"
STORIES = sorted(page.name for page in PAGES.glob("[0-9]-*.md"))
LONGEST = 60.0  # s that one command may take


@pytest.fixture
def swarm(lab: LabUnderTest) -> Iterator[LabUnderTest]:
    """The lab; a story that failed leaves nothing for the next one."""
    yield lab
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


@pytest.mark.parametrize(
    ("expected", "said", "is_it"),
    [
        ("a  b", "a b\n", True),
        ("a b", "a c\n", False),
        ("a", "a\nb\n", False),
        ("a\n...", "a\nb\nc\n", True),
        ("...\nc", "a\nb\nc\n", True),
        ("ID ...  x", "ID  7f3  x\n", True),
        ("ID ...  x", "ID  7f3  y\n", False),
        ("web...", "web.1.abc\n", True),
        ("", "", True),
        ("", "something\n", False),
        ("a.b", "axb\n", False),
    ],
)
def test_what_matches(expected: str, said: str, is_it: bool) -> None:
    """Blanks are as one, `...` is anything in a line or any lines, and nothing else is."""
    assert Step(1, "docker-0", "docker ps", tuple(expected.split("\n"))).matches(said) is is_it


def test_every_story_is_there() -> None:
    """The pages are found, each has commands, and the one that says how to follow them names them all."""
    assert len(STORIES) == 5
    readme = (PAGES / "README.md").read_text()
    for page in STORIES:
        assert f"]({page})" in readme
        assert len(steps(PAGES / page)) > 10


@pytest.mark.parametrize("page", STORIES)
def test_with_the_docker_command(swarm: LabUnderTest, page: str) -> None:
    """Every command of the story prints what the page says. Those that look are asked again, and those refused."""
    for step in steps(PAGES / page):
        deadline = time.monotonic() + PATIENCE
        while True:
            done = run(swarm, step)
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
