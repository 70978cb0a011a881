"""Copying files from and into containers that run: /containers/{id}/archive, with `path`, as docker cp asks for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from meshnet.agent.inventory import Entry
from meshnet.api import words
from meshnet.api.http import flag
from meshnet.api.node.containers import entry_of
from meshnet.api.node.context import node_of, sent
from meshnet.api.node.uploads import uploaded
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.sandbox import copying
from meshnet.sandbox.copying import Stat

log = logging.getLogger(__name__)
HEADER = "X-Docker-Container-Path-Stat"
CHUNK = 64 * 1024
PATIENCE = 60.0  # s that a client gets to take a piece
# Kinds and special bits of a file's mode as Go numbers them (io/fs.FileMode).
_GO = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
)
_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """A file's mode as Go writes it."""
    kind = next((number for own, number in _GO if stat.S_IFMT(mode) == own), 0)
    return kind | sum(number for bit, number in _BITS if mode & bit) | mode & 0o777


async def head(request: web.Request) -> web.Response:
    """HEAD: what is there, in a header."""
    entry, path = entry_of(request), _path(request)
    with _root(entry) as root:
        return web.Response(headers=_described(await _look(entry, root, path)))


async def get(request: web.Request) -> web.StreamResponse:
    """GET: what is there, with all below it, as an archive."""
    entry, path = entry_of(request), _path(request)
    with _root(entry) as root:
        found = await _look(entry, root, path)
        headers = {"Content-Type": "application/x-tar", **_described(found)}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            async with contextlib.aclosing(_packed(root, path)) as pieces:
                async for data in pieces:
                    await sent(request, response, data, PATIENCE)
        except BaseException as error:
            if isinstance(error, MeshnetError):
                log.warning("container %s: copying %s broke off: %s", entry.name, path, error)
            if request.transport is not None:
                request.transport.abort()  # a client must not take half an archive for a whole one
            raise
        await response.write_eof()
        return response


async def put(request: web.Request) -> web.Response:
    """PUT: unpacks the body into a directory, with `noOverwriteDirNonDir` and `copyUIDGID`."""
    entry, path = entry_of(request), _path(request)
    owner = _user(entry) if flag(request, "copyUIDGID") else None
    keep = flag(request, "noOverwriteDirNonDir")

    async def unpack(name: str) -> None:
        with _root(entry) as root, open(name, "rb") as file:
            await _look(entry, root, path)
            await copying.unpack(root, path, file, keep_kinds=keep, owner=owner)

    async with uploaded(request) as name:
        await node_of(request).complete(unpack(name))
    return web.Response()


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path or "\0" in path:
        raise MeshnetError("path: the path of a file in the container is needed")
    return path


@contextlib.contextmanager
def _root(entry: Entry) -> Iterator[int]:
    """A descriptor of the container's root. ConflictError if it does not run: what it wrote is gone then."""
    if entry.container is None:
        raise ConflictError(f"Container {entry.id} is not running: files are copied from and into running ones alone")
    root = entry.container.root()
    try:
        yield root
    finally:
        os.close(root)


async def _look(entry: Entry, root: int, path: str) -> Stat:
    try:
        return await copying.look(root, path)
    except NotFoundError:
        raise NotFoundError(f"Could not find the file {path} in container {entry.id}") from None


def _described(found: Stat) -> dict[str, str]:
    told = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": words.stamp(found.modified),
        "linkTarget": found.link,
    }
    return {HEADER: base64.b64encode(json.dumps(told).encode()).decode()}


async def _packed(root: int, path: str) -> AsyncGenerator[bytes, None]:
    """The archive in pieces. Nobody's reading ends the packing."""
    reading, writing = os.pipe()
    stream = asyncio.StreamReader(limit=CHUNK)
    source, sink = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), source)
    except BaseException:
        source.close()
        sink.close()
        raise

    async def pack() -> None:
        with sink:
            await copying.pack(root, path, sink)

    packing = asyncio.ensure_future(pack())
    packing.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to take it
    try:
        while data := await stream.read(CHUNK):
            yield data
        await packing
    finally:
        transport.close()
        await asyncio.sleep(0)
        await asyncio.gather(packing, return_exceptions=True)


def _user(entry: Entry) -> tuple[int, int] | None:
    """User and group that the container's program runs as, if it was told to be somebody."""
    if not entry.spec.user:
        return None
    user = json.loads(Path(entry.directory, "config.json").read_text())["process"]["user"]
    return int(user["uid"]), int(user["gid"])


ARCHIVE = "/containers/{id}/archive"
ROUTES: tuple[tuple[str, str, Any], ...] = (("HEAD", ARCHIVE, head), ("GET", ARCHIVE, get), ("PUT", ARCHIVE, put))
