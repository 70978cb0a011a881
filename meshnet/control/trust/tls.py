"""TLS between the members of a swarm: 1.3, or 1.2 at least; who listens shows a certificate, who asks may."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from meshnet.control.trust.identity import MANAGER

SERVER_NAME = MANAGER  # the name that a manager's certificate must have, whatever its address

UNVERIFIED = "CERTIFICATE_VERIFY_FAILED"
# What OpenSSL calls a refusal, and what it means to the one who was refused.
_MEANINGS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not accept this node's certificate, which is of another swarm",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this node's certificate has expired; the node must leave the swarm and join it",
    "TLSV1_ALERT_CERTIFICATE_EXPIRED": "this node's certificate has expired; the node must leave the swarm and join it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this node's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this node's certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "it does not accept this node's certificate, which is of another swarm",
    UNVERIFIED: "its certificate is not that of a manager of this swarm",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED: whose certificate it is does not come into it.
_TIMES = {
    9: "its certificate is not valid yet by this node's clock, which may be slow",
    10: "its certificate has expired by this node's clock, which may be fast",
}


def client_context(root: str, chain: str = "", key: str = "") -> ssl.SSLContext:
    """For a member that asks: trusts `root` alone, and shows `chain` if it has one. All PEM."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, root, chain, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_context(root: str, chain: str, key: str) -> ssl.SSLContext:
    """For a manager that listens: shows `chain`, and asks for a certificate that `root` vouches for. All PEM.

    Who shows none is let in to the two routes that need none; who shows a bad one is not let in at all.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, root, chain, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    # A session that is resumed would pass by what is trusted now.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def unverified_context() -> ssl.SSLContext:
    """For a node that has only a token: it may ask for the CA's certificate, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: ssl._SSLMethod, root: str, chain: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=root)
    if chain:
        _show(context, chain, key)
    return context


def _show(context: ssl.SSLContext, chain: str, key: str) -> None:
    """Gives a context certificate and key, which it takes from files only: from one that is on no disk."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{key}{chain}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Listener:
    """What a listening socket is given once, while certificate and root may change with each handshake.

    `refused` is told OpenSSL's reason for each handshake that failed.
    """

    def __init__(self, context: ssl.SSLContext, refused: Callable[[str], None]) -> None:
        self._now = context
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        self.context.num_tickets = 0
        self.context.sslobject_class = _watched(refused)
        self.context.sni_callback = self._choose

    def use(self, context: ssl.SSLContext) -> None:
        """Handshakes from now on; connections that are open go on."""
        self._now = context

    def _choose(self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _old: ssl.SSLContext) -> None:
        handshake.context = self._now


def _watched(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    """Handshakes whose failure is counted, and told to the peer.

    asyncio closes the socket on a failure without sending TLS's alert. So a certificate that is not accepted is first
    given out as a wait for more, on which asyncio sends what there is. The peer's next byte, its end, or the
    handshake's time limit ends it.
    """

    class Watched(ssl.SSLObject):
        failure: ssl.SSLError | None = None

        def do_handshake(self) -> None:
            if self.failure is not None:
                raise self.failure
            try:
                super().do_handshake()
            except ssl.SSLWantReadError:
                raise
            except ssl.SSLError as error:
                refused(error.reason or "unknown")
                if error.reason != UNVERIFIED:
                    raise
                self.failure = error
                raise ssl.SSLWantReadError from None

    return Watched


def explained(error: BaseException) -> str:
    """A failed request in words, for a log or a person."""
    found: BaseException | None = error
    while found is not None:
        reason = getattr(found, "reason", None)
        if (when := _TIMES.get(getattr(found, "verify_code", 0))) is not None:
            return when
        if isinstance(found, ssl.SSLError) and isinstance(reason, str):
            return _MEANINGS.get(reason, reason)
        inner = getattr(found, "os_error", None) or getattr(found, "certificate_error", None)
        found = inner or found.__cause__ or found.__context__
    plain = getattr(error, "os_error", error)
    return getattr(plain, "strerror", None) or str(plain) or type(plain).__name__
