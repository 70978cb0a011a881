"""Cluster secrets as the store keeps them: sealed with a key that is not in the store."""

from __future__ import annotations

import base64
import json

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshnet.codec import from_json, to_json
from meshnet.control.trust.swarm import Trust
from meshnet.errors import MeshnetError

KEY = 32
NONCE = 12


def seal(trust: Trust, key: bytes, ident: str, nonce: bytes) -> str:
    """The trust as text for the store. `ident` is bound to it; `nonce`, 12 bytes, must be new each time."""
    text = json.dumps(to_json(trust), separators=(",", ":")).encode()
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, text, ident.encode())).decode()


def unseal(text: str, key: bytes, ident: str) -> Trust:
    """The trust again. Raises MeshnetError if this key did not seal it."""
    try:
        data = base64.b64decode(text)
        return from_json(Trust, json.loads(AESGCM(key).decrypt(data[:NONCE], data[NONCE:], ident.encode())))
    except (InvalidTag, ValueError):
        raise MeshnetError("the swarm's secrets cannot be opened: the key beside the store is not theirs") from None
