"""What a certificate says of its holder, and how a node asks for one.

As in swarmkit: the common name is the node's id, the organisational unit its role (`swarm-manager`, `swarm-worker`),
the organisation the swarm's id. The alternative names are role and id, so that a client that asks TLS for the name
`swarm-manager` speaks to a manager and to no other member.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random

MANAGER, WORKER = "swarm-manager", "swarm-worker"
UNITS = {"manager": MANAGER, "worker": WORKER}
_ROLES = {unit: role for role, unit in UNITS.items()}
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-4, D.1.2.3)
REQUEST_LIMIT = 8192
EARLIEST, LATEST = 0.5, 0.8  # of a certificate's life: when it is renewed (swarmkit ca/renewer.go)
LOOK = 60.0  # s at most until who waits for that reads the clock again: timers stand still while the machine sleeps
READ = 1024  # certificates that are remembered as read: a node shows its own with every report


@dataclass(frozen=True, slots=True)
class Identity:
    """`role` is `manager` or `worker`; `node` and `swarm` are ids."""

    node: str
    role: str
    swarm: str

    def subject(self) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.swarm),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, UNITS[self.role]),
                x509.NameAttribute(NameOID.COMMON_NAME, self.node),
            ]
        )


@lru_cache(maxsize=READ)
def identity_of(certificate: x509.Certificate) -> Identity:
    """The holder. Raises MeshnetError for a certificate that is none of a swarm's member."""
    values = []
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME):
        found = certificate.subject.get_attributes_for_oid(oid)
        if len(found) != 1 or not isinstance(found[0].value, str):
            raise MeshnetError("the certificate names no node of a swarm", 403)
        values.append(found[0].value)
    role = _ROLES.get(values[1])
    if role is None:
        raise MeshnetError(f"the certificate has no role of a swarm: {values[1]!r}", 403)
    return Identity(values[0], role, values[2])


def new_key(rng: Random) -> ec.EllipticCurvePrivateKey:
    """A private key on P-256."""
    return ec.derive_private_key(rng.getrandbits(320) % (ORDER - 1) + 1, ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The key as PEM, not encrypted: for a file of mode 0600 or a sealed value."""
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


def read_key(text: str) -> ec.EllipticCurvePrivateKey:
    """A key from PEM. Raises MeshnetError if it is no private key on P-256."""
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MeshnetError("the private key cannot be read: PEM without a passphrase is needed") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MeshnetError("the private key is of another kind: ECDSA on P-256 is needed")
    return key


def request_text(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request (PEM) for a key. It names nobody: who the node is, is for the manager to say."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def requested_key(text: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request, the only thing of it that counts.

    Raises MeshnetError for what is no request, for one that is not signed by its own key, and for any key but P-256.
    """
    if len(text) > REQUEST_LIMIT:
        raise MeshnetError(f"the certificate request is larger than {REQUEST_LIMIT} bytes")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise MeshnetError("the certificate request cannot be read: PEM of PKCS #10 is needed") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MeshnetError("the certificate request has a key of another kind: ECDSA on P-256 is needed")
    if not signed:
        raise MeshnetError("the certificate request is not signed by its own key")
    return key


def read_chain(text: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, at least one. Raises MeshnetError."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise MeshnetError("the certificate cannot be read: PEM is needed") from None


def renewal_time(certificate: x509.Certificate, rng: Random) -> float:
    """When to renew, in seconds since the epoch: a random moment between 50 and 80 % of the certificate's life."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begin + (end - begin) * (EARLIEST + (LATEST - EARLIEST) * rng.random())


@lru_cache(maxsize=READ)
def issuer_of(certificate: x509.Certificate) -> str:
    """Which key signed it: the identifier of the issuer's key in hex, "" if the certificate does not say."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return ""
    return (found.value.key_identifier or b"").hex()


def key_id(certificate: x509.Certificate) -> str:
    """The identifier of a certificate's own key in hex, as `issuer_of` gives it for what that key signed."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex()


@lru_cache(maxsize=4)
def root_digest(certificate: str) -> str:
    """How a node says which CA it trusts."""
    return hashlib.sha256(certificate.encode()).hexdigest()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
