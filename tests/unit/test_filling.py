"""An empty volume is filled from the image, whatever the image's links say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshnet.sandbox import filling

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users: run as root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's tree with data for a volume in it."""
    data = tmp_path / "image" / "srv" / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "file").write_text("kept")
    os.chown(data / "deep" / "file", 33, 44)
    (data / "deep" / "file").chmod(0o640)
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    os.chown(data, 33, 33)
    data.chmod(0o770)
    return tmp_path / "image"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    place = tmp_path / "volume" / "_data"
    place.mkdir(parents=True)
    return place


def test_content_owners_and_modes(root: Path, volume: Path) -> None:
    """Files, directories and links come with their owners and modes, and the volume itself is as the directory was."""
    assert filling.fill(str(volume), str(root), "/srv/data")
    assert sorted(os.listdir(volume)) == ["deep", "link"]
    file = volume / "deep" / "file"
    assert (file.read_text(), file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (
        *("kept", 33, 44),
        0o640,
    )
    assert os.readlink(volume / "link") == "/etc/passwd"
    assert (volume.stat().st_uid, volume.stat().st_mode & 0o777) == (33, 0o770)
    assert os.listdir(volume.parent) == ["_data"]


def test_only_what_is_empty_is_filled(root: Path, volume: Path) -> None:
    """A volume with something in it stays as it is; so does one whose target the image does not have."""
    assert not filling.fill(str(volume), str(root), "/nosuch")
    assert not filling.fill(str(volume), str(root), "/srv/data/deep/file")
    (volume / "mine").touch()
    assert not filling.fill(str(volume), str(root), "/srv/data")
    assert os.listdir(volume) == ["mine"]


@pytest.mark.parametrize("link", ["/srv", "../../../../srv", "srv/../srv", "/srv/data/./../../srv"])
def test_links_stay_inside(root: Path, link: str) -> None:
    """A link of the image is followed below the image's own root, never to the machine's files."""
    (root / "a").symlink_to(link)
    assert filling.inside(str(root), "/a/data") == str(root / "srv" / "data")
    (root / "out").symlink_to("/etc")
    assert filling.inside(str(root), "/out") is None
    assert filling.inside(str(root), "/../../..") == str(root)
    (root / "loop").symlink_to("/loop")
    assert filling.inside(str(root), "/loop") is None


def test_a_fill_that_was_cut_short(root: Path, volume: Path) -> None:
    """One that was not whole is made again; one that was whole is finished, though the volume has entries already."""
    part = volume.parent / filling.PART
    part.mkdir()
    (part / "half").touch()
    assert filling.fill(str(volume), str(root), "/srv/data")
    assert not (volume / "half").exists()
    os.mkdir(volume.parent / filling.WHOLE)
    os.rename(volume / "link", volume.parent / filling.WHOLE / "link")
    assert filling.fill(str(volume), str(root), "/srv/data")
    assert sorted(os.listdir(volume)) == ["deep", "link"]


def test_what_is_planted_in_the_volume_leads_nowhere(
    root: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that has the volume and puts a link where a directory is about to come gains nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    before = filling._copy

    def copy(source: str, place: str) -> None:
        before(source, place)
        (volume / "link").symlink_to(outside / "made")

    monkeypatch.setattr(filling, "_copy", copy)
    assert filling.fill(str(volume), str(root), "/srv/data")
    assert os.listdir(outside) == []
    assert (volume / "deep" / "file").read_text() == "kept"
