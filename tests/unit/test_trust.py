"""The pure part of a swarm's trust: tokens, authority, certificates, gossip keys, sealed secrets."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshnet.control.trust import gossipkeys, swarm, tokens
from meshnet.control.trust.authority import Authority, given_authority, issue, new_authority, vouched
from meshnet.control.trust.identity import (
    Identity,
    identity_of,
    issuer_of,
    key_text,
    new_key,
    read_chain,
    renewal_time,
    request_text,
    requested_key,
)
from meshnet.control.trust.rotation import CAConfig, ca_config, reconfigured
from meshnet.control.trust.sealed import seal, unseal
from meshnet.errors import MeshnetError

NOW = 1_800_000_000.0
DAY = 86400.0

# What a real engine (20.10) said of its own swarm: CA certificate and worker token.
REAL_ROOT = """-----BEGIN CERTIFICATE-----
MIIBazCCARCgAwIBAgIUGUwTegdicTYBI722djv5ekTb8aswCgYIKoZIzj0EAwIw
EzERMA8GA1UEAxMIc3dhcm0tY2EwHhcNMjYxMTIwMTAzNTAwWhcNNDYxMTE1MTAz
NTAwWjATMREwDwYDVQQDEwhzd2FybS1jYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABJF41r+DrpvjCeWzvfTv3JjMJQgudCrTKWPmEa/g96O+aF8JlEkpXo46VwPT
wtpamf0teDx3hoKOt3DNT6xbc3mjQjBAMA4GA1UdDwEB/wQEAwIBBjAPBgNVHRMB
Af8EBTADAQH/MB0GA1UdDgQWBBSf80RROcG0DqMDBPhhjUXSUMcWBTAKBggqhkjO
PQQDAgNJADBGAiEAnP9YGyWTIJhMMW0+6LHHU2EEotRj0SjuSgcvM9DzXqkCIQDb
rqQplwObUvTo2ijOJFvwL7m3tlYjQqtsqgE8JKvegg==
-----END CERTIFICATE-----
"""
REAL_TOKEN = "SWMTKN-1-1rta1b5muhsckv648tlb4a1sjuxr1cf49kojf5lkwuvf78rev2-5fbq41hrmi0bjyrglkoa09vl7"


def certificate(authority: Authority, role: str = "worker", life: float = DAY, seed: int = 1) -> str:
    rng = Random(seed)
    return issue(authority, request_text(new_key(rng)), Identity("n1", role, "s1"), NOW, life, rng)


def test_tokens_are_swarms() -> None:
    """A real swarm's token names that swarm's CA, and no other."""
    token = tokens.parse(REAL_TOKEN)
    assert token.pins(REAL_ROOT)
    assert str(token) == REAL_TOKEN
    assert not token.pins(new_authority(NOW, Random(1)).certificate)


@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_tokens_have_fixed_widths(text: bytes, seed: int) -> None:
    """Every token has 50 and 25 digits of base 36, whatever the numbers, and is read again as it was."""
    made = tokens.JoinToken(tokens.digest(text.hex()), tokens.new_secret(Random(seed)))
    assert [len(part) for part in str(made).split("-")] == [6, 1, 50, 25]
    assert tokens.parse(str(made)) == made


@pytest.mark.parametrize(
    "text",
    ["", "SWMTKN-1-bad", REAL_TOKEN[:-1], REAL_TOKEN + "0", REAL_TOKEN.upper(), REAL_TOKEN.replace("-1-", "-2-", 1)],
)
def test_bad_tokens(text: str) -> None:
    """What is no token is refused in Swarm's words, and not repeated: it may be nearly right."""
    with pytest.raises(MeshnetError, match=r"^invalid join token$"):
        tokens.parse(text)


def test_an_authority_is_repeatable_and_of_swarms_shape() -> None:
    """P-256, self-signed, twenty years, named swarm-ca; the same randomness makes the same key."""
    made = read_chain(new_authority(NOW, Random(5)).certificate)[0]
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    made.verify_directly_issued_by(made)
    assert made.subject.rfc4514_string() == "CN=swarm-ca"
    assert (made.not_valid_after_utc.timestamp() - NOW) == pytest.approx(20 * 365 * DAY, abs=1)
    assert read_chain(new_authority(NOW, Random(5)).certificate)[0].public_key() == key
    assert read_chain(new_authority(NOW, Random(6)).certificate)[0].public_key() != key


