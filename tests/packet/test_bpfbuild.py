"""Compiling the BPF sources: once per content, and with one clear line when it cannot be done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild

SOURCE = '#include "one.h"\nint answer(void) { return ANSWER; }\n'
needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "one.c").write_text(SOURCE)
    (tmp_path / "one.h").write_text("#define ANSWER 42\n")
    monkeypatch.setattr(bpfbuild, "source_dir", lambda: tmp_path)
    return tmp_path


@needs_clang
def test_object_is_built_once_per_content(folder: Path) -> None:
    """An unchanged source is not compiled again; a changed header is enough to compile it."""
    (built,) = bpfbuild.objects()
    first = built.stat().st_ino
    assert bpfbuild.objects() == [built]
    assert built.stat().st_ino == first
    (folder / "one.h").write_text("#define ANSWER 43\n")
    assert bpfbuild.objects() == [built]
    assert built.stat().st_ino != first
    assert sorted(path.name for path in folder.iterdir()) == ["one.c", "one.h", "one.o", "one.sum"]


@needs_clang
def test_error_is_the_compilers_first(folder: Path) -> None:
    """A source that does not compile is named with the compiler's first error, and no object is left."""
    (folder / "one.c").write_text("int answer(void) { return nothing; }\n")
    with pytest.raises(MeshnetError, match=r"clang cannot compile one\.c: .*one\.c:1:.*error: .*nothing") as caught:
        bpfbuild.objects()
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["one.c", "one.h"]


def test_shipped_objects_need_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clang the objects of an installation are used; without both, one line says what to install."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MeshnetError, match=r"one\.o is not built and there is no clang: apt-get install clang"):
        bpfbuild.objects()
    (folder / "one.o").write_bytes(b"shipped")
    assert bpfbuild.objects() == [folder / "one.o"]
    (folder / "one.sum").write_text("of another source\n")
    with pytest.raises(MeshnetError, match="not built"):
        bpfbuild.objects()
    for path in folder.glob("one.*"):
        path.unlink()
    with pytest.raises(MeshnetError, match="reinstall"):
        bpfbuild.objects()


def test_this_installation_has_its_sources() -> None:
    """The folder that is loaded from holds the programs of the data path."""
    assert {"endpoint.c", "uplink.c", "overlay.c", "socket.c", "lo.c"} <= {
        path.name for path in bpfbuild.source_dir().iterdir()
    }


@needs_clang
def test_what_another_checkout_uses_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache, a program's other versions stay while somebody uses them, and go when nobody did for a day."""
    monkeypatch.setattr(bpfbuild, "CACHE", tmp_path / "cache")
    source = tmp_path / "one.c"
    source.write_text("int answer(void) { return 1; }\n")
    first = bpfbuild.cached(source)
    source.write_text("int answer(void) { return 2; }\n")
    second = bpfbuild.cached(source)
    assert first.exists()
    assert second.exists()
    os.utime(first, (0, 0))
    os.utime(second, (0, 0))
    assert bpfbuild.cached(source) == second
    assert sorted(second.parent.iterdir()) == [second]
