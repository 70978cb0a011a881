"""What an installed meshnet has: the wheel is whole without its checkout, and without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
_LOOK = "from meshnet.kernel import bpfbuild; print(*bpfbuild.objects(), sep='\\n')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the tree as pip builds it, with what is installed already."""
    try:
        bpfbuild.objects()
    except MeshnetError as error:
        pytest.skip(f"the BPF programs cannot be built here: {error}")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("out")
    for name in ("meshnet", "bpf", "labs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    done = subprocess.run([sys.executable, "-c", _BUILD, out], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_programs_are_in_the_wheel(wheel: Path) -> None:
    """Every BPF program is there compiled, byte for byte as in the checkout, beside its sources and its stamp."""
    with zipfile.ZipFile(wheel) as archive:
        for program in bpfbuild.objects():
            assert archive.read(f"meshnet/_bpf/{program.name}") == program.read_bytes()
        inside = set(archive.namelist())
    sources = {path.name for pattern in ("*.c", "*.h", "*.sum") for path in (ROOT / "bpf").glob(pattern)}
    assert {f"meshnet/_bpf/{name}" for name in sources} <= inside


def test_the_rest_is_in_the_wheel(wheel: Path) -> None:
    """All modules, the C sources that are compiled at run time, and the ready labs are there; tests are not."""
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "meshnet").rglob("*.py")}
    wanted |= {str(path.relative_to(ROOT)) for path in (ROOT / "meshnet").rglob("*.c")}
    wanted |= {f"meshnet/_labs/{path.relative_to(ROOT / 'labs')}" for path in (ROOT / "labs").rglob("*.y*ml")}
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert wanted <= inside, sorted(wanted - inside)
    assert "meshnet/_labs/quickstart/lab.yml" in inside
    assert not [name for name in inside if name.startswith("tests/")]


def test_it_needs_no_compiler(wheel: Path, tmp_path: Path) -> None:
    """What is unpacked from the wheel finds its own programs where there is neither clang nor a checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {Path(line) for line in done.stdout.splitlines()} == {
        tmp_path / "meshnet/_bpf" / program.name for program in bpfbuild.objects()
    }
