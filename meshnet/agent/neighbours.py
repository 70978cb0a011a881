"""What the agent knows of the other members, and tells them: gossip in the words of the plan.

The members' addresses are kept on disk: an agent that restarts must find the others even if it was itself the
address that everyone joined, before it lets a plan made without them near the kernel.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from pathlib import Path

from meshnet.agent import records
from meshnet.agent.absent import Absent
from meshnet.agent.settings import AgentSettings
from meshnet.datapath.plan import Gone, Located, Peer
from meshnet.errors import MeshnetError
from meshnet.files import replace_text
from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.records import Position
from meshnet.gossip.settings import Settings
from meshnet.gossip.transport import Gossip
from meshnet.gossip.types import LIVE, Address, Member, Record
from meshnet.memo import Memo
from meshnet.model import Endpoint

log = logging.getLogger(__name__)

SETTLE = 10.0  # s to find another member after a restart, before going on alone
JOIN_TRY = 1.0  # s that one address gets to answer
JOIN_PAUSE = 0.05  # s between tries while a lab's agents start together
IN_FORCE = 2.0  # s that a draining task waits for slow members: Swarm's fixed pause is the bound here


class Neighbours:
    """One node's gossip. `look()` reads it into `located`, `peers`, `absent` and `gone`.

    `peers` are the live members and those that are dead for gossip; the last known endpoints of these are `absent`.
    The first of `keys` seals, all open; none means plain text.
    """

    def __init__(
        self,
        settings: AgentSettings,
        node_id: str,
        datapath: str,
        keys: tuple[bytes, ...] = (),
        gossip: Callable[[Settings], Gossip] = Gossip,
        settle: float = SETTLE,
    ) -> None:
        self.located: list[Located] = []
        self.peers: list[Peer] = []
        self.absent: list[Located] = []
        self.gone: tuple[Gone, ...] = ()
        self._settings = settings
        self._epoch_file = Path(settings.run_dir, "epoch")
        self._members_file = Path(settings.run_dir, "members")
        self._members: list[str] = []
        self._unkept = False
        self._removals = records.Removals()
        self._absent = Absent()
        self._located = Memo(_located)
        self._settle = settle
        self._looked_at: dict[str, Position] = {}
        epoch = self._next_epoch()
        self._keep_epoch(epoch)
        self._gossip = gossip(self._gossip_settings(node_id, datapath, keys, epoch))
        self._gossip.on_epoch(self._keep_epoch)

    def _next_epoch(self) -> int:
        """One more than the last run's. Outside a lab, where other members outlive this node's /run: the clock."""
        try:
            return int(self._epoch_file.read_text()) + 1
        except (OSError, ValueError):
            return 1 if self._settings.lab != "host" else time.time_ns() // 1_000_000

    def _gossip_settings(self, node_id: str, datapath: str, keys: tuple[bytes, ...], epoch: int) -> Settings:
        meta = MemberMeta(
            version="1",
            epoch=epoch,
            role=self._settings.role,
            tunnel=self._settings.address,
            datapath=datapath,
            node_id=node_id,
            hostname=self._settings.node,
        )
        settings = Settings(name=node_id, address=self._settings.address, epoch=epoch, meta=meta, keys=keys)
        return settings.local(self._settings.neighbours) if self._settings.lab != "host" else settings

    def _keep_epoch(self, epoch: int) -> None:
        replace_text(self._epoch_file, str(epoch))

    async def start(self, changed: Callable[[], None], awake: Callable[[], None]) -> None:
        """Opens the ports; `changed` is called in the loop when `look` would see something new, `awake` after each of
        gossip's timers."""
        await self._gossip.start()
        self._gossip.on_change(changed)
        self._gossip.on_wake(awake)

    async def join(self) -> None:
        """Tries known members until one answers and its records are here, or `settle` seconds passed.

        Gossip itself goes on trying after that."""
        known = self._members_file.read_text().split() if self._members_file.exists() else []
        found = [_address(text) for text in dict.fromkeys([*self._settings.join, *known])]
        others = [address for address in found if address is not None and address[0] != self._settings.address]
        deadline = asyncio.get_running_loop().time() + self._settle
        while others:
            try:
                await self._gossip.join(others, JOIN_TRY)
                if not await self._gossip.wait_caught_up(max(deadline - asyncio.get_running_loop().time(), 0.0)):
                    log.warning("not all records of the other members came within %g s", self._settle)
                return
            except MeshnetError as error:
                if asyncio.get_running_loop().time() > deadline:
                    log.warning("%s", error)
                    return
            await asyncio.sleep(JOIN_PAUSE)

    def use_keys(self, keys: tuple[bytes, ...]) -> None:
        """Seals with the first of these from now on, and opens with all of them."""
        self._gossip.set_keys(keys)

    async def leave(self) -> None:
        await self._gossip.leave()

    async def stop(self) -> None:
        await self._gossip.stop()

    def members(self) -> list[Member]:
        return self._gossip.members()

    def statistics(self) -> dict[str, int]:
        return self._gossip.statistics()

    @property
    def suspected(self) -> frozenset[str]:
        """Members that do not answer the others now."""
        return frozenset(peer.id for peer in self.peers if peer.state == "suspect")

    def look(self) -> None:
        """Reads members and records into the attributes."""
        members, self._looked_at = self._gossip.members(), self._gossip.positions()
        peers = [
            Peer(m.name, m.meta.tunnel or m.address, m.state, m.meta.datapath or "ebpf", m.meta.hostname)
            for m in members
            if m.state in LIVE and m.meta is not None
        ]
        self._keep_members(sorted(f"{m.address}:{m.port}" for m in members if m.state in LIVE))
        located = [one for one in self._located.each(self._gossip.records()) if one is not None]
        left = {m.name for m in members if m.state == "left"}
        absent, self.absent = self._absent.update(peers, located, left, time.monotonic())
        self.peers = [*peers, *absent]
        self.located = located
        self.gone = self._removals.update(located, (m.name for m in members if m.state != "dead"))

    def _keep_members(self, known: list[str]) -> None:
        """Writes the addresses of live members for the next start. Without room for them this one goes on."""
        if known == self._members:
            return
        try:
            replace_text(self._members_file, "\n".join(known))
        except OSError as error:
            if not self._unkept:
                log.error("%s cannot be written, and a restart may not find the others: %s", self._members_file, error)
            self._unkept = True
            return
        self._members, self._unkept = known, False

    def publish(self, network: str, endpoint: Endpoint) -> int:
        """Puts an endpoint into this node's log; returns its number for `in_force`."""
        return self._gossip.publish(network, records.KIND, endpoint.endpoint, records.encode(endpoint))

    def withdraw(self, network: str, endpoint: str) -> int:
        return self._gossip.withdraw(network, records.KIND, endpoint)

    def settled(self) -> None:
        """What the last `look` saw is in force here: kernel and name servers have it."""
        self._gossip.settle(self._looked_at)

    async def in_force(self, record: int) -> bool:
        """Waits, bounded, until what this node's log says up to `record` is in force at every live member."""
        return await self._gossip.wait_in_force(record, IN_FORCE)


def _located(record: Record) -> Located | None:
    """The endpoint of a record; None for what is none."""
    endpoint = records.decode(record.value or {}) if record.kind == records.KIND else None
    return None if endpoint is None else Located(record.owner, record.network, endpoint)


def _address(text: str) -> Address | None:
    """None for what is no IPv4 address and port."""
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
        ipaddress.IPv4Address(host)
    except ValueError:
        return None
    return (host, number) if 0 < number < 65536 else None
