"""The transport on real sockets of the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from meshnet.errors import MeshnetError
from meshnet.gossip import Settings
from meshnet.gossip.members import Node
from meshnet.gossip.replicate import Replicator
from meshnet.gossip.transport import Gossip

KEY = (b"0123456789abcdef" * 2,)


def _free_port() -> int:
    """A port that is free for TCP and UDP on 127.0.0.1."""
    while True:
        with socket.socket(type=socket.SOCK_DGRAM) as probe, socket.socket() as listener:
            probe.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                listener.bind(probe.getsockname())
                return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _cluster(count: int, keys: tuple[bytes, ...] = KEY) -> AsyncIterator[list[Gossip]]:
    """`count` nodes on 127.0.0.1 ... of one port, joined through the first."""
    port = _free_port()
    nodes = [Gossip(Settings(f"n{n}", f"127.0.0.{n + 1}", port, keys=keys).local()) for n in range(count)]
    try:
        for node in nodes:
            await node.start()
        for node in nodes[1:]:
            await node.join(["127.0.0.1"])
        await _holds(lambda: all(_alive(node) == count for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


async def _holds(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until the condition holds; a test fails that waits longer than `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 (members change outside this loop's reach)
            await asyncio.sleep(0.002)


def _alive(node: Gossip) -> int:
    return sum(1 for member in node.members() if member.state == "alive")


def _state(node: Gossip, name: str) -> str:
    return next(member.state for member in node.members() if member.name == name)


def test_five_nodes_share_records() -> None:
    """Nodes that know one address share records, hear of changes, and know quickly who has seen them."""

    async def run() -> None:
        async with _cluster(5) as nodes:
            changes = 0

            def changed() -> None:
                nonlocal changes
                changes += 1

            nodes[4].on_change(changed)
            for number in range(20):
                seq = nodes[1].publish("demo", "endpoint", f"web.{number}", {"ip": f"10.0.1.{number}"})
            assert await nodes[1].wait_acknowledged(seq, 5)
            assert [len(node.records()) for node in nodes] == [20] * 5
            assert 1 <= changes <= 5
            seq = nodes[1].withdraw("demo", "endpoint", "web.0")
            assert await nodes[1].wait_acknowledged(seq, 5)
            assert [len(node.records()) for node in nodes] == [19] * 5

    asyncio.run(run())


@pytest.mark.slow
def test_crash_and_farewell_on_sockets() -> None:
    """A stopped node is suspected and dies, one that leaves is gone at once; records go with both."""

    async def run() -> None:
        async with _cluster(4) as nodes:
            nodes[2].publish("demo", "endpoint", "a", {})
            seq = nodes[3].publish("demo", "endpoint", "b", {})
            assert await nodes[3].wait_acknowledged(seq, 5)
            await nodes[3].leave()
            await nodes[3].stop()
            await _holds(lambda: _state(nodes[0], "n3") == "left")
            await nodes[2].stop()
            await _holds(lambda: _state(nodes[0], "n2") == "suspect")
            await _holds(lambda: _state(nodes[0], "n2") == "dead")
            assert nodes[0].records() == []

    asyncio.run(run())


def test_large_logs_travel_on_sockets() -> None:
    """Thousands of records reach a node that joins later, over a stream."""

    async def run() -> None:
        async with _cluster(2) as nodes:
            for number in range(3000):
                nodes[0].publish("demo", "endpoint", f"k{number}", {"number": number, "text": "x" * 100})
            await _holds(lambda: len(nodes[1].records()) == 3000)

    asyncio.run(run())


def test_joining_nobody_is_a_clear_error() -> None:
    """A join that reaches nobody, or only nodes of another key, says why in one line."""

    async def run() -> None:
        async with _cluster(1) as nodes:
            port = nodes[0].settings.port
            stranger = Gossip(Settings("stranger", "127.0.0.9", port, keys=(b"x" * 16,)).local())
            await stranger.start()
            try:
                with pytest.raises(MeshnetError, match=r"127\.0\.0\.8:\d+: Connect"):
                    await stranger.join(["127.0.0.8"])
                with pytest.raises(MeshnetError, match="same key"):
                    await stranger.join(["127.0.0.1"])
                assert nodes[0].statistics()["dropped_undecryptable"] >= 1
            finally:
                await stranger.stop()

    asyncio.run(run())


def test_a_taken_address_is_a_clear_error() -> None:
    """Starting twice on one address says what is wrong."""

    async def run() -> None:
        async with _cluster(1) as nodes:
            with pytest.raises(MeshnetError, match=r"cannot use 127\.0\.0\.1"):
                await Gossip(nodes[0].settings).start()

    asyncio.run(run())


def test_garbage_on_sockets_is_counted() -> None:
    """Nonsense by UDP and TCP is dropped and counted, and the node goes on."""

    async def run() -> None:
        async with _cluster(2) as nodes:
            address = ("127.0.0.1", nodes[0].settings.port)
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for data in (b"", b"\x00", b"\x01" * 60, b"\xff" * 60000):
                    sender.sendto(data, address)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            await _holds(lambda: nodes[0].statistics()["dropped_undecryptable"] >= 5)
            seq = nodes[0].publish("demo", "endpoint", "k", {})
            assert await nodes[0].wait_acknowledged(seq, 5)

    asyncio.run(run())


def test_it_says_when_it_is_awake() -> None:
    """Each of its timers is told, so that what is nearly due elsewhere can be done at the same time."""

    async def scenario() -> None:
        async with _cluster(2) as (node, _):
            woken: list[float] = []
            node.on_wake(lambda: woken.append(asyncio.get_running_loop().time()))
            await _holds(lambda: len(woken) >= 3)

    asyncio.run(scenario())


def test_a_lost_word_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits until a record is in force asks the silent ones long before the time is over."""
    said = Replicator._say_settled
    lost: list[str] = []

    def say(self: Replicator, owner: Node) -> None:
        if lost or owner.name != "n0":
            said(self, owner)
        else:
            lost.append(self.own.owner)

    async def scenario() -> None:
        async with _cluster(2) as (owner, other):
            seq = owner.publish("demo", "endpoint", "k", {"state": "draining"})
            assert await owner.wait_acknowledged(seq, 5.0)
            monkeypatch.setattr(Replicator, "_say_settled", say)
            owner.settle(owner.positions())
            other.settle(other.positions())
            began = asyncio.get_running_loop().time()
            assert await owner.wait_in_force(seq, 30.0)
            assert asyncio.get_running_loop().time() - began < 10.0
            assert lost == ["n1"]

    asyncio.run(scenario())