def test_what_a_certificate_says() -> None:
    """Node, role and swarm are in the subject, role and node in the names; it is backdated by an hour at most."""
    authority = new_authority(NOW, Random(1))
    leaf = read_chain(certificate(authority, "manager", 90 * DAY))[0]
    assert leaf.subject.rfc4514_string() == "CN=n1,OU=swarm-manager,O=s1"
    assert identity_of(leaf) == Identity("n1", "manager", "s1")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["swarm-manager", "n1"]
    assert leaf.not_valid_before_utc.timestamp() == NOW - 3600
    assert leaf.not_valid_after_utc.timestamp() == NOW + 90 * DAY
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    leaf.verify_directly_issued_by(read_chain(authority.certificate)[0])
    assert issuer_of(leaf) == authority.id


def test_a_request_is_only_a_key() -> None:
    """Whatever a request claims to be, the certificate says what the manager decided."""
    key = new_key(Random(1))
    claims = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")])
    request = x509.CertificateSigningRequestBuilder().subject_name(claims).sign(key, hashes.SHA256())
    text = request.public_bytes(Encoding.PEM).decode()
    made = issue(new_authority(NOW, Random(2)), text, Identity("n1", "worker", "s1"), NOW, DAY, Random(3))
    assert identity_of(read_chain(made)[0]).node == "n1"


def tampered() -> str:
    """A request whose signature is of another text."""
    request = x509.load_pem_x509_csr(request_text(new_key(Random(1))).encode())
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()


def foreign(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("x" * 9000, "larger than"),
        (REAL_ROOT, "cannot be read"),
        (tampered(), "not signed by its own key"),
        (foreign(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (foreign(rsa.generate_private_key(65537, 2048)), "P-256"),
    ],
)
def test_bad_requests(text: str, words: str) -> None:
    """A request that is none, is tampered with, or has another kind of key is refused with the reason."""
    with pytest.raises(MeshnetError, match=words):
        requested_key(text)


@given(st.integers(0, 2**32), st.sampled_from([60.0, 3600.0, 90 * DAY]))
def test_renewal_is_in_the_second_half(seed: int, life: float) -> None:
    """A certificate is renewed between 50 and 80 % of its life, and never before it was issued."""
    leaf = read_chain(certificate(new_authority(NOW, Random(1)), life=life))[0]
    due = renewal_time(leaf, Random(seed))
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    assert 0.5 <= (due - begin) / (end - begin) <= 0.8
    assert due > NOW


def test_a_new_authority_is_vouched_for() -> None:
    """What the new authority issues leads to the old one through a certificate that the old one signed."""
    old, new = new_authority(NOW, Random(1)), new_authority(NOW, Random(2))
    leaf, between = read_chain(certificate(vouched(new, old, NOW, Random(3))))
    root = read_chain(old.certificate)[0]
    between.verify_directly_issued_by(root)
    leaf.verify_directly_issued_by(between)
    leaf.verify_directly_issued_by(read_chain(new.certificate)[0])


def test_a_swarms_tokens() -> None:
    """Each role has a token of its own; another secret ends one and leaves the other; the CA's change ends both."""
    rng = Random(1)
    trust = swarm.start(NOW, rng)
    worker, manager = swarm.token(trust, "worker"), swarm.token(trust, "manager")
    assert (swarm.role_of(trust, worker), swarm.role_of(trust, manager)) == ("worker", "manager")
    rotated = swarm.rotate_token(trust, "worker", rng)
    assert swarm.role_of(rotated, manager) == "manager"
    assert swarm.role_of(rotated, swarm.token(rotated, "worker")) == "worker"
    changing = swarm.change_authority(rotated, new_authority(NOW, rng), NOW, rng)
    assert swarm.role_of(changing, manager) == "manager"
    changed = swarm.complete(changing, rng)
    for text in (worker, manager, "", "ö", swarm.token(rotated, "worker")):
        with pytest.raises(MeshnetError, match="A valid join token is necessary to join this cluster"):
            swarm.role_of(changed, text)
    assert tokens.parse(swarm.token(changed, "worker")).pins(changed.root.certificate)


def test_what_a_user_may_ask_of_the_ca() -> None:
    """Expiry, another CA of the swarm's own making, or one that is given; anything else changes nothing."""
    rng = Random(1)
    trust = swarm.start(NOW, rng)
    assert reconfigured(trust, CAConfig(), (), NOW, rng) == trust
    hour = ca_config({"CAConfig": {"NodeCertExpiry": 3600 * 10**9}})
    assert reconfigured(trust, hour, (), NOW, rng).expiry == 3600 * 10**9
    rotated = reconfigured(trust, CAConfig(force_rotate=1), (), NOW, rng)
    assert rotated.coming is not None
    assert rotated.root == trust.root
    own = new_authority(NOW, rng)
    brought = reconfigured(trust, CAConfig(0, 3, own.certificate, own.key), (), NOW, rng)
    assert brought.coming is not None
    assert (brought.coming.certificate, brought.rotations) == (own.certificate, 3)
    for config, words in (
        (CAConfig(node_cert_expiry=60 * 10**9), "minimum certificate expiry time is 1h0m0s"),
        (CAConfig(force_rotate=1, signing_ca_cert=own.certificate), "needs both"),
        (CAConfig(external_cas=({"URL": "https://ca"},)), "external CAs are not supported"),
        (CAConfig(0, 1, own.certificate, trust.root.key), "do not belong together"),
        (CAConfig(0, 1, certificate(own), key_text(new_key(Random(1)))), "may not sign"),
        (CAConfig(0, 1, "x", own.key), "cannot be read"),
        (CAConfig(0, 1, own.certificate, "x"), "private key cannot be read"),
    ):
        with pytest.raises(MeshnetError, match=words):
            reconfigured(trust, config, (), NOW, rng)


def test_an_authority_of_another_time() -> None:
    """A CA that is not valid yet, or no longer, is not taken."""
    made = new_authority(NOW, Random(1))
    for now in (NOW - DAY, NOW + 21 * 365 * DAY):
        with pytest.raises(MeshnetError, match="not valid now"):
            given_authority(made.certificate, made.key, now)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(0, 1000))
