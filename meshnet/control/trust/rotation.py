"""What a user may ask of a swarm's CA, as in `docker swarm ca` and `docker swarm update`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from meshnet.codec import from_json
from meshnet.control.trust import swarm
from meshnet.control.trust.authority import given_authority, new_authority
from meshnet.control.trust.swarm import Trust
from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random


@dataclass(frozen=True, slots=True)
class CAConfig:
    """The Engine's CAConfig. `node_cert_expiry` in ns, 0 leaves it; a larger `force_rotate` asks for another CA."""

    node_cert_expiry: int = 0
    force_rotate: int = 0
    signing_ca_cert: str = field(default="", metadata={"name": "SigningCACert"})
    signing_ca_key: str = field(default="", metadata={"name": "SigningCAKey"})
    external_cas: tuple[dict[str, Any], ...] = field(default=(), metadata={"name": "ExternalCAs"})


@dataclass(frozen=True, slots=True)
class _Spec:
    ca_config: CAConfig = field(default=CAConfig(), metadata={"name": "CAConfig"})


def ca_config(spec: Any) -> CAConfig:
    """The CA's part of a swarm's spec. Raises MeshnetError naming the field that is wrong."""
    return from_json(_Spec, spec).ca_config


def reconfigured(trust: Trust, config: CAConfig, roles: Iterable[str], now: float, rng: Random) -> Trust:
    """The trust as asked, with new tokens for `roles`. Raises MeshnetError; then nothing is changed."""
    if config.external_cas:
        raise MeshnetError("external CAs are not supported: give the CA with --ca-cert and --ca-key", 501)
    if config.node_cert_expiry:
        trust = replace(trust, expiry=swarm.checked_expiry(config.node_cert_expiry))
    given = bool(config.signing_ca_cert or config.signing_ca_key)
    if given and not (config.signing_ca_cert and config.signing_ca_key):
        raise MeshnetError("a CA needs both: its certificate (SigningCACert) and its key (SigningCAKey)")
    if config.force_rotate > trust.rotations:
        own = (config.signing_ca_cert, config.signing_ca_key)
        to = given_authority(*own, now) if given else new_authority(now, rng)
        trust = replace(swarm.change_authority(trust, to, now, rng), rotations=config.force_rotate)
    for role in roles:
        trust = swarm.rotate_token(trust, role, rng)
    return trust
