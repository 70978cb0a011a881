"""A swarm's certificate authority: its own certificate and key, and what it signs.

When a swarm changes its authority, the new one signs from the first moment on. Its own certificate is at first also
signed by the old one (`intermediate`) and is sent behind every certificate it issues, so that a member which trusts
only the old authority still finds a way from the one to the other. See `swarm` for the order of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshnet.control.trust.identity import (
    UNITS,
    Identity,
    encoded,
    key_id,
    key_text,
    new_key,
    read_chain,
    read_key,
    requested_key,
)
from meshnet.errors import MeshnetError
from meshnet.gossip.rng import Random

ROOT_LIFE = 20 * 365 * 86400.0  # s
BACKDATE = 3600.0  # s that a member's clock may be behind the manager's
NAME = "swarm-ca"


@dataclass(frozen=True, slots=True)
class Authority:
    """`certificate`, `key` and `intermediate` are PEM; the last is "" unless another authority vouches for this one."""

    certificate: str = ""
    key: str = ""
    intermediate: str = ""

    @property
    def id(self) -> str:
        """The identifier of its key in hex: what `issuer_of` its certificates says."""
        return key_id(read_chain(self.certificate)[0])

    @property
    def subject(self) -> str:
        """Its name in DER, base64: the Engine's CertIssuerSubject."""
        return encoded(read_chain(self.certificate)[0].subject.public_bytes())

    @property
    def public_key(self) -> str:
        """Its key in DER, base64: the Engine's CertIssuerPublicKey."""
        form = PublicFormat.SubjectPublicKeyInfo
        return encoded(read_chain(self.certificate)[0].public_key().public_bytes(Encoding.DER, form))


def new_authority(now: float, rng: Random) -> Authority:
    """A self-signed authority. `now` is in seconds since the epoch."""
    key = new_key(rng)
    name = _name()
    return Authority(_authority_certificate(name, key.public_key(), name, key, now, rng), key_text(key))


def given_authority(certificate: str, key: str, now: float) -> Authority:
    """An authority that the user brings, as PEM. Raises MeshnetError for one that cannot sign for a swarm."""
    private, chain = read_key(key), read_chain(certificate)
    if len(chain) != 1:
        raise MeshnetError("the CA certificate must be one certificate, self-signed")
    found = chain[0]
    if found.public_key() != private.public_key():
        raise MeshnetError("the CA certificate and the CA key do not belong together")
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise MeshnetError("the CA certificate is not that of an authority: it may not sign others")
    if not found.not_valid_before_utc.timestamp() <= now < found.not_valid_after_utc.timestamp():
        raise MeshnetError("the CA certificate is not valid now")
    return Authority(found.public_bytes(Encoding.PEM).decode(), key_text(private))


def vouched(authority: Authority, by: Authority, now: float, rng: Random) -> Authority:
    """The same authority with a certificate that `by` signed: whoever trusts `by` accepts what it issues."""
    own, other = read_chain(authority.certificate)[0], read_chain(by.certificate)[0]
    key = own.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signed = _authority_certificate(own.subject, key, other.subject, read_key(by.key), now, rng)
    return Authority(authority.certificate, authority.key, signed)


def issue(authority: Authority, request: str, identity: Identity, now: float, life: float, rng: Random) -> str:
    """A certificate (PEM, with the intermediate behind it if there is one) for the key of a request.

    `life` is in seconds from `now`. Raises MeshnetError for a request that cannot be accepted.
    """
    key, signer = requested_key(request), read_key(authority.key)
    issuer = read_chain(authority.certificate)[0]
    begin = now - min(BACKDATE, life / 10)
    names = [x509.DNSName(UNITS[identity.role]), x509.DNSName(identity.node)]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = (
        _builder(identity.subject(), key, issuer.subject, signer, begin, now + life, rng)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode() + authority.intermediate


def _authority_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    now: float,
    rng: Random,
) -> str:
    builder = (
        _builder(subject, key, issuer, signer, now - BACKDATE, now + ROOT_LIFE, rng)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    begin: float,
    end: float,
    rng: Random,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(rng.getrandbits(158) + 1)
        .not_valid_before(datetime.fromtimestamp(int(begin), UTC))
        .not_valid_after(datetime.fromtimestamp(int(end), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
