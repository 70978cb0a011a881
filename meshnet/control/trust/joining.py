"""How a node gets its first certificate: the CA by the token, then a certificate by the token's secret.

The first request is to a manager that proves nothing, and asks only for its CA's certificate. If that is not the one
which the token names, nothing else is said. The second request goes over TLS to someone whom that CA vouches for.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from meshnet.codec import to_json
from meshnet.control.operations import Join
from meshnet.control.trust import tls, tokens
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.identity import key_text, new_key, request_text
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.gossip.rng import Random

TIMEOUT = aiohttp.ClientTimeout(total=5.0)
CA_LIMIT = 65536
CA, CERTIFICATES = "/v1/ca", "/v1/certificates"


async def join(
    http: aiohttp.ClientSession, manager: str, token: str, node: Join, credentials: Credentials, rng: Random
) -> int:
    """Makes this node a member through the manager at host:port: `credentials` has its certificate then.

    Returns the UDP port of the swarm's tunnels.

    Raises MeshnetError if the token, the CA or the manager says no, aiohttp.ClientError or OSError if nobody answers.
    """
    asked = tokens.parse(token)
    root = await fetch_root(http, manager)
    if not asked.pins(root):
        raise MeshnetError(
            f"remote CA does not match fingerprint. The manager at {manager} is not of the swarm that the token is for"
        )
    key = new_key(rng)
    body = {"Token": token, "CSR": request_text(key), "Node": to_json(node)}
    url, context = f"https://{manager}{CERTIFICATES}", tls.client_context(root)
    answer = await ask(http, "POST", url, context, body, TIMEOUT)
    credentials.take(answer["Certificate"], key_text(key), answer["Root"])
    return int(answer["DataPathPort"])


async def fetch_root(http: aiohttp.ClientSession, manager: str) -> str:
    """The CA's certificate (PEM) that a manager shows to anyone. It proves nothing by itself."""
    url, context = f"https://{manager}{CA}", tls.unverified_context()
    async with http.get(url, ssl=context, server_hostname=tls.SERVER_NAME, timeout=TIMEOUT) as response:
        if response.status != 200:
            raise await refusal(response)
        return (await response.content.read(CA_LIMIT)).decode(errors="replace")


async def ask(
    http: aiohttp.ClientSession, method: str, url: str, context: Any, body: Any, timeout: aiohttp.ClientTimeout
) -> Any:
    """One request with JSON both ways. Raises MeshnetError for a refusal, with the manager's words and status."""
    async with http.request(
        method, url, json=body, ssl=context, server_hostname=tls.SERVER_NAME, timeout=timeout
    ) as response:
        if response.status != 200:
            raise await refusal(response)
        return await response.json()


async def refusal(response: aiohttp.ClientResponse) -> MeshnetError:
    """What a manager said instead of doing what was asked."""
    try:
        text = str((await response.json())["message"])
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        text = f"the manager answered {response.status} {response.reason}"
    return NotFoundError(text) if response.status == 404 else MeshnetError(text, response.status)
