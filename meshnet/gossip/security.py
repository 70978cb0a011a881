"""memberlist's encryption: AES-GCM with one of a ring of shared keys.

Sealed: version byte, 12 bytes of nonce, ciphertext, 16 bytes of tag. Version 1 has no padding; version 0 pads the
plaintext (PKCS #7) to 16 bytes and is only read. Possession of a key is full trust: there is no identity and no
replay protection in this format.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshnet.gossip.types import WireError

NONCE = 12
OVERHEAD = 1 + NONCE + 16
"""Bytes that sealing adds in version 1."""


class Keyring:
    """Keys to open with, the first of which seals. Rotation: add everywhere, then promote, then remove."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = {key: AESGCM(key) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def replace(self, keys: tuple[bytes, ...]) -> None:
        """Use these keys from now on. Raises ValueError for a key that is not 16, 24 or 32 bytes."""
        self._keys = {key: self._keys.get(key) or AESGCM(key) for key in keys}

    def seal(self, plaintext: bytes, extra: bytes, nonce: bytes) -> bytes:
        """`plaintext` under the first key, version 1. `extra` is authenticated, not sent."""
        cipher = next(iter(self._keys.values()))
        return b"\x01" + nonce + cipher.encrypt(nonce, plaintext, extra)

    def open(self, sealed: bytes, extra: bytes) -> bytes:
        """The plaintext. Raises WireError: nothing but a sealed message of a known key is accepted."""
        if len(sealed) < OVERHEAD or sealed[0] > 1:
            raise WireError("undecryptable")
        nonce, ciphertext = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
        for cipher in self._keys.values():
            try:
                plaintext = cipher.decrypt(nonce, ciphertext, extra)
            except InvalidTag:
                continue
            return plaintext if sealed[0] == 1 else _unpad(plaintext)
        raise WireError("undecryptable")


def _unpad(plaintext: bytes) -> bytes:
    count = plaintext[-1] if plaintext else 0
    if not 1 <= count <= 16 or plaintext[-count:] != bytes((count,)) * count:
        raise WireError("undecryptable")
    return plaintext[:-count]
