"""Who may use the manager's port: every route needs a certificate of this swarm, except the two that lead to one.

    GET  /v1/ca              the CA's certificate (PEM), which a join token names
    POST /v1/certificates    {"Token", "CSR", "Node": Join} -> {"ID", "Certificate", "Root", "DataPathPort"}: joining
                             {"CSR"}, with a certificate -> the same: renewal

A handshake with a certificate of another CA, or with one that has expired, fails before any route is reached.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography import x509

from meshnet.codec import from_json
from meshnet.control import operations
from meshnet.control.operations import Join
from meshnet.control.trust import swarm
from meshnet.control.trust.identity import Identity, identity_of, requested_key
from meshnet.control.trust.joining import CA, CERTIFICATES
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.control.manager import Manager

log = logging.getLogger(__name__)
REQUEST_LIMIT = 65536
TOLD = 256
ANYONE: frozenset[str] = frozenset()
MEMBERS = frozenset({"manager", "worker"})
# Resource -> roles that may use it. What is not here needs a certificate, too, and does not exist.
ROLES = {
    CA: ANYONE,
    CERTIFICATES: ANYONE,
    "/v1/nodes/join": MEMBERS,
    "/v1/nodes/{id}/assignments": MEMBERS,
    "/v1/nodes/{id}/reports": MEMBERS,
    "/v1/nodes/{id}/attachments": MEMBERS,
    "/v1/nodes/{id}/questions": MEMBERS,
    "/v1/nodes/{id}/logs/{question}/{task}": MEMBERS,
    "/v1/nodes/{id}/attachments/{task}": MEMBERS,
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request."""

    identity: Identity
    certificate: x509.Certificate


PEER = web.RequestKey("peer", Peer)


class Refused(MeshnetError):
    """A peer that may not do this; `reason` is what it is counted under."""

    def __init__(self, reason: str, message: str, status: int = 403) -> None:
        super().__init__(message, status)
        self.reason = reason


class Admission:
    """Decides for one manager, and counts whom it refuses."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._refused: Counter[str] = Counter()
        self._told: set[tuple[str, str]] = set()

    def statistics(self) -> dict[str, int]:
        """How often peers were refused, by reason; those with `tls_` did not get through the handshake."""
        found = self._refused + self._manager.keeper.handshakes
        return {f"refused_{reason}": count for reason, count in found.items()}

    def routes(self) -> list[web.RouteDef]:
        return [web.get(CA, self._ca), web.post(CERTIFICATES, self._certify)]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        roles = ROLES.get(resource.canonical if resource else "", MEMBERS)
        try:
            if roles:
                request[PEER] = self.peer(request, roles)
            return await handler(request)
        except Refused as refusal:
            self.refused(request, refusal)
            raise

    def refused(self, request: web.Request, refusal: Refused) -> None:
        """Counts it. One line in the log per address and reason; of a peer that goes on there is no more."""
        self._refused[refusal.reason] += 1
        address = request.remote or ""
        known = (address, refusal.reason)
        if known not in self._told and len(self._told) < TOLD:
            self._told.add(known)
            log.warning("refused a peer at %s: %s", address, refusal)

    def peer(self, request: web.Request, roles: frozenset[str] = MEMBERS) -> Peer:
        """The sender, if it may use this route. Raises Refused."""
        shown = _shown(request)
        if not shown:
            raise Refused("no_certificate", "a certificate of this swarm is needed; join it with a token", 401)
        certificate = _read(shown)
        try:
            identity = identity_of(certificate)
        except MeshnetError as error:
            raise Refused("no_member", str(error)) from None
        cluster = self._manager.view.cluster
        if cluster is None or identity.swarm != cluster.id:
            raise Refused("another_swarm", f"the certificate is of another swarm: {identity.swarm}")
        if time.time() >= certificate.not_valid_after_utc.timestamp():
            raise Refused("expired", f"the certificate of node {identity.node} has expired")
        if identity.role not in roles:
            raise Refused("role", f"a {identity.role} may not do this; it takes a {' or '.join(sorted(roles))}")
        asked = request.match_info.get("id", identity.node)
        if asked != identity.node:
            raise Refused("another_node", f"the certificate is that of node {identity.node}, not of node {asked}")
        if identity.node not in self._manager.view.nodes:
            raise Refused("unknown_node", f"node {identity.node} is not in this swarm any more; join again", 404)
        return Peer(identity, certificate)

    async def _ca(self, _request: web.Request) -> web.Response:
        text = self._manager.keeper.trust.root.certificate
        return web.Response(text=text, content_type="application/x-pem-file")

    async def _certify(self, request: web.Request) -> web.Response:
        body = await _small_json(request)
        keeper, manager = self._manager.keeper, self._manager
        token, csr = body.get("Token"), body.get("CSR")
        if not isinstance(csr, str) or not isinstance(token, str | None):
            raise MeshnetError("Token and CSR: strings are needed")
        identity = self._member(request) if token is None else self._newcomer(token)
        try:
            requested_key(csr)
        except MeshnetError as error:
            raise Refused("request", str(error), 400) from None
        if token is not None:
            join = replace(from_json(Join, body.get("Node")), id=identity.node, role=identity.role)
            if join.role == "manager" and join.addr != manager.advertise.rpartition(":")[0]:
                text = "a swarm has one manager so far: join as a worker, with what docker swarm join-token worker says"
                raise Refused("second_manager", text, 501)
            await manager.state.write(
                lambda view: operations.join_node(view, join, manager.ledger(view), manager.new_id, manager.advertise)[
                    0
                ]
            )
        chain = keeper.issue(csr, identity)
        return web.json_response(
            {
                "ID": identity.node,
                "Certificate": chain,
                "Root": keeper.trust.root.certificate,
                "DataPathPort": manager.settings.data_path_port,
            }
        )

    def _member(self, request: web.Request) -> Identity:
        """Who asks for a renewal, in the role that it has now."""
        identity = self.peer(request).identity
        return replace(identity, role=self._manager.view.nodes[identity.node].spec.role)

    def _newcomer(self, token: str) -> Identity:
        cluster = self._manager.view.cluster
        assert cluster is not None
        try:
            role = swarm.role_of(self._manager.keeper.trust, token)
        except MeshnetError as error:
            raise Refused("token", str(error), 400) from None
        return Identity(self._manager.new_id(), role, cluster.id)


async def one_answer(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of the server: whoever shows no certificate gets one answer, and does not keep the connection."""
    if not _shown(request):
        response.force_close()


def _shown(request: web.Request) -> bytes | None:
    """The certificate (DER) that the sender has shown in the handshake."""
    transport = request.transport
    session = transport.get_extra_info("ssl_object") if transport else None
    return session.getpeercert(binary_form=True) if session else None


async def _small_json(request: web.Request) -> dict[str, Any]:
    """The body of a peer that need not be a member: an object of at most `REQUEST_LIMIT` bytes."""
    if request.content_length is None or request.content_length > REQUEST_LIMIT:
        raise MeshnetError(f"a request with a length of at most {REQUEST_LIMIT} bytes is needed", 413)
    try:
        body = json.loads(await request.read())
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise MeshnetError(f"the request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise MeshnetError("an object is needed")
    return body


@lru_cache(maxsize=1024)
def _read(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)
