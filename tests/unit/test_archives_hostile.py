"""Archives made to harm: each is one line, takes little memory and time, and leaves everything as it was."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshnet.errors import MeshnetError, NoSpaceError
from meshnet.sandbox import copying, importing
from meshnet.sandbox.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes its root directory: run as root")
BLOCK = tarfile.BLOCKSIZE


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    """A member as it stands in an archive; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def end(*members: bytes) -> bytes:
    return b"".join(members) + bytes(2 * BLOCK)


def pax(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A table of attributes for what follows."""
    lines = []
    for key, value in records.items():
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        lines.append(f"{length} {key}={value}\n".encode())
    return member("pax", b"".join(lines), kind)


def sparse(pieces: list[tuple[int, int]], size: int, content: bytes) -> bytes:
    """A sparse file in GNU's old format: four pieces in its header, 21 in each block that follows."""

    def packed(some: list[tuple[int, int]], room: int) -> bytes:
        return b"".join(b"%011o\0%011o\0" % piece for piece in some).ljust(room * 24, b"\0")

    header = bytearray(member("holes", content, tarfile.GNUTYPE_SPARSE)[:BLOCK])
    header[386:482] = packed(pieces[:4], 4)
    rest = [pieces[first : first + 21] for first in range(4, len(pieces), 21)]
    header[482] = bool(rest)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    blocks = [packed(some, 21) + bytes([number < len(rest) - 1]) + bytes(7) for number, some in enumerate(rest)]
    return bytes(header) + b"".join(blocks) + content + bytes(-len(content) % BLOCK)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The root of a container, with a file that is to stay."""
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "data" / "kept").write_text("kept")
    return root


@pytest.fixture
def few_bytes() -> Iterator[None]:
    """No more than 256 MiB beyond what the process has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def copy(place: Path, archive: bytes) -> None:
    root = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        asyncio.run(copying.unpack(root, "/data", io.BytesIO(archive)))
    finally:
        os.close(root)


def load(place: Path, archive: bytes) -> Path:
    """Imports it, and returns the root of what it became."""
    file = place.parent / "image.tar"
    file.write_bytes(archive)
    store = ImageStore(str(place.parent / "images"))
    return Path(store.rootfs(importing.import_rootfs(store, str(file), ("image",))))


def refused(place: Path, archive: bytes, words: str, into: Callable[[Path, bytes], Any]) -> None:
    """It is one line with these words, and nothing has changed."""
    with pytest.raises(MeshnetError, match=words) as caught:
        into(place, archive)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert [path.name for path in (place / "data").iterdir()] == ["kept"]
    assert (place / "data" / "kept").read_text() == "kept"
    assert not list(place.parent.glob("images/*")) + list(place.parent.glob("images/.*"))


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (end(member("kept", kind=tarfile.LNKTYPE, linkname="kept")), "kept: a hard link to itself"),
        (end(member("./kept", kind=tarfile.LNKTYPE, linkname="x/../kept")), "kept: a hard link to itself"),
        (end(member("kept", kind=tarfile.LNKTYPE, linkname="nothing")), "neither in the archive nor there"),
        (end(member("x", kind=tarfile.LNKTYPE, linkname=".")), "x: a hard link to a directory"),
        (end(member("x", kind=tarfile.LNKTYPE, linkname="../etc")), "leads out of it"),
        (end(member(".", b"x")), "the directory into which it is unpacked"),
        (end(member("", b"x")), "the directory into which it is unpacked"),
        (end(member("kept/..", b"x")), "the directory into which it is unpacked"),
        (end(member(".", kind=tarfile.SYMTYPE, linkname="/")), "the directory into which it is unpacked"),
        (end(member("../x", b"x")), "leads out of it"),
        (end(member("/x", b"x")), "leads out of it"),
        (end(member("a/../../x", b"x")), "leads out of it"),
        (gzip.compress(os.urandom(4096) + bytes(4096))[:-9], "not a tar archive"),
        (gzip.compress(end(member("x", os.urandom(9000))))[:5000], "not a tar archive"),
        (b"\xfd7zXZ\0" + bytes(100), "not a tar archive"),
        (end(pax({"mtime": "9" * 300}) + member("kept/x")), "not a tar archive|Not a directory"),
    ],
)
def test_what_is_copied_into_a_container(place: Path, archive: bytes, words: str) -> None:
    """A link to itself, a file for the directory itself, a way out, half an archive: refused, and nothing is lost."""
    refused(place, archive, words, copy)


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (end(member("kept", kind=tarfile.LNKTYPE, linkname="kept")), "kept"),
        (end(member(".", b"x")), "the root directory can be nothing else"),
        (end(member("..", b"x")), "the root directory can be nothing else"),
        (end(member("a/..", kind=tarfile.SYMTYPE, linkname="/")), "the root directory can be nothing else"),
        (end(member("a/.wh...", b"")), "takes away a directory above it"),
        (end(member("a/.wh..", b"")), "Invalid name"),
        (gzip.compress(end(member("x", os.urandom(9000))))[:5000], "ended before"),
        (gzip.compress(os.urandom(9000), 0)[:50] + b"\xff" * 90, "not an archive"),
        (b"\xfd7zXZ\0" + bytes(100), "not an archive"),
        (end(pax({"path": "d/" * 300 + "x"}), member("x")), "deeply"),
    ],
)
def test_what_is_imported(place: Path, archive: bytes, words: str) -> None:
    """The same as an image: it is refused whole, and the store is as it was."""
    refused(place, archive, words, load)


