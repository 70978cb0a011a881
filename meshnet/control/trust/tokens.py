"""Join tokens in swarmkit's form: `SWMTKN-1-<digest of the CA's certificate>-<secret>`.

Both parts are numbers in base 36, padded with zeros: 256 bits to 50 digits, 128 bits to 25. The digest is SHA-256 of
the certificate's PEM text, so that whoever holds a token knows the CA before it says the secret to anyone.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
PREFIX = "SWMTKN-1"
DIGEST_WIDTH, SECRET_WIDTH = 50, 25
SECRET_BITS = 128


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`digest` is that of a CA's certificate, `secret` what the manager compares; both as they stand in the token."""

    digest: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}-{self.digest}-{self.secret}"

    def pins(self, certificate: str) -> bool:
        """Whether the token was made for the CA with this certificate (PEM)."""
        return hmac.compare_digest(self.digest, digest(certificate))


def parse(text: str) -> JoinToken:
    """A token from its text. Raises MeshnetError, without the text: it may be nearly right."""
    parts = text.strip().split("-")
    widths = [len(part) for part in parts[2:]]
    digits = all(set(part) <= set(DIGITS) for part in parts[2:])
    if "-".join(parts[:2]) != PREFIX or widths != [DIGEST_WIDTH, SECRET_WIDTH] or not digits:
        raise MeshnetError("invalid join token")
    return JoinToken(parts[2], parts[3])


def digest(certificate: str) -> str:
    """The first part of the tokens of a CA with this certificate (PEM)."""
    return _padded(int.from_bytes(hashlib.sha256(certificate.encode()).digest()), DIGEST_WIDTH)


def new_secret(rng: Random) -> str:
    """The second part of a new token."""
    return _padded(rng.getrandbits(SECRET_BITS), SECRET_WIDTH)


def _padded(number: int, width: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = DIGITS[rest] + text
    return text.rjust(width, "0")
