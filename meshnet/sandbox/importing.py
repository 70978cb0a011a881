"""Takes archives into the image store: a tar of a root file system, what `docker save` writes, or an OCI layout.

An archive is a stranger's: its paths and links may point anywhere. It is unpacked by a thread whose root directory
is the new file system, so nothing in it can name a file of the machine; device files are left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from meshnet.errors import MeshnetError, NoSpaceError
from meshnet.files import is_full
from meshnet.kernel import mounts
from meshnet.sandbox import oci
from meshnet.sandbox.images import familiar
from meshnet.sandbox.oci import Manifest
from meshnet.sandbox.store import ROOTFS, ImageStore, StoredImage
from meshnet.sandbox.tarheaders import BROKEN, BoundedTar

MAX_JSON = 4 << 20  # bytes of a manifest or configuration
MAX_HEADERS = 512 << 20  # bytes of an archive's headers, which are kept: a million files
MAX_STEPS = 256  # of a path: what is nested deeper cannot be gone down, nor removed
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


def import_archive(store: ImageStore, path: str, name: str = "") -> StoredImage:
    """Imports a tar file, compressed or not; returns the (first) image.

    `name` is needed for a plain root file system; for an image archive it is used instead of the archive's own
    names. Raises MeshnetError for what is neither, with the path.
    """
    with _readable(path, store):
        found = _load(store, path, name)
        if found:
            return found[0]
        if not name:
            raise MeshnetError(f"{path}: a plain root file system needs a name")
        return import_rootfs(store, path, (name,))


def load_archive(store: ImageStore, path: str) -> list[StoredImage]:
    """Imports every image of an archive that `docker save` wrote, or that is laid out as OCI says.

    Raises MeshnetError for anything else.
    """
    with _readable(path, store):
        found = _load(store, path, "")
        if not found:
            raise MeshnetError("not an archive of images; a root file system is taken in with: docker import")
        return found


def import_rootfs(
    store: ImageStore, path: str, names: tuple[str, ...], config: dict[str, Any] | None = None
) -> StoredImage:
    """Imports a plain root file system under these names, none for an image that has only its id."""
    with _readable(path, store), store.unpacking() as place, open(path, "rb") as file:
        _unpack(file, place / ROOTFS)
        return store.add(_image(_digest(path), names, config or {"Cmd": ["/bin/sh"]}, place), place)


_UNREADABLE = (OSError, tarfile.TarError, ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError)


@contextlib.contextmanager
def _readable(path: str, store: ImageStore) -> Iterator[None]:
    try:
        yield
    except (*_UNREADABLE, *BROKEN, RecursionError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise NoSpaceError(store.directory) from None
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(":\n")[0]
        raise MeshnetError(f"{path}: not an archive of a root file system or an image: {why}") from None


class _Archive(BoundedTar):
    """An archive whose members are all known: there are not too many, and what they hold has room in `place`."""

    place, room = "", 0

    def read(self, place: Path) -> list[tarfile.TarInfo]:
        """Every member. Raises NoSpaceError as soon as there is more than can be stored."""
        there = os.statvfs(place)
        self.place, self.room = str(place), there.f_bavail * there.f_frsize
        return self.getmembers()

    def next(self) -> tarfile.TarInfo | None:
        member = super().next()
        if self.headers > MAX_HEADERS:
            raise tarfile.ReadError(f"more than {MAX_HEADERS} bytes of headers")
        if self.place and self.data > self.room:
            raise NoSpaceError(self.place)
        return member


def _load(store: ImageStore, path: str, name: str) -> list[StoredImage]:
    with open(path, "rb") as file, _Archive.open(fileobj=file) as archive:
        members = {_clean(member.name): member for member in archive.read(store.place())}
        reader = _Reader(archive, members)
        if "manifest.json" in members:
            manifests = [
                Manifest(item["Config"], tuple(item["Layers"]), tuple(item.get("RepoTags") or ()))
                for item in reader.json("manifest.json")
            ]
        elif "index.json" in members and "oci-layout" in members:
            manifests = oci.manifests(reader.json)
        else:
            return []
        return [_import_image(store, reader, manifest, name) for manifest in manifests]


def _clean(name: str) -> str:
    return str(PurePosixPath(name))


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Reader:
    """The files of an archive by their names."""

    def __init__(self, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> None:
        self._archive, self._members = archive, members

    def open(self, name: str) -> IO[bytes]:
        member = self._members[_clean(name)]
        file = self._archive.extractfile(member)
        if file is None:
            raise ValueError(f"{name} is not a file")
        return file

    def json(self, name: str) -> Any:
        member = self._members[_clean(name)]
        if member.size > MAX_JSON:
            raise ValueError(f"{name} is not a small file")
        return json.load(self.open(name))


def _import_image(store: ImageStore, reader: _Reader, manifest: Manifest, name: str) -> StoredImage:
    whole = reader.json(manifest.config)
    config = whole.get("config") or {}
    names = (name,) if name else manifest.names
    if not names:
        raise ValueError("the image has no name; give one")
    identity = _identity(reader, manifest, whole)
    with store.unpacking() as place:
        for layer in manifest.layers:
            _unpack(reader.open(layer), place / ROOTFS)
        return store.add(_image(identity, names, config, place), place)


def _identity(reader: _Reader, manifest: Manifest, config: dict[str, Any]) -> str:
    """Docker's id: the digest of the configuration, which names the layers by theirs. Where it does not, in an archive
    made by hand, the layers count as well: two images must not be one because their files are called alike."""
    found = hashlib.file_digest(reader.open(manifest.config), "sha256")  # type: ignore[arg-type]
    named = (config.get("rootfs") or {}).get("diff_ids") or ()
    for layer in manifest.layers if len(named) != len(manifest.layers) else ():
        found.update(hashlib.file_digest(reader.open(layer), "sha256").digest())  # type: ignore[arg-type]
    return found.hexdigest()


def _image(identity: str, names: tuple[str, ...], config: dict[str, Any], place: Path) -> StoredImage:
    return StoredImage(
        identity,
        tuple(sorted({familiar(each) for each in names})),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        env=tuple(config.get("Env") or ()),
        workdir=config.get("WorkingDir") or "",
        user=config.get("User") or "",
        created=time.time(),
        size=_size(place / ROOTFS),
        config=config,
    )


def _size(root: Path) -> int:
    """Bytes of a tree, as its files say."""
    return sum(os.lstat(os.path.join(path, name)).st_size for path, _, files in os.walk(root) for name in files)


def _unpack(file: IO[bytes], root: Path) -> None:
    """Unpacks one layer over what is in `root` already."""
    root.mkdir(mode=0o755, exist_ok=True)
    with _Archive.open(fileobj=file) as archive:
        members = archive.read(root)  # read outside, where the compressors' modules can be imported

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
        elif path.name == f"{_WHITEOUT}..":
            raise ValueError(f"{member.name}: it takes away a directory above it")
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
        if member.name.count("/") > MAX_STEPS:
            raise RecursionError
        if member.isdir():
            continue
        path = Path(os.path.normpath(f"/{member.name}"))
        if path == Path("/"):
            raise ValueError(f"{member.name or 'a file without a name'}: the root directory can be nothing else")
        # A layer may turn a directory into a file, or a file into something else.
        _remove(path)
    options: dict[str, Any] = {"filter": "fully_trusted"} if sys.version_info >= (3, 12) else {}
    archive.extractall("/", members=_wanted(members), numeric_owner=True, **options)
