"""A node's certificate, key, root and gossip keys in its directory, all readable by root only."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

from cryptography import x509

from meshnet.codec import from_json, to_json
from meshnet.control.trust.gossipkeys import GossipKeys
from meshnet.control.trust.identity import Identity, identity_of, key_text, read_chain, read_key
from meshnet.control.trust.tls import client_context
from meshnet.errors import MeshnetError
from meshnet.files import replace_text

NODE, ROOT, KEYS = "swarm-node.pem", "swarm-root-ca.crt", "gossip-keys.json"


class Credentials:
    """What a node has of its swarm's trust; empty until it joined. Kept in `directory`, which is made if needed.

    Certificate and key are one file, so that no crash leaves two that do not belong together. Raises MeshnetError if
    what is there cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.chain = self.key = self.root = ""
        self.gossip = GossipKeys()
        self._certificate: x509.Certificate | None = None
        self._context: ssl.SSLContext | None = None
        if (directory / NODE).exists() and (directory / ROOT).exists():
            self._read()

    def __bool__(self) -> bool:
        return self._certificate is not None

    @property
    def certificate(self) -> x509.Certificate:
        """The node's own certificate. Raises MeshnetError if it has none."""
        if self._certificate is None:
            raise MeshnetError("this node has no certificate of a swarm")
        return self._certificate

    @property
    def identity(self) -> Identity:
        return identity_of(self.certificate)

    def expired(self, now: float) -> bool:
        """Whether the certificate is worth nothing any more at `now`, seconds since the epoch."""
        return now >= self.certificate.not_valid_after_utc.timestamp()

    def context(self) -> ssl.SSLContext:
        """For requests to managers. The same one until something changes, so that open connections are used again."""
        if self._context is None:
            self._context = client_context(self.root, self.chain, self.key)
        return self._context

    def take(self, chain: str, key: str, root: str) -> None:
        """Keeps a new certificate. Raises MeshnetError if it is not for this key or not of a swarm's node."""
        certificate = read_chain(chain)[0]
        identity_of(certificate)
        if certificate.public_key() != read_key(key).public_key():
            raise MeshnetError("the manager sent a certificate for another key")
        read_chain(root)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_text(self._directory / ROOT, root)
        replace_text(self._directory / NODE, key_text(read_key(key)) + chain)
        self.chain, self.key, self.root, self._certificate, self._context = chain, key, root, certificate, None

    def trust(self, root: str) -> None:
        """Trusts this CA, and no longer the one before."""
        if root == self.root:
            return
        read_chain(root)
        replace_text(self._directory / ROOT, root)
        self.root, self._context = root, None

    def keep(self, keys: GossipKeys) -> None:
        """Keeps the gossip keys for a start without a manager."""
        if keys != self.gossip:
            replace_text(self._directory / KEYS, json.dumps(to_json(keys)))
            self.gossip = keys

    def forget(self) -> None:
        """Removes everything: the node is in no swarm."""
        for name in (NODE, ROOT, KEYS):
            (self._directory / name).unlink(missing_ok=True)
        self.chain = self.key = self.root = ""
        self.gossip = GossipKeys()
        self._certificate = self._context = None

    def _read(self) -> None:
        try:
            text, self.root = (self._directory / NODE).read_text(), (self._directory / ROOT).read_text()
            begin = text.index("-----BEGIN CERTIFICATE")
            self.key, self.chain = text[:begin], text[begin:]
            self._certificate = read_chain(self.chain)[0]
            identity_of(self._certificate)
            read_key(self.key)
            kept = self._directory / KEYS
            self.gossip = from_json(GossipKeys, json.loads(kept.read_text())) if kept.exists() else GossipKeys()
        except (OSError, ValueError, MeshnetError) as error:
            raise MeshnetError(f"{self._directory}: this node's certificate cannot be used: {error}") from None
