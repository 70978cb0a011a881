"""What strangers at the manager's port may cost: few connections, for a short time, and nobody else's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from peers import member, shown
from swarm import Swarm, eventually, run, spec, swarm

from meshnet.control import gate
from meshnet.control.trust import tls
from meshnet.control.trust.joining import CA

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def plain(it: Swarm, source: str = "127.0.0.1") -> Streams:
    """A connection that says nothing yet."""
    host, _, port = it.manager.listen_address.rpartition(":")
    return await asyncio.open_connection(host, int(port), local_addr=(source, 0))


async def encrypted(it: Swarm, source: str = "127.0.0.1") -> Streams:
    """A connection whose handshake is done, without a certificate. OSError if it is not to be."""
    host, _, port = it.manager.listen_address.rpartition(":")
    context = tls.unverified_context()
    return await asyncio.open_connection(host, int(port), local_addr=(source, 0), ssl=context)


def strangers(it: Swarm) -> int:
    return it.manager.statistics()["strangers"]


@contextmanager
def closing(*streams: Streams) -> Iterator[None]:
    with ExitStack() as stack:
        for _, writer in streams:
            stack.callback(writer.transport.abort)
        yield


def test_too_many_from_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an address that is there too often the oldest make room for an agent of its own; others' stay."""
    monkeypatch.setattr(gate, "PER_ADDRESS", 4)

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            await it.node("docker-1")
            other = await plain(it, "127.0.0.3")
            await eventually(lambda: strangers(it) >= 1, "the first stranger")
            idle = [await plain(it, "127.0.0.2") for _ in range(4)]
            with closing(other, *idle):
                await eventually(lambda: strangers(it) >= 5, "five strangers")
                with closing(await encrypted(it, "127.0.0.2")):
                    with suppress(ConnectionResetError):
                        assert await asyncio.wait_for(idle[0][0].read(), 5) == b""
                    assert strangers(it) == 5
                    assert it.manager.statistics()["refused_crowd"] == 1
                    assert not any(reader.at_eof() for reader, _ in (other, *idle[1:]))
                    await it.node("docker-2")
                    await it.converged(await it.service(spec("web", replicas=2)), 2)
            await eventually(lambda: strangers(it) == 0, "nobody is left")

    run(scenario)


def test_too_many_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When strangers are too many, the one that was there first makes room."""
    monkeypatch.setattr(gate, "STRANGERS", 3)

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            there = [await encrypted(it, f"127.0.0.{number}") for number in range(2, 6)]
            with closing(*there):
                assert await asyncio.wait_for(there[0][0].read(), 5) == b""
                assert strangers(it) == 3
                assert not any(reader.at_eof() for reader, _ in there[1:])

    run(scenario)


@pytest.mark.parametrize("speaks_tls", [False, True])
def test_a_stranger_stays_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks_tls: bool) -> None:
    """One that asks for nothing is sent away, before and after its handshake."""
    monkeypatch.setattr(gate, "STAY", 1.0)

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            there = await (encrypted if speaks_tls else plain)(it)
            with closing(there):
                with suppress(ConnectionResetError, ssl.SSLError):
                    assert await asyncio.wait_for(there[0].read(), 5) == b""
                assert strangers(it) == 0

    run(scenario)


def test_a_request_right_behind_the_handshake(tmp_path: Path) -> None:
    """What comes with the last bytes of the handshake is answered, on each of many connections, and that ends it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:

            async def asks() -> bytes:
                there = await encrypted(it)
                with closing(there):
                    there[1].write(f"GET {CA} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    return await there[0].read()

            for answer in await asyncio.gather(*[asks() for _ in range(20)]):
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"BEGIN CERTIFICATE" in answer
            await eventually(lambda: strangers(it) == 0, "all have gone")

    run(scenario)


def test_too_many_of_one_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a member that has too many connections the oldest ends, whatever its certificate; others keep theirs."""
    monkeypatch.setattr(gate, "PER_MEMBER", 5)

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            first, second = await it.node("docker-1"), await it.node("docker-2")
            host, _, port = it.manager.listen_address.rpartition(":")

            async def idle() -> Streams:
                context = shown(it.manager, member(first, it.manager))
                return await asyncio.open_connection(host, int(port), ssl=context, server_hostname=tls.SERVER_NAME)

            there = [await idle() for _ in range(8)]
            with closing(*there):
                for reader, _ in there[:3]:
                    with suppress(ConnectionResetError):
                        assert await asyncio.wait_for(reader.read(), 5) == b""
                assert not any(reader.at_eof() for reader, _ in there[3:])
                assert strangers(it) == 0
                assert it.manager.statistics()["refused_crowd"] >= 3
                assert second.client.connected
            await it.converged(await it.service(spec("web", replicas=2)), 2)
            gatekeeper = it.manager._dispatcher._gate
            await eventually(lambda: all(len(each) < 5 for each in gatekeeper._members.values()), "they are let go")
        await eventually(lambda: not gatekeeper._members, "nobody is left")

    run(scenario)
