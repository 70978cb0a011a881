"""The mount namespace of a container's monitor: little in it, and what is in it is what the machine has now."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from meshnet.kernel import mounts, netns
from meshnet.sandbox import rootfs

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]
T = TypeVar("T")
MIB = 1 << 20


def entered(place: Path, lower: Path, work: Callable[[], T], sources: tuple[str, ...] = ()) -> T:
    """What `work` says in a thread that entered a container's file system."""
    found: list[T] = []
    place.mkdir(parents=True)
    for name in (rootfs.ROOTFS, rootfs.WRITES):
        (place / name).mkdir()

    def body() -> None:
        rootfs.enter(str(place), str(lower), MIB, sources)
        found.append(work())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found, "the thread ended early"
    return found[0]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """An image's directory; whatever a test mounts there goes."""
    path = tmp_path / "image"
    path.mkdir()
    (path / "old").touch()
    yield path
    while os.path.ismount(path):
        mounts.detach(str(path))


def points() -> list[str]:
    return mounts.mount_points()


def test_little_is_in_it(namespaces: Callable[..., str], tmp_path: Path, image: Path) -> None:
    """Network namespaces and whatever else the machine has mounted are not, for the first container and later ones."""
    for number in range(3):
        namespaces(f"m{number}")
        seen = entered(tmp_path / f"c{number}", image, points)
        assert not [point for point in seen if point.startswith(netns.DIRECTORY)]
        assert [point for point in seen if point.startswith(str(tmp_path))] == [
            f"{tmp_path}/c{number}/{name}" for name in (rootfs.WRITES, rootfs.ROOTFS)
        ]


def test_an_image_that_something_was_mounted_over(tmp_path: Path, image: Path) -> None:
    """What is mounted at an image's place after the first container is what the next one sees, and the next again."""

    def look() -> list[str]:
        return os.listdir(rootfs.ROOTFS)

    assert entered(tmp_path / "c1", image, look) == ["old"]
    mounts.mount("tmpfs", str(image), "tmpfs")
    (image / "new").touch()
    assert entered(tmp_path / "c2", image, look) == ["new"]
    mounts.detach(str(image))
    assert entered(tmp_path / "c3", image, look) == ["old"]


def test_what_is_mounted_below_a_source(tmp_path: Path, image: Path) -> None:
    """A path that the container will bind brings what is mounted below it, also what came after the first container."""
    source = tmp_path / "data"
    (source / "disk").mkdir(parents=True)
    entered(tmp_path / "c1", image, points)
    mounts.mount("tmpfs", str(source / "disk"), "tmpfs")
    try:
        assert f"{source}/disk" in entered(tmp_path / "c2", image, points, (str(source),))
    finally:
        mounts.detach(str(source / "disk"))
    assert points().count(f"{source}/disk") == 0


def test_a_fork_makes_its_own(tmp_path: Path, image: Path) -> None:
    """A daemon that is forked from a process that started containers, and closes what it inherited, starts its own."""
    entered(tmp_path / "parent", image, points)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.closerange(3, 256)
            status = int("old" not in entered(tmp_path / "child", image, lambda: os.listdir(rootfs.ROOTFS)))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
