"""Membership as the agent uses it: finding the others again, epochs, and what of their word is believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from meshnet.agent.neighbours import Neighbours
from meshnet.agent.records import encode
from meshnet.agent.settings import AgentSettings
from meshnet.errors import MeshnetError
from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.records import Position
from meshnet.gossip.settings import Settings
from meshnet.gossip.transport import Gossip
from meshnet.gossip.types import Address, Member, Record, State
from meshnet.model import Endpoint

ONE = Endpoint("e1", "t1", 1, "s1", "10.0.1.3", "02:42:0a:00:01:03", "h", "c", (), "ready")


class FakeGossip(Gossip):
    """Knows the members and records that a test puts there; `answers` says which try to join succeeds."""

    answers = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tries: list[list[Address | str]] = []
        self.waited: list[float] = []
        self.known: list[Member] = []
        self.logs: list[Record] = []
        self.epoch_changed: Callable[[int], None] = lambda _: None

    def on_epoch(self, callback: Callable[[int], None]) -> None:
        self.epoch_changed = callback

    async def join(self, addresses: Iterable[Address | str], timeout: float = 5.0) -> int:
        self.tries.append(list(addresses))
        if len(self.tries) < self.answers:
            raise MeshnetError("no member could be joined")
        return 1

    async def wait_caught_up(self, timeout: float) -> bool:
        self.waited.append(timeout)
        return True

    def members(self) -> list[Member]:
        return self.known

    def positions(self) -> dict[str, Position]:
        return {}

    def records(self) -> list[Record]:
        return self.logs


def made(directory: Path, lab: str = "lab", settle: float = 10.0) -> tuple[Neighbours, FakeGossip]:
    held: list[FakeGossip] = []

    def gossip(settings: Settings) -> Gossip:
        held.append(FakeGossip(settings))
        return held[0]

    settings = AgentSettings(lab, "docker-0", "172.17.0.2", str(directory), join=("172.17.0.2:7946", "172.17.0.3:7946"))
    return Neighbours(settings, "n1", "ebpf", (), gossip, settle), held[0]


def member(number: int, state: State = "alive", meta: MemberMeta | None = None) -> Member:
    return Member(f"n{number}", f"172.17.0.{number + 1}", 7946, state, 1, meta)


def record(owner: str, value: Mapping[str, object] | None) -> Record:
    return Record(owner, 1, 1, "net", "endpoint", "e1", value)


def test_joining_is_tried_until_somebody_answers(tmp_path: Path) -> None:
    """Its own address is left out; a member that answers ends the tries."""
    neighbours, gossip = made(tmp_path)
    gossip.answers = 3
    asyncio.run(neighbours.join())
    assert gossip.tries == [[("172.17.0.3", 7946)]] * 3
    assert len(gossip.waited) == 1  # for its records, too


def test_joining_is_bounded(tmp_path: Path) -> None:
    """When nobody answers, the agent goes on alone after a while."""
    neighbours, gossip = made(tmp_path, settle=0.0)
    gossip.answers = 1000
    asyncio.run(asyncio.wait_for(neighbours.join(), 5))
    assert gossip.tries


def test_members_are_found_again_after_a_restart(tmp_path: Path) -> None:
    """The addresses of live members are kept, since the node may itself be the one that everybody joined."""
    neighbours, gossip = made(tmp_path)
    gossip.known = [member(1), member(3), member(4, "dead"), member(5, "suspect")]
    neighbours.look()
    again, fresh = made(tmp_path)
    asyncio.run(again.join())
    assert fresh.tries == [[("172.17.0.3", 7946), ("172.17.0.4", 7946), ("172.17.0.6", 7946)]]


def test_suspected_members_are_told(tmp_path: Path) -> None:
    """Those that do not answer now are known by name, until they answer or are dead."""
    neighbours, gossip = made(tmp_path)
    states: dict[State, set[str]] = {"suspect": {"n3"}, "alive": set(), "dead": set()}
    for state, expected in states.items():
        gossip.known = [member(1, meta=MemberMeta()), member(3, state, MemberMeta())]
        neighbours.look()
        assert neighbours.suspected == expected, state


@pytest.mark.parametrize("content", ["172.17.0.4:79x\n", "172.17.0.4", "\0\0", "172.17.0.4:99999999"])
def test_a_damaged_members_file_costs_its_lines_only(tmp_path: Path, content: str) -> None:
    """What is no address is passed over, whatever wrote it."""
    (tmp_path / "members").write_text(f"172.17.0.9:7946\n{content}")
    neighbours, gossip = made(tmp_path)
    asyncio.run(neighbours.join())
    assert gossip.tries == [[("172.17.0.3", 7946), ("172.17.0.9", 7946)]]


def test_each_start_has_a_larger_epoch(tmp_path: Path) -> None:
    """One more each time, and never less than what gossip had to move to."""
    _, gossip = made(tmp_path)
    assert gossip.settings.epoch == 1
    gossip.epoch_changed(41)
    assert made(tmp_path)[1].settings.epoch == 42
    (tmp_path / "epoch").write_text("")
    assert made(tmp_path)[1].settings.epoch == 1


def test_without_its_file_a_real_host_takes_the_clock(tmp_path: Path) -> None:
    """/run does not survive a reboot, the other members do: milliseconds since 1970 are larger than any count."""
    before = time.time_ns() // 1_000_000
    epoch = made(tmp_path, "host")[1].settings.epoch
    assert before <= epoch <= time.time_ns() // 1_000_000
    assert made(tmp_path, "host")[1].settings.epoch == epoch + 1


def test_who_is_a_peer_and_what_is_an_endpoint(tmp_path: Path) -> None:
    """Live meshnet members are peers, by their tunnel addresses; only well-formed endpoint records are located."""
    neighbours, gossip = made(tmp_path)
    meta = MemberMeta(tunnel="192.0.2.1", datapath="ipvs")
    gossip.known = [member(1, meta=meta), member(2, "suspect", MemberMeta()), member(3, "dead", meta), member(4)]
    gossip.logs = [record("n1", encode(ONE)), record("n2", {"ip": "x"}), record("n2", None)]
    neighbours.look()
    assert [(p.address, p.state, p.datapath) for p in neighbours.peers] == [
        ("192.0.2.1", "alive", "ipvs"),
        ("172.17.0.3", "suspect", "ebpf"),
    ]
    assert [(item.owner, item.endpoint) for item in neighbours.located] == [("n1", ONE)]
    gossip.logs = []
    neighbours.look()
    assert [(gone.network, gone.ip) for gone in neighbours.gone] == [("net", ONE.ip)]
