"""Files in and out of a container that runs, as tar archives.

All names are followed by a thread whose root is the container's own, so no link leads out of it, whatever a process
inside changes meanwhile. In there nothing may be looked up that loads code: no names of users (libnss would come from
the container), no module for the first time. Devices are not unpacked: no device filter stands behind a container.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from meshnet.errors import MeshnetError, NoSpaceError, NotFoundError
from meshnet.files import is_full
from meshnet.kernel import mounts
from meshnet.sandbox import process
from meshnet.sandbox.tarheaders import BROKEN, BoundedTar, pieces

T = TypeVar("T")
# Not of the container's file system, and without end; an engine sees it without them.
KERNELS = ("/proc", "/sys", "/dev")
SHOWN = 200  # characters of a name in an error


@dataclass(frozen=True, slots=True)
class Stat:
    """A file in a container: `name` as asked for, `mode` as the kernel has it, `link` where a link leads in the end."""

    name: str
    size: int
    mode: int
    modified: float
    link: str = ""


async def look(root: int, path: str) -> Stat:
    """What is at a path; `root` is a descriptor of the container's root. NotFoundError, MeshnetError."""
    return await _inside(root, lambda: _stat(path))


async def pack(root: int, path: str, sink: IO[bytes]) -> None:
    """Writes what is at a path, with all below it, to `sink` as an archive. BrokenPipeError if nobody reads it."""
    await _inside(root, lambda: _pack(path, sink))


async def unpack(
    root: int, path: str, source: IO[bytes], *, keep_kinds: bool = False, owner: tuple[int, int] | None = None
) -> None:
    """Unpacks an archive into a directory.

    `keep_kinds`: no directory is replaced by what is none, nor the other way round. `owner` (user and group) gets
    what is made, else whom the archive names. MeshnetError for what cannot be.
    """
    try:
        # Outside, where the compressors' modules can be imported.
        with _Archive.open(fileobj=source, mode="r:*") as archive:
            await _inside(root, lambda: _unpack(path, archive, keep_kinds, owner))
    except (tarfile.TarError, EOFError, ValueError, LookupError, ArithmeticError, *BROKEN) as error:
        why = str(error).partition(":\n")[0]
        raise MeshnetError(f"the request body is not a tar archive that can be unpacked: {why}") from None
    except RecursionError:  # tarfile and shutil go down directories that way
        raise MeshnetError("directories in the archive, or where it is unpacked, are nested too deeply") from None


async def _inside(root: int, work: Callable[[], T]) -> T:
    def inside() -> T:
        mounts.unshare_root()
        os.fchdir(root)
        os.chroot(".")
        os.chdir("/")
        return work()

    try:
        return await process.in_own_thread(inside)
    except BrokenPipeError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"{error.filename} does not exist") from None
    except OSError as error:
        if is_full(error):
            raise NoSpaceError(str(error.filename or "the container")) from None
        raise MeshnetError(f"{_short(str(error.filename or 'the archive'))}: {error.strerror or error}") from None


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}..."


def _followed(path: str) -> str:
    """A path without links on the way; a link at its end is followed only if a slash says so."""
    whole = posixpath.normpath(f"/{path}").replace("//", "/")
    if path.endswith(("/", "/.")) or whole == "/":
        return os.path.realpath(whole)
    return posixpath.join(os.path.realpath(posixpath.dirname(whole)), posixpath.basename(whole))


def _base(path: str) -> str:
    """What a path is called in an archive: `.` if only its content is meant."""
    return "." if path.endswith("/.") else posixpath.basename(posixpath.normpath(f"/{path}")) or "."


def _stat(path: str) -> Stat:
    found = _followed(path)
    seen = os.lstat(found)
    link = os.path.realpath(found) if stat.S_ISLNK(seen.st_mode) else ""
    return Stat(_base(path), seen.st_size, seen.st_mode, seen.st_mtime, link)


def _pack(path: str, sink: IO[bytes]) -> None:
    links: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=sink, mode="w|") as archive:
        for place, name in _tree(_followed(path), _base(path)):
            try:
                _add(archive, place, name, links)
            except FileNotFoundError:
                continue  # gone since it was listed
            _forget(archive)


def _tree(top: str, name: str) -> Iterator[tuple[str, str]]:
    """Paths, each with its name in the archive; a directory comes before what is in it."""
    left = [(top, name)]
    while left:
        place, name = left.pop()
        yield place, name
        try:
            if place in KERNELS or not stat.S_ISDIR(os.lstat(place).st_mode):
                continue
            inside = sorted(os.listdir(place), reverse=True)
        except FileNotFoundError:
            continue  # gone since it was listed
        left += [(posixpath.join(place, each), f"{name}/{each}") for each in inside]


