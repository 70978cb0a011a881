"""docker cp: files and directories in and out of containers that run."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from engines import Docker, client

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"docker-0": {"role": "manager"}}}
MADE = (
    "mkdir -p /srv/d/e; echo hello > /srv/d/x; chmod 4755 /srv/d/x; ln /srv/d/x /srv/d/y; mkfifo /srv/d/f; "
    "ln -s /srv/d /srv/l; ln -s ../../../../../../etc/shadow /srv/out; echo ready; sleep 1000"
)


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(scope="module")
def box(lab: LabUnderTest, node: Docker) -> Iterator[str]:
    node.out("run", "-d", "--name", "box", "alpine", "sh", "-c", MADE)
    lab.wait_until(lambda: node.out("logs", "box") == "ready", what="the files are made")
    yield "box"
    node.out("rm", "-f", "box")


def test_out(node: Docker, box: str, tmp_path: Path) -> None:
    """A file, a directory with all kinds of things in it, its content alone, and through a link."""
    node.out("cp", f"{box}:/srv/d", str(tmp_path))
    made = tmp_path / "d"
    assert sorted(os.listdir(made)) == ["e", "f", "x", "y"]
    assert ((made / "x").read_text(), stat.S_IMODE((made / "x").stat().st_mode)) == ("hello\n", 0o4755)
    assert (made / "x").samefile(made / "y")
    assert stat.S_ISFIFO((made / "f").stat().st_mode)
    node.out("cp", f"{box}:/srv/d/.", str(tmp_path / "content"))
    assert (tmp_path / "content" / "x").read_text() == "hello\n"
    node.out("cp", f"{box}:/srv/l", str(tmp_path))
    assert os.readlink(tmp_path / "l") == "/srv/d"
    node.out("cp", f"{box}:/srv/l/x", str(tmp_path / "through"))
    assert (tmp_path / "through").read_text() == "hello\n"


def test_in(node: Docker, box: str, tmp_path: Path) -> None:
    """A file under a new name, a directory beside what is there and into it; what is there is replaced."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    node.out("cp", str(tmp_path / "two"), f"{box}:/opt/named")
    node.out("cp", str(tmp_path / "sub"), f"{box}:/opt")
    node.out("cp", str(tmp_path / "sub"), f"{box}:/opt/other")
    (tmp_path / "sub" / "one").write_text("new")
    node.out("cp", f"{tmp_path}/sub/.", f"{box}:/opt/other")
    assert node.out("exec", box, "cat", "/opt/named", "/opt/sub/one", "/opt/other/one") == "21new"


def test_no_way_out(node: Docker, box: str, tmp_path: Path) -> None:
    """Links and names lead nowhere outside of the container, and no device is made in it."""
    mine = Path("/etc/shadow").read_text()
    node.run("cp", "-L", f"{box}:/srv/out", str(tmp_path / "got"))
    assert not (tmp_path / "got").exists() or (tmp_path / "got").read_text() != mine
    assert node.run("cp", "-", f"{box}:/srv", stdin=archive("../../evil")).returncode != 0
    device = tarfile.TarInfo("device")
    device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 7, 0
    node.out("cp", "-", f"{box}:/srv", stdin=archive("l/fine", device))
    assert node.out("exec", box, "ls", "/srv/d") == "e\nf\nfine\nx\ny"
    assert "device" not in node.out("exec", box, "ls", "/srv")
    assert not Path("/srv/d").exists()


def archive(name: str, *others: tarfile.TarInfo) -> str:
    """A tar archive of an empty file, and more."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for member in (tarfile.TarInfo(name), *others):
            made.addfile(member)
    return buffer.getvalue().decode()


def test_refusals(lab: LabUnderTest, node: Docker, box: str, tmp_path: Path) -> None:
    """What is not there, what is no directory or no archive, and containers that do not run."""
    said = node.refused("cp", f"{box}:/nosuch", str(tmp_path))  # the engine's words, or those of Debian's docker for it
    assert "Could not find the file /nosuch in container " in said or f"No such container:path: {box}:/nosuch" in said
    engine = client(lab, "docker-0")
    try:
        container = engine.containers.get(box)
        with pytest.raises(docker.errors.APIError, match="not a directory"):
            container.put_archive("/srv/d/x", archive("a").encode())
        with pytest.raises(docker.errors.APIError, match="not a tar archive"):
            container.put_archive("/srv", b"x" * 2000)
        answer = engine.api._put(  # docker-py does not know the parameter
            engine.api._url("/containers/{0}/archive", box),
            params={"path": "/srv", "noOverwriteDirNonDir": "true"},
            data=archive("d").encode(),
        )
        assert (answer.status_code, "cannot overwrite directory" in answer.json()["message"]) == (400, True)
    finally:
        engine.close()
    node.out("create", "--name", "still", "alpine", "true")
    assert "is not running" in node.refused("cp", "still:/etc/hosts", str(tmp_path))
    node.out("rm", "still")


def test_docker_py(lab: LabUnderTest, node: Docker, box: str) -> None:
    """get_archive and put_archive, with what the engine says of a file."""
    engine = client(lab, "docker-0")
    try:
        container = engine.containers.get(box)
        pieces, told = container.get_archive("/srv/d/x")
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as found:
            assert found.extractfile("x").read() == b"hello\n"  # type: ignore[union-attr]
        assert (told["name"], told["size"], told["mode"], told["linkTarget"]) == ("x", 6, 0o755 | 1 << 23, "")
        assert container.put_archive("/tmp", archive("fresh").encode())
        assert container.exec_run("ls /tmp/fresh").exit_code == 0
    finally:
        engine.close()
