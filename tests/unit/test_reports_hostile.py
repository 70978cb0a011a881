"""A member that breaks the rules of reports: it loses its connection, and neither memory nor time of the manager."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from peers import FAST, member, reporting, session, shown
from swarm import Swarm, eventually, run, swarm

from meshnet.control import reportroutes
from meshnet.control.manager import Manager
from meshnet.control.trust import tls

TEXT, CONTINUED, PING, LAST, COMPRESSED = 0x1, 0x0, 0x9, 0x80, 0x40
EMPTY = b'{"Tasks": {}}'


def frame(first: int, payload: bytes = b"", claimed: int | None = None) -> bytes:
    """A frame as clients send it (RFC 6455, 5.2), with a mask of zeros; `claimed` is a length that is not its own."""
    length = len(payload) if claimed is None else claimed
    short = struct.pack("!BB", first, 0x80 | (length if length < 126 else 127))
    return short + (struct.pack("!Q", length) if length >= 126 else b"") + bytes(4) + payload


@asynccontextmanager
async def raw(manager: Manager, it: Swarm) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of the swarm's first node that says bytes, its handshake done."""
    me = member(it.nodes[0], manager)
    host, port = manager.listen_address.split(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=shown(manager, me), server_hostname=tls.SERVER_NAME, limit=2**16
    )
    try:
        writer.write(
            f"GET /v1/nodes/{me.node}/reports HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


def connections(it: Swarm) -> int:
    return it.manager.statistics()["reporting"]


async def gone(reader: asyncio.StreamReader) -> None:
    """Waits until the manager has ended the connection."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while await reader.read(2**16):
                pass


@pytest.mark.parametrize(
    "sent",
    [
        frame(LAST | PING, b"x") * 3,
        frame(LAST | 0x2, EMPTY),
        frame(LAST | COMPRESSED | TEXT, EMPTY),
        frame(LAST | TEXT, b"\xff\xfe"),
        frame(LAST | TEXT, claimed=2**62),
        frame(TEXT, claimed=4 * 2**20),
        frame(LAST | CONTINUED, EMPTY),
        frame(TEXT, b"x") + frame(LAST | TEXT, EMPTY),
        os.urandom(4096),
    ],
    ids=["ping", "binary", "compressed", "no text", "endless", "too large", "no beginning", "no end", "noise"],
)
def test_what_is_no_report(tmp_path: Path, sent: bytes) -> None:
    """Anything but a report, or one that is larger than a report may be, ends the connection before it is read."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            await it.node("docker-1")
            async with raw(it.manager, it) as (reader, writer):
                await eventually(lambda: connections(it) == 2, "both are connected")
                writer.write(sent)
                await gone(reader)
            await eventually(lambda: connections(it) == 1, "the node alone is connected")

    run(scenario)


@pytest.mark.parametrize("piece", [frame(CONTINUED), frame(CONTINUED, b"x")], ids=["empty", "small"])
def test_a_report_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """Fragments are no sign of life: the connection ends as if nothing was said."""
    monkeypatch.setattr(reportroutes, "SILENT", 0.3)
    monkeypatch.setattr(reportroutes, "SILENT_PERIODS", 0)

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            await it.node("docker-1")
            async with raw(it.manager, it) as (reader, writer):
                ended = asyncio.ensure_future(gone(reader))
                writer.write(frame(TEXT))
                while not ended.done():
                    with contextlib.suppress(ConnectionError):
                        writer.write(piece)
                        await writer.drain()
                    await asyncio.sleep(0.01)

    run(scenario)


def test_answers_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that reports and does not read is left after a while. Until then others are answered, and what waits for
    it is little."""
    monkeypatch.setattr(reportroutes, "PATIENCE", 1.0)
    waiting: list[int] = []

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            other = await it.node("docker-2")
            long = frame(LAST | TEXT, json.dumps({"Tasks": {"x" * 200_000: {"State": "odd"}}}).encode())
            async with raw(it.manager, it) as (_, writer):
                await eventually(lambda: connections(it) == 3, "all are connected")
                (theirs,) = list(it.manager._dispatcher._reports._open)[2:]

                def note() -> None:
                    with contextlib.suppress(AttributeError):  # asyncio's, once it is closed
                        waiting.append(theirs.get_write_buffer_size())

                async def flood() -> None:
                    with contextlib.suppress(ConnectionError):
                        while True:
                            writer.write(long)
                            await writer.drain()
                            note()

                flooding = asyncio.ensure_future(flood())
                context, ident = other.credentials.context(), other.client.node_id
                async with reporting(http, it.manager, context, ident) as say:
                    while not flooding.done():
                        assert await say(EMPTY.decode()) == it.manager.terms()
                        note()
                        await asyncio.sleep(0.01)
            await eventually(lambda: connections(it) == 2, "the nodes alone are connected")
            assert node.client.node_id in it.manager.view.nodes

    run(scenario)
    assert 0 < max(waiting) < 2**20


def test_many_connections_of_a_node(tmp_path: Path) -> None:
    """A node keeps a few connections, the latest; other nodes keep theirs, and the node itself finds its way back."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it, contextlib.AsyncExitStack() as stack:
            await it.node("docker-1")
            await it.node("docker-2")
            made = [await stack.enter_async_context(raw(it.manager, it)) for _ in range(12)]
            for reader, _ in made[: -reportroutes.PER_NODE]:
                await gone(reader)
            await eventually(lambda: connections(it) <= reportroutes.PER_NODE + 1, "a few are connected")
            heard = it.manager.statistics()["reports"]
            await eventually(lambda: it.manager.statistics()["reports"] > heard + 6, "both report")
            assert all(known.status.state == "ready" for known in it.manager.view.nodes.values())

    run(scenario)


def turns(count: Callable[[], int]) -> asyncio.Task[int]:
    """Watches how far something gets within one turn of the loop; cancel it for the answer."""

    async def watch() -> int:
        most, last = 0, count()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(0)
                most, last = max(most, count() - last), count()
        return most

    return asyncio.ensure_future(watch())


def test_many_reports_at_once(tmp_path: Path) -> None:
    """However many reports of a node lie there, it is others' turn after each."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            await it.node("docker-1")
            async with raw(it.manager, it) as (reader, writer):
                before = it.manager.statistics()["reports"]
                watching = turns(lambda: it.manager.statistics()["reports"])
                writer.write(frame(LAST | TEXT, EMPTY) * 1000)
                while it.manager.statistics()["reports"] < before + 1000:
                    await reader.read(2**16)
                watching.cancel()
                assert await watching <= 2

    run(scenario)


def test_a_report_of_too_many_tasks(tmp_path: Path) -> None:
    """It is refused before its statuses are looked at."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            async with reporting(http, it.manager, node.credentials.context(), node.client.node_id) as say:
                answer = await say(json.dumps({"Tasks": {str(n): 0 for n in range(reportroutes.TASKS + 1)}}))
                assert answer == {"message": "Tasks: at most 10000 are taken in a report", "status": 400}

    run(scenario)