def test_gossip_keys_change_without_a_gap(order: list[str], seed: int) -> None:
    """However members take up the steps, each can open what any other seals, and one key is left in the end."""
    rng = Random(seed)
    ring = gossipkeys.begin(gossipkeys.first_keys(NOW, rng), NOW, rng)
    first = gossipkeys.first_keys(NOW, Random(seed))
    holds = dict.fromkeys("abc", first)
    for name in order + list("abc") * 3:
        holds[name] = ring
        for one in holds.values():
            assert all(one.keys[0] in other.keys for other in holds.values())
        versions = {name: held.version for name, held in holds.items()}
        ring = gossipkeys.step(ring, versions, holds, NOW + 1, rng, 3600.0)
    assert len(ring.keys) == 1
    assert ring.keys != first.keys


def test_gossip_keys_in_time() -> None:
    """A key is replaced after its period; a member that is not heard of holds a step up for one period at most."""
    rng = Random(1)
    ring = gossipkeys.first_keys(NOW, rng)
    assert gossipkeys.step(ring, {}, ["a"], NOW + 9, rng, 10.0) == ring
    ring = gossipkeys.step(ring, {}, ["a"], NOW + 10, rng, 10.0)
    assert len(ring.keys) == 2
    assert gossipkeys.step(ring, {}, ["a"], NOW + 19, rng, 10.0) == ring
    used = gossipkeys.step(ring, {}, ["a"], NOW + 20, rng, 10.0)
    assert used.keys == (ring.keys[1], ring.keys[0])
    assert all(len(key) == 32 for key in used.raw())


def test_sealed_secrets() -> None:
    """The store's text says nothing, opens with its key and for its swarm only, and any change is noticed."""
    trust = replace(swarm.start(NOW, Random(1)), coming=new_authority(NOW, Random(2)))
    text = seal(trust, b"k" * 32, "s1", b"n" * 12)
    assert unseal(text, b"k" * 32, "s1") == trust
    for secret in (trust.worker, trust.root.key[30:60], trust.gossip.keys[0]):
        assert secret not in text
    for broken, key, ident in (
        (text, b"x" * 32, "s1"),
        (text, b"k" * 32, "s2"),
        (text[:-8] + "AAAAAAA=", b"k" * 32, "s1"),
        ("", b"k" * 32, "s1"),
    ):
        with pytest.raises(MeshnetError, match="cannot be opened"):
            unseal(broken, key, ident)


def test_names_of_no_member() -> None:
    """A certificate without a swarm's names is nobody's."""
    with pytest.raises(MeshnetError, match="names no node"):
        identity_of(read_chain(REAL_ROOT)[0])
