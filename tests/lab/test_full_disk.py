"""A node whose file system is full: what cannot be written is named, nothing breaks, and room is all that is needed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.lab import nodes, processes
from meshnet.model import SECOND
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"m": {"role": "manager"}, "w": {}}, "clients": {"c": {}}}
Fill = Callable[[], Path]


@contextmanager
def small_disk(lab: LabUnderTest, node: str, tmp_path: Path) -> Iterator[Fill]:
    """A node whose directory is on a file system of its own; what is given fills that, and returns what to remove."""
    directory, copy = Path(names.node_dir(lab.name, node)), tmp_path / "copy"
    nodes.stop(lab.spec, node)
    subprocess.run(["cp", "-a", directory, copy], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "full", directory], check=True)
    subprocess.run(["cp", "-a", f"{copy}/.", directory], check=True)
    nodes.start(lab.spec, node)

    def fill() -> Path:
        filler = directory / "filler"
        words = ["dd", "if=/dev/zero", f"of={filler}", "bs=4k", "count=1000"]
        assert subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode
        return filler

    yield fill
    shutil.rmtree(copy)


def test_of_the_manager(lab: LabUnderTest, tmp_path: Path) -> None:
    """Every wish is refused with the place that is full; what was there is there; with room again all goes on."""
    with small_disk(lab, "m", tmp_path) as fill:
        lab.network("before")
        filler = fill()
        place = f"{names.node_dir(lab.name, 'm')}/store"
        for number in range(3):
            with pytest.raises(MeshnetError, match=f"^no space left in {place}: free some, or see with df what fills"):
                lab.network(f"during{number}")
        assert sorted(one["Name"] for one in lab.engine.networks()) == ["before", "ingress"]
        filler.unlink()
        lab.service("after", networks=["before"])
        lab.remove("after")


def test_of_a_node(lab: LabUnderTest, tmp_path: Path) -> None:
    """A task that cannot be written down says so in its error, the log has a line and no traceback."""
    with small_disk(lab, "w", tmp_path) as fill:
        filler = fill()
        lab.service("there", constraints=["node.hostname==w"], restart_delay=SECOND // 5, wait=False)
        said = f"no space left in {names.node_dir(lab.name, 'w')}/tasks/"
        lab.wait_until(lambda: [one for one in lab.engine.tasks() if one.status.err.startswith(said)])
        filler.unlink()
        lab.wait_until(lambda: [one for one in lab.engine.tasks() if one.status.state == "running"])
        assert "Traceback" not in processes.log_path(lab.name, "w", "agent").read_text()
        lab.remove("there")