@pytest.mark.parametrize("into", [copy, load])
def test_what_stays_inside(place: Path, into: Callable[[Path, bytes], Any]) -> None:
    """Devices are left out, and a link that leads out of the root leads to nothing of the machine's."""
    outside = place.parent / "outside"
    outside.mkdir()
    archive = end(
        member("disk", kind=tarfile.BLKTYPE, devmajor=254),
        member("out", kind=tarfile.SYMTYPE, linkname=str(outside)),
        member("tool", b"#!", mode=0o4755),
        member("hard", kind=tarfile.LNKTYPE, linkname="tool", mode=0o4755),
    )
    found = into(place, archive) or place / "data"
    assert {path.name for path in found.iterdir()} - {"kept"} == {"out", "tool", "hard"}
    assert os.readlink(found / "out") == str(outside)
    assert (found / "hard").stat().st_ino == (found / "tool").stat().st_ino
    assert (found / "tool").stat().st_mode & 0o7777 == 0o4755
    with pytest.raises(MeshnetError):
        into(
            place, end(member("out", kind=tarfile.SYMTYPE, linkname=str(outside)), member("out/x/y", b"x"), b"\1" * 512)
        )
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("into", [copy, load])
def test_a_sparse_file(place: Path, into: Callable[[Path, bytes], Any]) -> None:
    """A file with holes is unpacked as it was, in each of GNU's formats."""
    content = b"a" * 512 + b"b" * 512
    numbers = b"2\n0\n512\n1048576\n512\n"
    names = {"GNU.sparse.name": "three", "GNU.sparse.realsize": "2000000"}
    archive = end(
        sparse([(0, 512), (1 << 20, 512)], 2_000_000, content),
        pax({"GNU.sparse.map": "0,512,1048576,512", "GNU.sparse.size": "2000000"}) + member("two", content),
        pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", **names})
        + member("three", numbers.ljust(BLOCK, b"\0") + content),
    )
    found = into(place, archive) or place / "data"
    for name in ("holes", "two", "three"):
        data = (found / name).read_bytes()
        assert (len(data), data[:512], data[1 << 20 : (1 << 20) + 512]) == (2_000_000, b"a" * 512, b"b" * 512), name
        assert data.strip(b"\0").replace(b"\0", b"") == content


LONG = sparse([(n * 1024, 1) for n in range(1, 600_000)], 1 << 40, b"")
NEGATIVE = member("x", size=0)[:124] + b"\xff" * 12 + member("x", size=0)[136:]
NEGATIVE = NEGATIVE[:148] + b"%06o\0 " % (sum(NEGATIVE[:148]) + 256 + sum(NEGATIVE[156:BLOCK])) + NEGATIVE[156:]


