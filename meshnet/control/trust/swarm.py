"""All that a swarm's trust rests on, as one value: authority, tokens' secrets, gossip keys; and how each changes.

The authority changes in two steps, as in swarmkit. While `coming` is set, it signs every certificate, vouched for by
the old one, which is still what members trust. Once every node holds a certificate of the new one, that becomes
`root`: from then on nothing that only the old one signed is accepted, and the tokens are new.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from meshnet.control.trust import gossipkeys, tokens
from meshnet.control.trust.authority import Authority, new_authority, vouched
from meshnet.control.trust.gossipkeys import GossipKeys
from meshnet.control.trust.tokens import JoinToken
from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random
from meshnet.model import SECOND

EXPIRY = 90 * 86400 * SECOND
"""ns that a node's certificate is valid: Swarm's default."""
SHORTEST = 3600 * SECOND
"""ns: the shortest that Swarm accepts."""


@dataclass(frozen=True, slots=True)
class Trust:
    """`expiry` is in ns. `rotations` is the count of asked changes of the authority: the Engine's ForceRotate."""

    root: Authority = Authority()
    coming: Authority | None = None
    worker: str = ""
    manager: str = ""
    gossip: GossipKeys = GossipKeys()
    expiry: int = EXPIRY
    rotations: int = 0

    @property
    def signer(self) -> Authority:
        """Who issues certificates now."""
        return self.coming or self.root


def start(now: float, rng: Random) -> Trust:
    """The trust of a new swarm."""
    made = Trust(root=new_authority(now, rng), gossip=gossipkeys.first_keys(now, rng))
    return replace(made, worker=tokens.new_secret(rng), manager=tokens.new_secret(rng))


def token(trust: Trust, role: str) -> str:
    """The join token of a role."""
    return str(JoinToken(tokens.digest(trust.root.certificate), trust.manager if role == "manager" else trust.worker))


def role_of(trust: Trust, text: str) -> str:
    """The role that a token gives. Raises MeshnetError, in Swarm's words, for one that gives none."""
    given = text.encode(errors="replace")
    for role in ("worker", "manager"):
        if hmac.compare_digest(given, token(trust, role).encode()):
            return role
    raise MeshnetError("rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster")


def rotate_token(trust: Trust, role: str, rng: Random) -> Trust:
    """A new secret for a role: the old token admits nobody any more, who is in stays in."""
    secret = tokens.new_secret(rng)
    return replace(trust, manager=secret) if role == "manager" else replace(trust, worker=secret)


def change_authority(trust: Trust, to: Authority, now: float, rng: Random) -> Trust:
    """Begins to change the authority, also when a change is going on already."""
    return replace(trust, coming=vouched(to, trust.root, now, rng), rotations=trust.rotations + 1)


def complete(trust: Trust, rng: Random) -> Trust:
    """The new authority alone, once every node has a certificate of it, and with it new tokens."""
    if trust.coming is None:
        return trust
    renewed = replace(trust, root=trust.coming, coming=None)
    return rotate_token(rotate_token(renewed, "worker", rng), "manager", rng)


def checked_expiry(expiry: int) -> int:
    """ns. Raises MeshnetError, in Swarm's words, for a life that is too short."""
    if expiry < SHORTEST:
        text = "minimum certificate expiry time is 1h0m0s"
        raise MeshnetError(f"rpc error: code = InvalidArgument desc = {text}")
    return expiry
