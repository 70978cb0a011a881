"""Labs of benchmarks that were killed: which are to go, and which never."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from meshnet.lab import benchmarks, spec, state, view
from meshnet.lab.spec import Lab, LabNode


def put(place: Path, name: str, directory: str) -> Lab:
    lab = Lab(name, directory, "192.0.2.0/24", 1500, (LabNode("node1", "192.0.2.1", "manager"),))
    (place / name).mkdir()
    (place / name / state.FILE).write_text(json.dumps(spec.to_json(lab)))
    return lab


def test_only_labs_of_ended_benchmarks_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose process has ended, half ones too; not one that is in use, nor a person's lab with such a name."""
    monkeypatch.setattr("meshnet.names.RUN", str(tmp_path))
    taken: list[str] = []
    monkeypatch.setattr("meshnet.lab.down.down", taken.append)
    with subprocess.Popen(["true"]) as process:
        pass
    whole = put(tmp_path, f"bench-{process.pid}-1", "/")
    (tmp_path / f"bench-{process.pid}-2").mkdir()
    used = put(tmp_path, benchmarks.name(1), "/")
    mine = put(tmp_path, f"bench-{process.pid}-mine", "/home/me/lab")
    put(tmp_path, "bench-1x-1", "/")
    (tmp_path / f"bench-{process.pid}-4").mkdir()
    (tmp_path / f"bench-{process.pid}-4" / state.FILE).write_text("{")
    assert benchmarks.remove_left() == taken == [f"bench-{process.pid}-1", f"bench-{process.pid}-2"]
    assert view.state(whole) == view.LEFT
    assert view.state(used).endswith(", a benchmark's")
    assert "benchmark" not in view.state(mine)
    assert os.path.isdir(tmp_path / mine.name)