@pytest.mark.parametrize("into", [copy, load])
@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (LONG, "a header of"),
        (sparse([(0, 512), (0, 512)], 4096, bytes(1024)), "whose map is wrong"),
        (sparse([(0, 512)], 4096, bytes(1 << 20)), "whose map is wrong"),
        (sparse([(4096, 512)], 512, bytes(512)), "whose map is wrong"),
        (sparse([(0, 1 << 30)], 1 << 31, bytes(512)), "whose map is wrong"),
        (
            pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + member("x", b"9999999\n" + b"0\n" * (1 << 20)),
            "a header of",
        ),
        (NEGATIVE, "a header of -1 bytes"),
        (b"".join(member("l", b"x" * 5000, tarfile.GNUTYPE_LONGNAME) for _ in range(300)), "a header of|deeply"),
        (
            b"".join(pax({f"key{n}": "x" * 9000}, tarfile.XGLTYPE) + member(f"f{n}") for n in range(101)),
            "too many attributes for all|a header of",
        ),
    ],
    ids=["long map", "overlap", "more data", "beyond", "less data", "long map 1.0", "negative", "chain", "global"],
)
def test_what_headers_may_take(
    place: Path, few_bytes: None, archive: bytes, words: str, into: Callable[[Path, bytes], Any]
) -> None:
    """A map without end, or that contradicts itself, a chain of headers, and lengths below 0 are refused at once."""
    begin = time.process_time()
    with pytest.raises(MeshnetError, match=words):
        into(place, end(member("first"), archive))
    assert time.process_time() - begin < 10
    assert not list(place.parent.glob("images/*"))


@pytest.mark.parametrize("into", [copy, load])
def test_many_members(place: Path, into: Callable[[Path, bytes], Any]) -> None:
    """What an empty file takes does not depend on how many there are: thousands take a moment."""
    archive = b"".join(member(f"{n % 100}/{n}") for n in range(3_000))
    begin = time.process_time()
    found = into(place, end(archive)) or place / "data"
    assert time.process_time() - begin < 10
    assert sum(len(files) for _, _, files in os.walk(found)) - (into is copy) == 3_000


def test_too_many_members(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image whose headers alone would fill the memory is refused."""
    monkeypatch.setattr(importing, "MAX_HEADERS", 1 << 20)
    refused(place, end(*(member(f"{n}") for n in range(3000))), "more than 1048576 bytes of headers", load)


def test_more_than_there_is_room_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a small archive unpacks to is known before it is written: more than is free is not even read."""
    claims = member("a", b"x") + member("big", size=1 << 50)
    with pytest.raises(NoSpaceError, match="no space left in"):
        load(place, gzip.compress(claims + bytes(1 << 20)))
    assert not list(place.parent.glob("images/*"))


def test_directories_that_links_nest(place: Path) -> None:
    """Whatever depth links help a tree to, nothing of an import that failed stays."""
    deep = "d/" * 100
    parts = [member("l0", kind=tarfile.SYMTYPE, linkname=".")]
    for number in range(20):
        parts.append(pax({"path": f"l{number}/{deep}"}) + member("x", kind=tarfile.DIRTYPE, mode=0o755))
        link = f"l{number}/{deep}".rstrip("/")
        parts.append(pax({"linkpath": link}) + member(f"l{number + 1}", kind=tarfile.SYMTYPE))
    refused(place, end(*parts), "nested too deeply", load)


def test_a_file_that_a_process_replaces_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or a link that appears where a file is about to be written is neither waited for nor written through."""
    makes = copying._make_room

    def replaced(put: Callable[[str], None], where: str, *rest: Any) -> None:
        makes(where, *rest)
        put(where)

    monkeypatch.setattr(copying, "_make_room", partial(replaced, os.mkfifo))
    with pytest.raises(MeshnetError, match="/data/x: File exists"):
        copy(place, end(member("x", b"x")))
    os.unlink(place / "data/x")
    monkeypatch.setattr(copying, "_make_room", partial(replaced, partial(os.symlink, "kept")))
    with pytest.raises(MeshnetError, match="/data/x: File exists"):
        copy(place, end(member("x", b"x")))
    assert (place / "data/kept").read_text() == "kept"
