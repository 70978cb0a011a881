"""Who gets through the manager's port and who does not, over real TLS."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from peers import JOIN, RNG, member, refused_to_join, session, shown, stranger, told
from swarm import run, swarm

from meshnet.control.trust import joining, tls, tokens
from meshnet.control.trust.authority import issue
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.identity import Identity, key_text, new_key, request_text
from meshnet.control.trust.rotation import CAConfig, reconfigured
from meshnet.errors import MeshnetError, NotFoundError


def test_refused_peers(tmp_path: Path) -> None:
    """Only a certificate of this swarm, for this node and in time, is let in; each refusal has a reason and a count."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager = it.manager
            node, other = await it.node("docker-1"), await it.node("docker-2")
            me = member(node, manager)
            cases = (
                (tls.client_context(manager.keeper.trust.root.certificate), 401, "certificate", "no_certificate"),
                (shown(manager, replace(me, swarm="another")), 403, "of another swarm", "another_swarm"),
                (shown(manager, replace(me, node="nobody")), 403, "not of node", "another_node"),
                (other.credentials.context(), 403, f"not of node {me.node}", "another_node"),
            )
            for context, code, words, reason in cases:
                before = manager.statistics().get(f"refused_{reason}", 0)
                with pytest.raises(MeshnetError, match=words) as refusal:
                    await told(http, manager, context, me.node)
                assert refusal.value.status == code
                assert manager.statistics()[f"refused_{reason}"] == before + 1
            with pytest.raises(NotFoundError, match="not in this swarm any more"):
                await told(http, manager, shown(manager, replace(me, node="gone")), "gone")
            assert await told(http, manager, shown(manager, me), me.node)

    run(scenario)


def test_peers_that_fail_the_handshake(tmp_path: Path) -> None:
    """A certificate of another CA, an expired one, and plain text end in the handshake; each is counted."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager, node = it.manager, await it.node("docker-1")
            me = member(node, manager)
            old = shown(manager, me, life=60.0, begin=time.time() - 3600)
            for context, words in ((stranger(manager), "another swarm"), (old, "expired")):
                before = sum(manager.keeper.handshakes.values())
                with pytest.raises((aiohttp.ClientError, OSError)) as failure:
                    await told(http, manager, context, me.node)
                assert words in tls.explained(failure.value)
                assert sum(manager.keeper.handshakes.values()) > before
            with pytest.raises((aiohttp.ClientError, OSError)):
                await http.get(f"http://{manager.listen_address}/v1/ca")
            assert manager.keeper.handshakes["tls_http_request"]
            assert manager.view.nodes[me.node].status.state == "ready"

    run(scenario)


def test_a_certificate_that_expires_on_an_open_connection(tmp_path: Path) -> None:
    """A connection that was let in is let in no longer than its certificate lasts."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager, node = it.manager, await it.node("docker-1")
            me = member(node, manager)
            context = shown(manager, me, life=2.0)
            assert await told(http, manager, context, me.node)
            refused: list[str] = []

            async with asyncio.timeout(10):
                while not refused:
                    try:
                        await told(http, manager, context, me.node)
                    except MeshnetError as error:
                        refused.append(str(error))
            assert refused == [f"the certificate of node {me.node} has expired"]

    run(scenario)


def test_roles_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route for managers refuses a worker; what a node says of its role counts for nothing."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager, node = it.manager, await it.node("docker-1")
            url = f"https://{manager.listen_address}/v1/nodes/join"
            claims = {"Role": "manager", "ID": "x", "Addr": "127.0.0.1", "Description": {"Hostname": "docker-1"}}
            context = node.credentials.context()
            answer = await joining.ask(http, "POST", url, context, claims, joining.TIMEOUT)
            assert answer["ID"] == node.client.node_id
            assert manager.view.nodes[node.client.node_id].spec.role == "worker"
            monkeypatch.setitem(ROLES, "/v1/nodes/{id}/assignments", frozenset({"manager"}))
            with pytest.raises(MeshnetError, match="a worker may not do this; it takes a manager"):
                await told(http, manager, context, node.client.node_id)
            assert manager.statistics()["refused_role"] == 1

    from meshnet.control.admission import ROLES

    run(scenario)


def test_a_worker_cannot_pose_as_a_manager(tmp_path: Path) -> None:
    """A member asks TLS for a manager: one who shows a worker's certificate of the same swarm is not spoken to."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            files = node.credentials
            poser = tls.server_context(files.root, files.chain, files.key)
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=poser)
            try:
                port = server.sockets[0].getsockname()[1]
                url = f"https://127.0.0.1:{port}/v1/nodes/x/attachments"
                with pytest.raises(aiohttp.ClientError) as failure:
                    await joining.ask(http, "POST", url, files.context(), {}, joining.TIMEOUT)
                assert "not that of a manager" in tls.explained(failure.value)
            finally:
                server.close()
                await server.wait_closed()

    run(scenario)


def test_clocks_that_differ(tmp_path: Path) -> None:
    """A node whose clock is slow or fast by more than certificates allow for is told that, not that the manager is
    another swarm's."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            files, trust = node.credentials, it.manager.keeper.trust
            me, now = Identity("m", "manager", files.identity.swarm), time.time()
            for begin, words in ((now + 7200, "not valid yet by this node's clock"), (now - 7200, "has expired by")):
                key = new_key(RNG)
                chain = issue(trust.signer, request_text(key), me, begin, 3600.0, RNG)
                shows = tls.server_context(files.root, chain, key_text(key))
                server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=shows)
                try:
                    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/nodes/x/attachments"
                    with pytest.raises(aiohttp.ClientError) as failure:
                        await joining.ask(http, "POST", url, files.context(), {}, joining.TIMEOUT)
                    assert words in tls.explained(failure.value)
                finally:
                    server.close()
                    await server.wait_closed()

    run(scenario)


