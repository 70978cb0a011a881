"""Images and volumes through the docker command and docker-py."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest
from engines import Docker, client, eventually

from meshnet import names
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
TINY = Path(__file__).parent.parent / "lab" / "tiny.c"


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program that serves a page on 8000."""
    place = tmp_path_factory.mktemp("tiny") / "server"
    subprocess.run(["clang", "-static", "-O1", "-o", place, TINY], check=True, timeout=60)
    return place.read_bytes()


def archive(files: dict[str, bytes], mode: int = 0o755) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def saved(server: bytes, *names: str) -> bytes:
    """What `docker save` writes of an image with these names."""
    config = {"config": {"Entrypoint": ["/server"], "Labels": {"made": "here"}}}
    manifest = [{"Config": "c.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
    return archive(
        {
            "c.json": json.dumps(config).encode(),
            "layer.tar": archive({"server": server}),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def test_the_catalogue(node: Docker) -> None:
    """The tutorials' images are there at any tag; what is nowhere is refused, and why; none can be removed."""
    names = {line.partition(":")[0] for line in node.out("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()}
    wanted = "nginx httpd busybox redis tomcat mysql mariadb wordpress jwilder/whoami elasticsearch alpine debian"
    assert set(wanted.split()) <= names
    assert "Image is up to date for redis:3.0.6" in node.out("pull", "redis:3.0.6")
    assert node.refused("pull", "nosuch:1").startswith("No such image: nosuch:1: it is neither of the catalogue nor")
    assert node.refused("pull", "docker.io/team/app").startswith("No such image: team/app:latest: it is neither")
    assert "of the catalogue" in node.refused("rmi", "nginx")
    node.out("tag", "httpd", "mine:2")
    assert node.out("inspect", "--format", "{{.Id}}", "mine:2") == node.out("inspect", "--format", "{{.Id}}", "httpd:9")
    node.out("rmi", "mine:2")
    assert node.refused("image", "inspect", "mine:2").endswith("No such image: mine:2")


def test_a_loaded_image_runs(lab: LabUnderTest, node: Docker, server: bytes) -> None:
    """docker-py loads what docker save wrote; a service runs it by its tag, and another tag is no such image."""
    engine = client(lab, "docker-0")
    try:
        image = engine.images.load(saved(server, "team/tiny:1", "team/tiny:2"))[0]
        assert sorted(image.tags) == ["team/tiny:1", "team/tiny:2"]
        assert image.labels == {"made": "here"}
        assert node.out("images", "-q", "--no-trunc", "--filter", "reference=team/tiny:1") == image.id
        node.out("service", "create", "-q", "--name", "tiny", "team/tiny:2")
        node.out("rmi", "team/tiny:1")
        lab.remove("tiny")
        eventually(lab, lambda: not node.run("rmi", "team/tiny:2").returncode, "no ended container needs the image")
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get("team/tiny:2")
        node.out("service", "create", "-d", "-q", "--name", "gone", "--restart-condition", "none", "team/tiny:2")
        eventually(lab, lambda: "Rejected" in node.out("service", "ps", "gone"), "the task is rejected")
        assert '"No such image: team/tiny:2"' in node.out("service", "ps", "--no-trunc", "gone")
        node.out("service", "rm", "gone")
    finally:
        engine.close()


def test_a_root_file_system_is_imported(node: Docker, server: bytes, tmp_path: Path) -> None:
    """docker import takes a tar with its instructions; what is none is refused, and nothing is left of it."""
    place = tmp_path / "root.tar"
    place.write_bytes(archive({"server": server}))
    ident = node.out("import", "--change", 'ENTRYPOINT ["/server"]', str(place), "own:1")
    assert node.out("inspect", "--format", "{{.Id}} {{.Config.Entrypoint}}", "own:1") == f"{ident} [/server]"
    node.out("rmi", "own:1")
    place.write_bytes(b"no archive at all")
    assert "not an archive" in node.run("import", str(place), "own:1").stderr
    assert "not an archive" in node.run("load", "-i", str(place)).stderr


def test_a_service_of_an_image_that_is_nowhere(node: Docker, server: bytes, tmp_path: Path) -> None:
    """service create warns of an image while it is not here, under every name of it; docker-py knows its kind."""
    place = tmp_path / "late.tar"
    place.write_bytes(saved(server, "team/late:1"))

    def warned(image: str) -> bool:
        create = ("service", "create", "-d", "--no-resolve-image", "--replicas", "0", "--name", "late", image)
        done = node.run(*create)
        node.out("service", "rm", "late")
        assert done.returncode == 0
        return "is neither of the catalogue nor loaded here" in done.stderr

    names = ("team/late:1", "docker.io/team/late:1")
    assert [warned(name) for name in names] == [True, True]
    with pytest.raises(docker.errors.ImageNotFound, match="no registry is ever asked"):
        client(node.lab, node.node).images.pull("team/late", "1")
    node.out("load", "-i", str(place))
    assert [warned(name) for name in (*names, "team/late:2")] == [False, False, True]
    node.out("rmi", "team/late:1")
    assert [warned(name) for name in names] == [True, True]
    assert [warned(name) for name in ("nginx", "docker.io/library/nginx", "library/nginx:1.25")] == [False] * 3


def test_what_takes_room(lab: LabUnderTest, node: Docker) -> None:
    """system df counts images, containers and volumes with their sizes; prune takes what nothing uses."""
    place = Path(node.out("volume", "inspect", "--format", "{{.Mountpoint}}", node.out("volume", "create", "big")))
    (place / "file").write_bytes(bytes(3000))
    node.out("run", "-d", "--name", "user", "-v", "big:/big", "alpine", "sleep", "99")
    rows = dict(
        line.split(" ", 1)
        for line in node.out("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}}").splitlines()
    )
    assert rows["Containers"].startswith("1 1 ")
    assert rows["Local"] == "Volumes 1 1 3kB"
    assert "big" in node.out("system", "df", "-v")
    node.out("rm", "-f", "user")
    assert "3kB" in node.out("volume", "prune", "-f")
    assert "Total reclaimed space" in node.out("system", "prune", "-f")
    assert node.out("plugin", "ls", "-q") == ""
    assert "no registry is asked" in node.refused("search", "nginx")


def test_an_empty_volume_is_filled(node: Docker, server: bytes) -> None:
    """With what the image has at the mount point, once; not with nocopy, and not from a program of the machine."""
    layer = archive({"server": server, "srv/page": b"first"})
    manifest = [{"Config": "c.json", "RepoTags": ["team/filling:1"], "Layers": ["layer.tar"]}]
    config = {"config": {"Entrypoint": ["/server"]}}
    image = {"c.json": json.dumps(config).encode(), "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    engine = client(node.lab, "docker-0")
    try:
        engine.images.load(archive(image))
        for options, name, found in (("", "full", "page"), (":nocopy", "bare", ""), ("", "full", "mine page")):
            container = node.out("run", "-d", "-v", f"{name}:/srv{options}", "team/filling:1")
            place = Path(engine.volumes.get(name).attrs["Mountpoint"])
            assert sorted(path.name for path in place.iterdir()) == found.split()
            (place / "mine").touch() if found else None
            node.out("rm", "-f", container)
        assert (place / "page").read_text() == "first"
        node.out("run", "--rm", "-v", "machine:/etc/apt", "alpine", "true")
        assert list(Path(engine.volumes.get("machine").attrs["Mountpoint"]).iterdir()) == []
        node.out("volume", "rm", "full", "bare", "machine")
        node.out("rmi", "team/filling:1")
    finally:
        engine.close()


def laid_out(images: dict[str, bytes], architecture: str = "", nested: bool = False) -> dict[str, bytes]:
    """An OCI image layout of images, name -> program; each with two layers, of which the second takes a file away."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
            **more,
        }

    rows = []
    for name, program in images.items():
        layers = [
            blob(gzip.compress(archive({"server": program, "gone": b""})), "layer.v1.tar+gzip"),
            blob(archive({".wh.gone": b"", "added": name.encode()}), "layer.v1.tar"),
        ]
        config = blob(json.dumps({"config": {"Entrypoint": ["/server"], "Labels": {"of": name}}}).encode(), "config.v1")
        manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()
        platform = {"platform": {"os": "linux", "architecture": architecture}} if architecture else {}
        row = blob(manifest, "manifest.v1+json", **platform)
        if nested:
            other = {**row, "digest": f"sha256:{'0' * 64}", "platform": {"os": "linux", "architecture": "vax"}}
            row = blob(json.dumps({"schemaVersion": 2, "manifests": [other, row]}).encode(), "index.v1+json")
        rows.append({**row, "annotations": {"io.containerd.image.name": name}})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": rows}).encode()
    return files


@pytest.mark.parametrize("nested", [False, True])
def test_an_oci_layout_is_loaded(lab: LabUnderTest, node: Docker, server: bytes, tmp_path: Path, nested: bool) -> None:
    """docker load takes an image layout, of an index the image of this machine, and a service runs it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    place = tmp_path / "oci.tar"
    place.write_bytes(archive(laid_out({"docker.io/team/oci:1": server, "team/oci:2": server}, machine, nested)))
    said = node.out("load", "-i", str(place)).splitlines()
    assert said == ["Loaded image: team/oci:1", "Loaded image: team/oci:2"]
    assert node.out("inspect", "--format", "{{.Config.Entrypoint}} {{.Config.Labels.of}}", "team/oci:2") == (
        "[/server] team/oci:2"
    )
    ident = node.out("run", "-d", "team/oci:1")
    try:
        process = Path("/proc", node.out("inspect", "--format", "{{.State.Pid}}", ident))
        eventually(lab, lambda: (process / "cmdline").read_bytes() == b"/server\0", "it runs its program")
        root = process / "root"
        assert ((root / "added").read_text(), (root / "gone").exists()) == ("docker.io/team/oci:1", False)
    finally:
        node.out("rm", "-f", ident)
        node.out("rmi", "team/oci:1", "team/oci:2")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"index.json": b"{}"}, "manifests"),
        ({"index.json": b'{"manifests": [{"digest": "../../etc/passwd"}]}'}, "is no digest"),
        ({"index.json": b'{"manifests": [{"digest": "sha256:abc"}]}'}, "abc"),
        ({"index.json": b"[]"}, ""),
        ({"index.json": b"nonsense"}, ""),
    ],
)
def test_a_broken_oci_layout_is_refused(
    node: Docker, server: bytes, tmp_path: Path, broken: dict[str, bytes], words: str
) -> None:
    """It is said what is wrong, and no image and no half of one is left."""
    place = tmp_path / "oci.tar"
    place.write_bytes(archive({**laid_out({"team/broken:1": server}), **broken}))
    before = sorted(Path(names.lab_dir(node.lab.name), "images").glob("*"))
    said = node.refused("load", "-i", str(place))
    assert "not an archive of a root file system or an image" in said
    assert words in said
    assert node.refused("image", "inspect", "team/broken:1").endswith("No such image: team/broken:1")
    assert sorted(Path(names.lab_dir(node.lab.name), "images").glob("*")) == before


def test_an_image_of_another_machine(node: Docker, server: bytes, tmp_path: Path) -> None:
    """A layout that has nothing for this machine is refused, instead of being loaded as nothing."""
    place = tmp_path / "oci.tar"
    place.write_bytes(archive(laid_out({"team/vax:1": server}, "vax")))
    assert "no image for this machine" in node.refused("load", "-i", str(place))


def test_volumes(lab: LabUnderTest, node: Docker) -> None:
    """A volume is made by name or on first use, outlives its task, is in use while one has it, and is removed."""
    assert node.out("volume", "create", "--label", "a=b", "web-test") == "web-test"
    place = Path(node.out("volume", "inspect", "--format", "{{.Mountpoint}}", "web-test"))
    (place / "index.html").write_text("from a volume\n")
    mounts = (
        "--mount",
        "type=volume,src=web-test,dst=/usr/local/apache2/htdocs",
        "--mount",
        "type=volume,src=new,dst=/n",
    )
    here = ("--constraint", "node.hostname==docker-0")
    node.out("service", "create", "-q", "--name", "web", "-p", "8000:80", *here, *mounts, "httpd")
    assert lab.client().out("curl -sf --retry 5 --retry-connrefused 172.17.0.3:8000") == "from a volume"
    assert node.out("volume", "ls", "-q").split() == ["new", "web-test"]
    assert node.out("volume", "ls", "-q", "--filter", "label=a=b") == "web-test"
    assert "volume is in use - [" in node.refused("volume", "rm", "new")
    lab.remove("web")
    node.out("volume", "rm", "web-test")
    assert "no such volume" in node.refused("volume", "inspect", "web-test").lower()
    engine = client(lab, "docker-0")
    try:
        assert engine.volumes.prune()["VolumesDeleted"] == ["new"]
    finally:
        engine.close()
