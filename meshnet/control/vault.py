"""Encrypts what is secret before it is stored: AES-256-GCM with the key that lies in a file beside the store.

The id of what is sealed is authenticated with it, so that nobody who can write to the store can put one secret in the
place of another. Whoever copies the store without the key file has no secrets.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshnet.errors import MeshnetError

KEY_LENGTH = 32
NONCE_LENGTH = 12


class Vault:
    """Seals and opens with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.open = lru_cache(maxsize=256)(self._open)

    @classmethod
    def load(cls, path: Path) -> Vault:
        """The vault whose key is in the file. Raises MeshnetError if there is none."""
        try:
            key = path.read_bytes()
        except OSError as error:
            raise MeshnetError(f"the key of the swarm's secrets cannot be read: {error}") from error
        if len(key) != KEY_LENGTH:
            raise MeshnetError(f"{path} is damaged: {KEY_LENGTH} bytes are needed")
        return cls(key)

    def seal(self, data: str, ident: str) -> str:
        """The text encrypted for the object `ident`, as base64."""
        nonce = os.urandom(NONCE_LENGTH)
        return b64encode(nonce + self._cipher.encrypt(nonce, data.encode(), ident.encode())).decode()

    def _open(self, sealed: str, ident: str) -> str:
        """What was sealed for `ident`. Raises MeshnetError if it was not, or with another key."""
        raw = b64decode(sealed)
        try:
            return self._cipher.decrypt(raw[:NONCE_LENGTH], raw[NONCE_LENGTH:], ident.encode()).decode()
        except (InvalidTag, ValueError):
            raise MeshnetError(f"secret {ident} cannot be read with this manager's key", 500) from None