def test_wrong_tokens(tmp_path: Path) -> None:
    """A wrong secret admits nobody and changes nothing; neither does a token of the past."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            manager = it.manager
            worker = manager.keeper.tokens()["Worker"]
            wrong = str(replace(tokens.parse(worker), secret="0" * 25))
            words = "A valid join token is necessary to join this cluster"
            assert words in await refused_to_join(manager, wrong, tmp_path / "x")
            assert await refused_to_join(manager, "SWMTKN-1-bad", tmp_path / "x") == "invalid join token"
            assert manager.statistics()["refused_token"] == 1
            await manager.keeper.update(lambda trust, now, rng: reconfigured(trust, CAConfig(), ["worker"], now, rng))
            assert words in await refused_to_join(manager, worker, tmp_path / "x")
            assert manager.keeper.tokens()["Worker"] != worker
            assert not manager.view.nodes

    run(scenario)


def test_a_manager_that_the_token_does_not_name(tmp_path: Path) -> None:
    """The token's secret is not said to a manager whose CA is another than the token's."""

    async def scenario() -> None:
        async with swarm(tmp_path / "one") as it, swarm(tmp_path / "two") as other:
            token = it.manager.keeper.tokens()["Worker"]
            words = await refused_to_join(other.manager, token, tmp_path / "x")
            assert "remote CA does not match fingerprint" in words
            assert tokens.parse(token).secret not in words
            assert "refused_token" not in other.manager.statistics()

    run(scenario)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "object is needed"),
        (b"{}", 400, "strings are needed"),
        (b'{"CSR": 5, "Token": "x"}', 400, "strings are needed"),
        (b'{"CSR": "x"}', 401, "a certificate of this swarm is needed"),
        (b'{"CSR": "x", "Token": "x"}', 400, "valid join token"),
        (b"x" * 70000, 413, "65536"),
    ],
)
def test_bad_certificate_requests(tmp_path: Path, body: bytes, code: int, words: str) -> None:
    """What cannot be a request for a certificate is refused before anything is done about it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            url, root = f"https://{it.manager.listen_address}/v1/certificates", it.manager.keeper.trust.root
            context = tls.client_context(root.certificate)
            async with http.post(url, data=body, ssl=context, server_hostname=tls.SERVER_NAME) as response:
                assert response.status == code
                assert words in (await response.json())["message"]
            assert not it.manager.view.nodes

    run(scenario)


def test_a_tampered_request_makes_no_node(tmp_path: Path) -> None:
    """A request that is not signed by its own key is refused even with a good token, and no node comes of it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            url, keeper = f"https://{it.manager.listen_address}/v1/certificates", it.manager.keeper
            body = {"Token": keeper.tokens()["Manager"], "CSR": "-----BEGIN", "Node": {}}
            context = tls.client_context(keeper.trust.root.certificate)
            with pytest.raises(MeshnetError, match="certificate request cannot be read"):
                await joining.ask(http, "POST", url, context, body, joining.TIMEOUT)
            assert it.manager.statistics()["refused_request"] == 1
            assert not it.manager.view.nodes

    run(scenario)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"Addr": "nowhere"}, "Addr: 'nowhere' is no IPv4 address"),
        ({"Addr": ""}, "its hostname and its address"),
        ({"Description": {"Hostname": "x" * 300}}, "Hostname: at most 253"),
        ({"Availability": "sometimes"}, "Availability: active, pause or drain"),
        ({"Labels": 5}, "Labels: an object is needed"),
    ],
)
def test_newcomers_that_say_nonsense(tmp_path: Path, says: dict[str, Any], words: str) -> None:
    """A good token is not enough: what a newcomer says of itself must make sense, or no node comes of it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            url, keeper = f"https://{it.manager.listen_address}/v1/certificates", it.manager.keeper
            node = {"Addr": "127.0.0.1", "Description": {"Hostname": "x"}, **says}
            body = {"Token": keeper.tokens()["Worker"], "CSR": request_text(new_key(RNG)), "Node": node}
            context = tls.client_context(keeper.trust.root.certificate)
            with pytest.raises(MeshnetError, match=words):
                await joining.ask(http, "POST", url, context, body, joining.TIMEOUT)
            assert not it.manager.view.nodes

    run(scenario)


def test_the_manager_token_makes_a_manager(tmp_path: Path) -> None:
    """The token decides the role, and the certificate carries it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            keeper, credentials = it.manager.keeper, Credentials(tmp_path / "x")
            token = keeper.tokens()["Manager"]
            await joining.join(http, it.manager.listen_address, token, JOIN, credentials, RNG)
            assert credentials.identity.role == "manager"
            assert it.manager.view.nodes[credentials.identity.node].spec.role == "manager"
            away = replace(JOIN, addr="127.0.0.7")
            with pytest.raises(MeshnetError, match="a swarm has one manager so far"):
                await joining.join(http, it.manager.listen_address, token, away, Credentials(tmp_path / "y"), RNG)
            assert len(it.manager.view.nodes) == 1

    run(scenario)
