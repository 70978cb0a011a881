"""Imported root file systems: what is in them runs, and what is malicious in them reaches nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import Containers, ContainerSpec, Images, ImageStore, RootfsImage
from meshnet.sandbox.importing import import_archive

pytestmark = pytest.mark.root

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    FILE *file = fopen("/etc/motd", "r");
    char text[64] = "none\n";
    if (file) fgets(text, sizeof text, file);
    printf("%s %s %d %s", argv[1], getenv("WHO"), getuid(), text);
    return access("/usr/bin/python3", F_OK) == 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program: all that an image needs."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc: run make setup")
    path = tmp_path_factory.mktemp("program")
    (path / "hello.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-static", "-O1", "-o", "hello", "hello.c"], cwd=path, check=True, timeout=60)
    return path / "hello"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "images"))


def archive(path: Path, *members: tuple[str, bytes | None, dict[str, Any]], mode: str = "w:gz") -> Path:
    """Writes a tar of (name, content, attributes of the TarInfo); no content makes a directory."""
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content, attributes in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = (tarfile.DIRTYPE, 0o755) if content is None else (tarfile.REGTYPE, 0o755)
            for key, value in attributes.items():
                setattr(info, key, value)
            info.size = len(content or b"")
            file.addfile(info, io.BytesIO(content or b""))
    return path


def run_image(images: Images, name: str, netns_name: str, **changes: Any) -> tuple[int, str]:
    """Exit code and output of a task of that image, which is removed afterwards."""
    root, group = Path("/run/meshnet") / netns_name, cgroup2_root() / "meshnet" / netns_name

    async def whole() -> tuple[int, str]:
        spec = ContainerSpec(
            id=secrets.token_hex(32),
            name="t",
            image=name,
            netns=netns.path(netns_name),
            cgroup=str(group / "t"),
            dir=str(root / "t"),
            **changes,
        )
        container = await Containers(images).create(spec)
        try:
            await container.start()
            return await container.wait(), "\n".join(line.text for line in container.logs())
        finally:
            await container.remove()

    try:
        return asyncio.run(whole())
    finally:
        for path in (root, root.parent, group, group.parent):
            with contextlib.suppress(OSError):
                path.rmdir()


def test_an_imported_root_file_system_runs(
    program: Path, store: ImageStore, tmp_path: Path, namespaces: Callable[..., str]
) -> None:
    """A plain tar becomes an image; its task sees that tree alone and never writes it."""
    tree = archive(
        tmp_path / "fs.tar.gz",
        ("bin", None, {}),
        ("bin/hello", program.read_bytes(), {}),
        ("etc", None, {}),
        ("etc/motd", b"inside\n", {"mode": 0o644}),
        ("etc/passwd", b"app:x:70:70::/:/bin/hello\n", {"mode": 0o644}),
    )
    image = import_archive(store, str(tree), "hello:1")
    assert image.names == ("hello:1",)
    images = Images(store=str(tmp_path / "images"))
    changes: dict[str, Any] = {"command": ("/bin/hello", "arg"), "env": ("WHO=me",), "user": "app"}
    assert run_image(images, "hello:1", namespaces(), **changes) == (0, "arg me 70 inside")
    root = Path(store.rootfs(image))
    assert sorted(path.name for path in root.iterdir()) == ["bin", "etc"]
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["motd", "passwd"]


def layer(*members: tuple[str, bytes | None, dict[str, Any]]) -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"layer-{secrets.token_hex(6)}")
    try:
        return archive(path, *members, mode="w").read_bytes()
    finally:
        path.unlink()


def saved_image(path: Path, config: dict[str, Any], *layers: bytes) -> Path:
    """What `docker save` writes."""
    names = [f"{index}/layer.tar" for index in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["docker.io/library/hi:1.0"], "Layers": names}]
    return archive(
        path,
        ("manifest.json", json.dumps(manifest).encode(), {}),
        ("config.json", json.dumps({"config": config}).encode(), {}),
        *((name, content, {}) for name, content in zip(names, layers, strict=True)),
        mode="w",
    )


def test_an_image_archive_runs(
    program: Path, store: ImageStore, tmp_path: Path, namespaces: Callable[..., str]
) -> None:
    """Layers lie over one another, whiteouts take away, and the image's own configuration is used."""
    lower = layer(
        ("bin", None, {}),
        ("bin/hello", program.read_bytes(), {}),
        ("etc", None, {}),
        ("etc/motd", b"lower\n", {}),
        ("old", None, {}),
        ("old/file", b"", {}),
        ("gone", b"", {}),
    )
    upper = layer(("etc/motd", b"upper\n", {}), (".wh.gone", b"", {}), ("old/.wh..wh..opq", b"", {}))
    config = {"Entrypoint": ["/bin/hello"], "Cmd": ["default"], "Env": ["WHO=image"], "User": "7"}
    path = saved_image(tmp_path / "hi.tar", config, lower, upper)
    image = import_archive(store, str(path))
    images = Images(store=str(tmp_path / "images"))
    assert run_image(images, "hi:1.0", namespaces()) == (0, "default image 7 upper")
    assert run_image(images, "docker.io/library/hi:1.0", namespaces(), args=("other",)) == (0, "other image 7 upper")
    with pytest.raises(NotFoundError, match="No such image: hi:9"):
        images.find("hi:9")
    root = Path(store.rootfs(image))
    assert not (root / "gone").exists()
    assert list((root / "old").iterdir()) == []
    assert import_archive(store, str(path)).id == image.id


