"""Which image a name means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshnet.api.node.images import NAMELESS, rows
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.sandbox.images import BUILT_IN, HostImage, Images, RootfsImage, from_mapping, repository
from meshnet.sandbox.store import ImageStore, StoredImage


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("nginx", "nginx"),
        ("nginx:1.25", "nginx"),
        ("docker.io/library/nginx:alpine", "nginx"),
        ("jwilder/whoami:latest", "jwilder/whoami"),
        ("localhost:5000/team/app:1@sha256:00", "localhost:5000/team/app"),
        ("localhost:5000/team/app", "localhost:5000/team/app"),
    ],
)
def test_tags_and_the_default_registry_do_not_count(reference: str, name: str) -> None:
    """A lab that has an image answers for it under every spelling."""
    assert repository(reference) == name


def test_a_labs_image_comes_before_the_built_in_one() -> None:
    """A lab may replace an image that meshnet itself has."""
    mine = HostImage(command=("/bin/true",))
    catalogue = Images({"whoami:1": mine})
    assert catalogue.find("whoami") == mine
    assert catalogue.find("alpine:3.20") == BUILT_IN["alpine"]


def test_an_imported_image_is_found(tmp_path: Path) -> None:
    """What was imported into the store answers for its name, before the built-in images; the newest has the name."""
    store = ImageStore(str(tmp_path))
    for ident in ("1", "2"):
        with store.unpacking() as place:
            (place / "rootfs").mkdir()
            store.add(StoredImage(ident, ("alpine",), command=("/bin/ash",), env=("A=1",)), place)
    images = Images(store=str(tmp_path))
    assert images.find("alpine:1") == RootfsImage(f"{tmp_path}/2/rootfs", command=("/bin/ash",), env=("A=1",))
    store.remove("alpine")
    assert images.find("alpine") == BUILT_IN["alpine"]
    with pytest.raises(NotFoundError, match="No such image"):
        store.remove("alpine")


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An image appears whole or not at all."""
    store = ImageStore(str(tmp_path))

    class StoppedError(Exception):
        pass

    with pytest.raises(StoppedError), store.unpacking():
        raise StoppedError
    assert list(tmp_path.iterdir()) == []
    assert store.names() == []


def test_an_unknown_image_says_what_to_do() -> None:
    """An image that exists nowhere is refused in Docker's words."""
    with pytest.raises(NotFoundError) as caught:
        Images().find("nosuch:1")
    assert (str(caught.value), caught.value.status) == ("No such image: nosuch:1", 404)
    with pytest.raises(NotFoundError, match="No such image: nosuch:1; name it in the lab's images"):
        Images().check("nosuch:1")


def test_a_labs_catalogue_is_read(tmp_path: Path) -> None:
    """Every form that a lab file may use."""
    (tmp_path / "fs").mkdir()
    images = from_mapping(
        {
            "a": {"entrypoint": ["/bin/x"], "command": ["1", 2], "env": {"A": 1}, "workdir": "/tmp", "user": "www"},
            "b": ["/bin/sleep", "1"],
            "c": "whoami",
            "d": {"rootfs": "fs", "command": "echo $HOME"},
        },
        str(tmp_path),
    )
    assert images["a"] == HostImage(("/bin/x",), ("1", "2"), ("A=1",), "/tmp", "www")
    assert images["b"] == HostImage(command=("/bin/sleep", "1"))
    assert images["c"] == BUILT_IN["whoami"]
    assert images["d"] == RootfsImage(str(tmp_path / "fs"), command=("/bin/sh", "-c", "echo $HOME"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "images.x: a mapping"),
        ("nosuch", "images.x: 'nosuch' is none of"),
        ({"cmd": []}, "images.x.cmd: not known"),
        ({"command": {"a": 1}}, "images.x.command: a list"),
        ({"user": 1}, "images.x.user: str is needed"),
        ({"rootfs": "/nonexistent"}, "images.x.rootfs: /nonexistent is neither a directory nor an archive"),
    ],
)
def test_a_bad_catalogue_names_image_and_field(value: Any, words: str) -> None:
    """A mistake in a lab file's images is one line that says where."""
    with pytest.raises(MeshnetError) as caught:
        from_mapping({"x": value})
    assert str(caught.value).startswith(words)


def test_images_are_listed_by_their_names(tmp_path: Path) -> None:
    """The list of images has each with its own names, and none without one that has some."""
    tags = [tag for row in rows(Images(store=str(tmp_path))).values() for tag in row["RepoTags"]]
    assert {f"{name}:latest" for name in BUILT_IN} <= set(tags)
    assert NAMELESS not in tags
