"""Files and trees that somebody else made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnet.files import remove_tree
from meshnet.sandbox.volumes import Volumes


def nest(place: Path, levels: int) -> None:
    """So many directories in one another: more than a path can say."""
    here = os.open(place, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    """Nothing stays of it, nor does anything outside go; what is not there is an error unless that is no matter."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "kept").touch()
    nest(tmp_path / "tree", 5000)
    remove_tree(tmp_path / "tree")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree", ignore_errors=True)


def test_a_volume_that_is_nested_deeply(tmp_path: Path) -> None:
    """Whatever a task has put into its volume, it can be looked at and removed."""
    volumes = Volumes(tmp_path / "volumes")
    made, _ = volumes.create("deep")
    nest(Path(made.path), 5000)
    assert volumes.size("deep") == 0
    remove_tree(volumes.put_away("deep"))
    assert not (tmp_path / "volumes" / "deep").exists()
