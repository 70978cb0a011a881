"""Peers at a manager's port, with certificates of all kinds."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from swarm import SETTINGS, FakeNode

from meshnet.control.manager import Manager
from meshnet.control.operations import Join
from meshnet.control.trust import joining, tls
from meshnet.control.trust.authority import issue, new_authority
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.identity import Identity, key_text, new_key, request_text
from meshnet.errors import MeshnetError
from meshnet.model import NodeDescription

RNG = Random(7)
JOIN = Join(addr="127.0.0.1", description=NodeDescription(hostname="docker-9"))
FAST = replace(SETTINGS, heartbeat=0.2)


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


def shown(manager: Manager, identity: Identity, life: float = 3600.0, begin: float = 0.0) -> ssl.SSLContext:
    """TLS with a certificate that the swarm's own CA signed, whatever it says."""
    key, trust = new_key(RNG), manager.keeper.trust
    chain = issue(trust.signer, request_text(key), identity, (begin or time.time()), life, RNG)
    return tls.client_context(trust.root.certificate, chain, key_text(key))


def stranger(manager: Manager) -> ssl.SSLContext:
    """TLS with a certificate of another CA, by one who knows this swarm's."""
    key, own = new_key(RNG), new_authority(time.time(), RNG)
    assert manager.view.cluster is not None
    identity = Identity("n1", "worker", manager.view.cluster.id)
    chain = issue(own, request_text(key), identity, time.time(), 3600.0, RNG)
    return tls.client_context(manager.keeper.trust.root.certificate, chain, key_text(key))


async def told(http: aiohttp.ClientSession, manager: Manager, context: ssl.SSLContext, node: str) -> Any:
    """What the manager tells this node to do. Raises MeshnetError if it refuses."""
    url = f"https://{manager.listen_address}/v1/nodes/{node}/assignments"
    async with http.get(url, ssl=context, server_hostname=tls.SERVER_NAME, timeout=joining.TIMEOUT) as response:
        if response.status != 200:
            raise await joining.refusal(response)
        return json.loads(await response.read())


@asynccontextmanager
async def reporting(
    http: aiohttp.ClientSession, manager: Manager, context: ssl.SSLContext, node: str
) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """A connection for a node's reports: says a text, and returns the answer; None where the connection has ended."""
    url = f"https://{manager.listen_address}/v1/nodes/{node}/reports"
    async with http.ws_connect(url, ssl=context, server_hostname=tls.SERVER_NAME) as socket:

        async def say(text: str) -> Any:
            await socket.send_str(text)
            answer = await socket.receive(timeout=5.0)
            return json.loads(answer.data) if answer.type is aiohttp.WSMsgType.TEXT else None

        yield say


def member(node: FakeNode, manager: Manager) -> Identity:
    assert manager.view.cluster is not None
    return Identity(node.client.node_id, "worker", manager.view.cluster.id)


async def refused_to_join(manager: Manager, token: str, directory: Path) -> str:
    credentials = Credentials(directory)
    async with session() as http:
        with pytest.raises(MeshnetError) as refusal:
            await joining.join(http, manager.listen_address, token, JOIN, credentials, RNG)
    assert not credentials
    assert not directory.exists()
    return str(refusal.value)