def test_images_are_told_apart_by_what_they_are(store: ImageStore, tmp_path: Path) -> None:
    """Files of two archives may be called alike: other layers are another image. Its id is Docker's where the
    configuration names the layers."""
    images = [
        import_archive(store, str(saved_image(tmp_path / f"{text}.tar", {}, layer(("file", text.encode(), {})))))
        for text in ("one", "two", "one")
    ]
    assert images[0].id == images[2].id != images[1].id
    assert Path(store.rootfs(images[1]), "file").read_text() == "two"
    content = layer(("file", b"three", {}))
    whole = json.dumps({"rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]}}).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["three:1"], "Layers": ["layer.tar"]}]
    members = {"manifest.json": json.dumps(manifest).encode(), "config.json": whole, "layer.tar": content}
    path = archive(tmp_path / "three.tar", *((name, data, {}) for name, data in members.items()), mode="w")
    assert import_archive(store, str(path)).id == hashlib.sha256(whole).hexdigest()


def test_an_archive_cannot_leave_its_place(store: ImageStore, tmp_path: Path) -> None:
    """Parent and absolute paths, links to the machine, and device files stay inside or are left out."""
    victim = tmp_path / "victim"
    victim.mkdir()
    hostile = archive(
        tmp_path / "evil.tar",
        (f"../../../../{victim}/a", b"x", {}),
        (f"{victim}/b", b"x", {}),
        ("link", b"", {"type": tarfile.SYMTYPE, "linkname": str(victim)}),
        ("link/c", b"x", {}),
        ("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "../../../../etc/passwd"}),
        mode="w",
    )
    with contextlib.suppress(MeshnetError):
        import_archive(store, str(hostile), "evil")
    assert list(victim.iterdir()) == []
    devices = archive(tmp_path / "dev.tar", ("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 254}), ("f", b"", {}))
    root = Path(store.rootfs(import_archive(store, str(devices), "dev")))
    assert [path.name for path in root.iterdir()] == ["f"]
    layers = [
        layer(("out", b"", {"type": tarfile.SYMTYPE, "linkname": str(victim)})),
        layer(("out/.wh..wh..opq", b"", {}), ("out/x", b"x", {})),
    ]
    (victim / "kept").touch()
    with contextlib.suppress(MeshnetError):
        import_archive(store, str(saved_image(tmp_path / "layers.tar", {}, *layers)))
    assert [path.name for path in victim.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"no tar at all", "x", "not an archive"),
        (b"", "x", "not an archive"),
        (None, "", "needs a name"),
        (None, "missing", "not an archive"),
    ],
)
def test_a_bad_archive_is_one_line(
    store: ImageStore, tmp_path: Path, content: bytes | None, name: str, words: str
) -> None:
    """What cannot be imported is named, and leaves nothing in the store."""
    path = tmp_path / "bad.tar"
    if content is not None:
        path.write_bytes(content)
    elif name != "missing":
        archive(path, ("f", b"", {}))
    with pytest.raises(MeshnetError, match=words) as caught:
        import_archive(store, str(path), name)
    assert str(path) in str(caught.value)
    assert store.names() == []
    assert not list(tmp_path.glob("images/*"))


@pytest.mark.parametrize("cut", [100, 600, 2000])
def test_a_truncated_archive_leaves_nothing(store: ImageStore, tmp_path: Path, cut: int) -> None:
    """A download that stopped half way is not taken for an image."""
    whole = archive(tmp_path / "whole.tar.gz", *((f"f{n}", os.urandom(500), {}) for n in range(8)))
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(MeshnetError, match="not an archive"):
        import_archive(store, str(path), "cut")
    assert not list(tmp_path.glob("images/*"))


def test_a_rootfs_directory_of_a_lab_runs(program: Path, tmp_path: Path, namespaces: Callable[..., str]) -> None:
    """A lab may name an unpacked directory as an image."""
    (tmp_path / "fs/bin").mkdir(parents=True)
    shutil.copy(program, tmp_path / "fs/bin/hello")
    images = Images({"mine": {"rootfs": "fs", "entrypoint": ["/bin/hello", "a"], "env": ["WHO=b"]}}, base=str(tmp_path))
    assert isinstance(images.find("mine"), RootfsImage)
    assert run_image(images, "mine", namespaces()) == (0, "a b 0 none")
