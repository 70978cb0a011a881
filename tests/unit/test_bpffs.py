"""The BPF file system on a machine that has not mounted it: many agents start there at the same moment."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.kernel import bpf


def test_one_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds it missing while another process mounts it waits for that, and does not mount a second one over it."""
    path, mounted = str(tmp_path), list[str]()

    def waited(descriptor: int, operation: int) -> None:
        mounted.append(path)  # by the one who was waited for

    def mount(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        mounted.append(path)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(fcntl, "flock", waited)
    monkeypatch.setattr(subprocess, "run", mount)
    monkeypatch.setattr(bpf, "mount_points", lambda _: list(mounted))
    bpf.ensure_bpffs(path)
    assert mounted == [path]
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    mounted.clear()
    bpf.ensure_bpffs(path)
    assert mounted == [path]
    with pytest.raises(MeshnetError, match="No such file"):
        bpf.ensure_bpffs(f"{path}/nowhere")
