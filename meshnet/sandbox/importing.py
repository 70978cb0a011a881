"""Takes archives into the image store: a plain tar of a root file system, or what `docker save` writes.

An archive is a stranger's: its paths and links may point anywhere. It is unpacked by a thread whose root directory
is the new file system, so nothing in it can name a file of the machine; device files are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from meshnet.errors import MeshnetError
from meshnet.kernel import mounts
from meshnet.sandbox.images import repository
from meshnet.sandbox.store import ROOTFS, ImageStore, StoredImage

MAX_JSON = 4 << 20  # bytes of a manifest or configuration
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


def import_archive(store: ImageStore, path: str, name: str = "") -> StoredImage:
    """Imports a tar file, compressed or not; returns the image.

    `name` is needed for a plain root file system; for an image archive it is used instead of the archive's own
    names. Raises MeshnetError for what is neither, with the path.
    """
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file) as archive:
            members = {_clean(member.name): member for member in archive.getmembers()}
            if "manifest.json" in members:
                return _import_image(store, archive, members, name)
        if not name:
            raise MeshnetError(f"{path}: a plain root file system needs a name")
        with store.unpacking() as place, open(path, "rb") as file:
            _unpack(file, place / ROOTFS)
            return store.add(StoredImage(_digest(path), (repository(name),), command=("/bin/sh",)), place)
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise MeshnetError(f"{path}: not an archive of a root file system or an image: {error}") from None


def _clean(name: str) -> str:
    return str(PurePosixPath(name))


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    file = archive.extractfile(member)
    if file is None or member.size > MAX_JSON:
        raise ValueError(f"{member.name} is not a small file")
    return json.load(file)


def _import_image(
    store: ImageStore, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str
) -> StoredImage:
    manifest = _json(archive, members["manifest.json"])[0]
    config = _json(archive, members[_clean(manifest["Config"])]).get("config") or {}
    names = (name,) if name else tuple(manifest.get("RepoTags") or ())
    if not names:
        raise ValueError("the image has no name; give one")
    identity = hashlib.sha256(json.dumps([manifest["Config"], manifest["Layers"]]).encode()).hexdigest()
    image = StoredImage(
        identity,
        tuple(sorted({repository(each) for each in names})),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        env=tuple(config.get("Env") or ()),
        workdir=config.get("WorkingDir") or "",
        user=config.get("User") or "",
    )
    with store.unpacking() as place:
        for layer in manifest["Layers"]:
            file = archive.extractfile(members[_clean(layer)])
            if file is None:
                raise ValueError(f"layer {layer} is not a file")
            _unpack(file, place / ROOTFS)
        return store.add(image, place)


def _unpack(file: IO[bytes], root: Path) -> None:
    """Unpacks one layer over what is in `root` already."""
    root.mkdir(mode=0o755, exist_ok=True)
    with tarfile.open(fileobj=file) as archive:
        members = archive.getmembers()  # read outside, where the compressors' modules can be imported

        def inside() -> None:
            mounts.unshare_root()
            os.chroot(root)
            os.chdir("/")
            _remove_whiteouts(members)
            _extract(archive, members)

        _in_own_thread(inside)


def _in_own_thread(work: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="import")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _remove_whiteouts(members: list[tarfile.TarInfo]) -> None:
    """What a layer takes away from those below it: `.wh.<name>`, or all of a directory (`.wh..wh..opq`)."""
    for member in members:
        path = Path("/", member.name)
        if path.name == _OPAQUE:
            for child in path.parent.iterdir() if path.parent.is_dir() else ():
                _remove(child)
        elif path.name.startswith(_WHITEOUT):
            _remove(path.with_name(path.name.removeprefix(_WHITEOUT)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _wanted(members: list[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    for member in members:
        if not member.isdev() and not Path(member.name).name.startswith(_WHITEOUT):
            yield member


def _extract(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    for member in _wanted(members):
        path = Path("/", member.name)
        # A layer may turn a directory into a file, or a file into something else.
        if not member.isdir() and path != Path("/"):
            _remove(path)
    options: dict[str, Any] = {"filter": "fully_trusted"} if sys.version_info >= (3, 12) else {}
    archive.extractall("/", members=_wanted(members), numeric_owner=True, **options)