def _add(archive: tarfile.TarFile, place: str, name: str, links: dict[tuple[int, int], str]) -> None:
    seen = os.lstat(place)
    kinds = {
        stat.S_IFREG: tarfile.REGTYPE,
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFBLK: tarfile.BLKTYPE,
    }
    kind = kinds.get(stat.S_IFMT(seen.st_mode))
    if kind is None:
        return  # a socket has no place in an archive
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, stat.S_IMODE(seen.st_mode), int(seen.st_mtime)
    info.uid, info.gid = seen.st_uid, seen.st_gid
    if kind == tarfile.SYMTYPE:
        info.linkname = os.readlink(place)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(seen.st_rdev), os.minor(seen.st_rdev)
    elif kind == tarfile.REGTYPE and seen.st_nlink > 1:
        known = links.setdefault((seen.st_dev, seen.st_ino), name)
        if known != name:
            info.type, info.linkname = tarfile.LNKTYPE, known
    if info.type != tarfile.REGTYPE:
        archive.addfile(info)
        return
    # It may have become something else, which must not be waited for.
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        now = os.fstat(descriptor)
        if stat.S_ISREG(now.st_mode):
            info.size = now.st_size
            archive.addfile(info, file)


class _Archive(BoundedTar):
    """Writes no file through what a process in the container has put in its place meanwhile, nor waits for it."""

    def makefile(self, tarinfo: tarfile.TarInfo, targetpath: Any) -> None:
        source: Any = self.fileobj
        source.seek(tarinfo.offset_data)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(targetpath, flags, 0o600), "wb") as target:
            try:
                for offset, size in pieces(tarinfo):
                    target.seek(offset)
                    # As tarfile's own makefile does.
                    copy: Any = tarfile.copyfileobj  # type: ignore[attr-defined]  # no part of its types
                    copy(source, target, size, tarfile.ReadError)
                target.truncate(tarinfo.size)
            except BaseException:
                os.unlink(targetpath)  # half a file is worse than none
                raise


def _unpack(path: str, archive: tarfile.TarFile, keep_kinds: bool, owner: tuple[int, int] | None) -> None:
    target = os.path.realpath(posixpath.normpath(f"/{path}"))
    if not stat.S_ISDIR(os.stat(target).st_mode):
        raise MeshnetError("extraction point is not a directory")
    options: dict[str, Any] = {"filter": "fully_trusted"} if sys.version_info >= (3, 12) else {}
    for member in archive:
        _forget(archive)
        for given in (member.name, member.linkname) if member.islnk() else (member.name,):
            if posixpath.normpath(given).split("/")[0] in ("", ".."):
                raise MeshnetError(f"{_short(given)}: a name in the archive leads out of it")
        if member.isdev() and not member.isfifo():
            continue
        member.name = posixpath.normpath(member.name)
        if member.name == "." and not member.isdir():
            raise MeshnetError("the archive has something else for the directory into which it is unpacked")
        place = posixpath.join(target, member.name)
        if member.islnk():
            member.linkname = posixpath.normpath(member.linkname)
            _check_link(place, target, member)
        _make_room(place, member, keep_kinds)
        if owner is not None:
            member.uid, member.gid = owner
        archive.extract(member, target, numeric_owner=True, **options)


def _check_link(place: str, target: str, member: tarfile.TarInfo) -> None:
    """A hard link needs what it leads to, which must not be what it replaces."""
    source = posixpath.join(target, member.linkname)
    if not os.path.exists(source):
        raise MeshnetError(f"{_short(member.name)}: a hard link to what is neither in the archive nor there")
    if stat.S_ISDIR(os.lstat(source).st_mode):
        raise MeshnetError(f"{_short(member.name)}: a hard link to a directory")
    if f"{_followed(source)}/".startswith(f"{_followed(place)}/"):
        raise MeshnetError(f"{_short(member.name)}: a hard link to itself, or to what it would replace")


def _forget(archive: tarfile.TarFile) -> None:
    """tarfile keeps every member that it has seen, and an archive may have millions."""
    archive.members = []  # type: ignore[attr-defined]  # no part of its types


def _make_room(place: str, member: tarfile.TarInfo, keep_kinds: bool) -> None:
    """Takes away what stands where something of another kind shall be."""
    try:
        there = os.lstat(place)
    except FileNotFoundError:
        return
    directory = stat.S_ISDIR(there.st_mode)
    if directory and member.isdir():
        return
    if keep_kinds and directory != member.isdir():
        kinds = ("directory", "non-directory")
        was, now = kinds if directory else kinds[::-1]
        raise MeshnetError(f'cannot overwrite {was} "{place}" with {now} "{member.name}"')
    if directory:
        shutil.rmtree(place)
    else:
        os.unlink(place)
