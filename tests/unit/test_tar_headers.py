"""Archives whose headers are made to take much: they are refused before they do."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.sandbox import copying, importing
from meshnet.sandbox.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes its root directory: run as root")
KINDS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


def archive(kind: bytes, size: int) -> io.BytesIO:
    """A file, and another one behind a header of that size, of which nothing follows."""
    long = tarfile.TarInfo("long")
    long.type, long.size = kind, size
    return io.BytesIO(tarfile.TarInfo("first").tobuf() + long.tobuf() + bytes(1024))


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_header_is_not_read(kind: bytes, tmp_path: Path) -> None:
    """Neither what is copied into a container nor an image may have the agent hold gigabytes of a name."""
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(MeshnetError, match="8000000000 bytes"):
            asyncio.run(copying.unpack(root, "/", archive(kind, 8_000_000_000)))
    finally:
        os.close(root)
    file = tmp_path / "image.tar"
    file.write_bytes(archive(kind, 8_000_000_000).getvalue())
    with pytest.raises(MeshnetError, match="8000000000 bytes"):
        importing.import_archive(ImageStore(str(tmp_path / "images")), str(file), "image")


def test_names_that_are_long_come_through(tmp_path: Path) -> None:
    """Names and links beyond what a plain header holds are unpacked as they are."""
    name = "/".join(["d" * 200] * 5)
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(tarfile.TarInfo(name))
    body.seek(0)
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        asyncio.run(copying.unpack(root, "/", body))
    finally:
        os.close(root)
    assert (tmp_path / name).is_file()


def test_directories_that_are_nested_deeply(tmp_path: Path) -> None:
    """A name of more steps than can be gone down is refused in a line that says so."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(tarfile.TarInfo("/".join(["d"] * 1500)))
    body.seek(0)
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(MeshnetError, match="nested too deeply"):
            asyncio.run(copying.unpack(root, "/", body))
    finally:
        os.close(root)
