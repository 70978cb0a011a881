"""A manager's hold on its swarm's trust: opened from the store, changed through it, served by TLS, moved on in time.

The key that the secrets are sealed with lies beside the store, in a file of its own: a copy of the store alone says
nothing. The manager's own certificate is made at each start, and lives in memory only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Any

from cryptography import x509

from meshnet.codec import to_json
from meshnet.control.objects import Change, Changes, SealedTrust
from meshnet.control.state import State
from meshnet.control.trust import gossipkeys, sealed, swarm, tls
from meshnet.control.trust.authority import issue
from meshnet.control.trust.identity import (
    LOOK,
    Identity,
    encoded,
    issuer_of,
    key_text,
    new_key,
    read_chain,
    renewal_time,
    request_text,
    root_digest,
)
from meshnet.control.trust.swarm import Trust
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random
from meshnet.model import SECOND, TLSInfo

log = logging.getLogger(__name__)
KEY_FILE = "store.key"
RETRY = 1.0


class Keeper:
    """`data_dir` is the manager's. `period` is how long a gossip key is used, in s; `expiry` ns of a certificate."""

    def __init__(self, data_dir: Path, period: float = gossipkeys.PERIOD, expiry: int = swarm.EXPIRY) -> None:
        self.listener: tls.Listener
        self.handshakes: Counter[str] = Counter()
        self._data_dir = data_dir
        self._period, self._expiry = period, expiry
        self._rng = SystemRandom()
        self._state: State
        self._key = b""
        self._opened: tuple[str, Trust] = ("", Trust())
        self._served: tuple[str, str] = ("", "")
        self._renew_at = 0.0
        self._held: dict[str, int] = {}
        self._heard: dict[str, tuple[str, str]] = {}
        self._look = asyncio.Event()

    async def start(self, state: State) -> None:
        """Opens the swarm's trust, or makes it for a new swarm. Raises MeshnetError if it cannot be opened."""
        self._state = state
        self._key = _sealing_key(self._data_dir / KEY_FILE, fresh=not state.view.trusts)
        await state.write(self._first)
        self.listener = tls.Listener(self._context(), self._refused)
        state.listen(self._noted)

    @property
    def trust(self) -> Trust:
        return self._open(self._state.view)

    def told(self) -> dict[str, Any]:
        """What every node must know: the CA to trust, the key that certificates must be signed with, gossip keys."""
        trust = self.trust
        return {"Root": trust.root.certificate, "Issuer": trust.signer.id, "Gossip": to_json(trust.gossip)}

    def tokens(self) -> dict[str, str]:
        """The join tokens: the Engine's JoinTokens."""
        return {"Worker": swarm.token(self.trust, "worker"), "Manager": swarm.token(self.trust, "manager")}

    def tls_info(self) -> TLSInfo:
        """The authority that nodes must hold certificates of: the Engine's TLSInfo of a swarm."""
        trust = self.trust
        return TLSInfo(trust.root.certificate, trust.signer.subject, trust.signer.public_key)

    def issue(self, request: str, identity: Identity) -> str:
        """A certificate (PEM) for a node. Raises MeshnetError for a bad request."""
        trust = self.trust
        return issue(trust.signer, request, identity, time.time(), trust.expiry / SECOND, self._rng)

    async def change(self, decide: Callable[[Trust], Trust]) -> None:
        """Puts what `decide` makes of the trust into the store. What it raises is passed on, and nothing changes."""

        await self._state.write(lambda view: self._changed(view, decide))

    def _changed(self, view: View, decide: Callable[[Trust], Trust]) -> Changes:
        before = self._open(view)
        after = decide(before)
        return Changes() if after == before else self._sealed(view, after, before)

    async def update(self, decide: Callable[[Trust, float, Random], Trust]) -> None:
        """As `change`, with the time in seconds since the epoch and randomness for `decide`."""
        await self._state.write(lambda view: self.changes(view, decide))

    def changes(self, view: View, decide: Callable[[Trust, float, Random], Trust]) -> Changes:
        """What `update` would write, for whoever has more to write in the same transaction."""
        return self._changed(view, lambda trust: decide(trust, time.time(), self._rng))

    async def rotate_gossip_key(self) -> None:
        """Begins to introduce a new gossip key now; nothing if one is on its way."""
        await self.update(lambda trust, now, rng: replace(trust, gossip=gossipkeys.begin(trust.gossip, now, rng)))

    async def heard(self, node_id: str, certificate: x509.Certificate, said: Any) -> None:
        """A node spoke: with this certificate, and with what it says that it holds (of a report, may be anything)."""
        said = said if isinstance(said, dict) else {}
        held, root = said.get("Gossip"), str(said.get("Root", ""))
        if isinstance(held, int) and self._held.get(node_id) != held:
            self._held[node_id] = held
            self._look.set()
        now = (issuer_of(certificate), root)
        if self._heard.get(node_id) != now:
            await self._state.write(lambda view: self._described(view, node_id, certificate, root))
            self._heard[node_id] = now

    async def tend(self) -> None:
        """Moves rotations on and renews the manager's own certificate, each when it is due. Runs until cancelled."""
        while True:
            self._look.clear()
            try:
                await self.change(self._moved)
                if time.time() >= self._renew_at:
                    self.listener.use(self._context())
                due = min(self.trust.gossip.since + self._period, self._renew_at)
                delay = min(max(due - time.time(), 0.0), LOOK)
            except Exception:  # certificates must not expire because of one that fails
                log.exception("the swarm's certificates and keys could not be tended; trying again in %g s", RETRY)
                delay = RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._look.wait()

    def _moved(self, trust: Trust) -> Trust:
        nodes = self._state.view.nodes
        ring, now = trust.gossip, time.time()
        if self._kept(self._state.view).exposed:
            ring = gossipkeys.begin(ring, now, self._rng)
        ring = gossipkeys.step(ring, self._held, nodes, now, self._rng, self._period)
        trust = replace(trust, gossip=ring)
        if trust.coming is not None:
            key = trust.coming.public_key
            if all(node.description.tls_info.cert_issuer_public_key == key for node in nodes.values()):
                log.info("every node has a certificate of the new CA: the old one is no longer trusted")
                return swarm.complete(trust, self._rng)
        return trust

    def _first(self, view: View) -> Changes:
        if view.trusts:
            return Changes()
        return self._sealed(view, replace(swarm.start(time.time(), self._rng), expiry=self._expiry))

    def _sealed(self, view: View, trust: Trust, before: Trust | None = None) -> Changes:
        assert view.cluster is not None
        known = view.trusts.get(view.cluster.id, SealedTrust(id=view.cluster.id))
        if before is not None and trust.gossip.fresh not in ("", before.gossip.fresh):
            known = replace(known, exposed=False)  # nodes that were removed do not know this one
        text = sealed.seal(trust, self._key, known.id, os.urandom(sealed.NONCE))
        # The swarm's own version moves, too: it is what an update of the swarm must name.
        return Changes((replace(known, sealed=text), view.cluster))

    def _open(self, view: View) -> Trust:
        kept = self._kept(view)
        if self._opened[0] != kept.sealed:
            self._opened = (kept.sealed, sealed.unseal(kept.sealed, self._key, kept.id))
        return self._opened[1]

    @staticmethod
    def _kept(view: View) -> SealedTrust:
        return next(iter(view.trusts.values()))

    def _noted(self, changes: list[Change]) -> None:
        """A new authority is served at once; nodes that came or went may have been waited for."""
        trust = self.trust
        if (trust.root.certificate, trust.signer.certificate) != self._served:
            self.listener.use(self._context())
        for change in changes:
            thing = change.after or change.before
            if change.after is None and thing is not None:
                self._held.pop(thing.id, None)
                self._heard.pop(thing.id, None)
        self._look.set()

    def _context(self) -> Any:
        """TLS with a new certificate for this manager."""
        view, trust, key = self._state.view, self.trust, new_key(self._rng)
        own = next((node.id for node in view.nodes.values() if node.manager_status is not None), "manager")
        assert view.cluster is not None
        chain = self.issue(request_text(key), Identity(own, "manager", view.cluster.id))
        self._renew_at = renewal_time(read_chain(chain)[0], self._rng)
        self._served = (trust.root.certificate, trust.signer.certificate)
        return tls.server_context(trust.root.certificate, chain, key_text(key))

    def _described(self, view: View, node_id: str, certificate: x509.Certificate, root: str) -> Changes:
        node, trust = view.nodes.get(node_id), self.trust
        if node is None:
            return Changes()
        known = node.description.tls_info
        authorities = [one for one in (trust.root, trust.coming) if one is not None]
        issuer = next((one.public_key for one in authorities if one.id == issuer_of(certificate)), "")
        trusted = next((one.certificate for one in authorities if root_digest(one.certificate) == root), "")
        now = TLSInfo(trusted or known.trust_root, encoded(certificate.issuer.public_bytes()), issuer)
        if now == known:
            return Changes()
        return Changes((replace(node, description=replace(node.description, tls_info=now)),))

    def _refused(self, reason: str) -> None:
        name = f"tls_{reason.lower()}"
        self.handshakes[name] += 1
        if self.handshakes[name] == 1:
            log.warning("refused a peer in the handshake: %s; others like it are only counted", reason)


def _sealing_key(path: Path, fresh: bool) -> bytes:
    """The key beside the store, made for a store that is new. Raises MeshnetError if it is missing or damaged."""
    if fresh and not path.exists():
        made = path.with_name(f"{path.name}.new")  # whole or not there: a manager may be killed at any moment
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(sealed.KEY))
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise MeshnetError(f"the key of the swarm's secrets cannot be read: {error}") from None
    if len(key) != sealed.KEY:
        raise MeshnetError(f"{path} is damaged: {sealed.KEY} bytes are needed")
    return key
