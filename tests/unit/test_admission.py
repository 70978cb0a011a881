"""Who gets through the manager's port and who does not, over real TLS; certificates, CA and keys that change."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from swarm import SETTINGS, FakeNode, Swarm, eventually, run, spec, swarm

from meshnet.control.client import ManagerClient, RemovedError
from meshnet.control.manager import Manager
from meshnet.control.objects import Changes
from meshnet.control.operations import Join, remove_node
from meshnet.control.trust import joining, tls, tokens
from meshnet.control.trust.authority import issue, new_authority
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.identity import Identity, issuer_of, key_text, new_key, request_text
from meshnet.control.trust.rotation import CAConfig, reconfigured
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import SECOND, NodeDescription

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


async def status(http: aiohttp.ClientSession, manager: Manager, context: ssl.SSLContext, node: str) -> Any:
    url = f"https://{manager.listen_address}/v1/nodes/{node}/status"
    return await joining.ask(http, "PUT", url, context, {"Tasks": {}}, joining.TIMEOUT)


def member(node: FakeNode, manager: Manager) -> Identity:
    assert manager.view.cluster is not None
    return Identity(node.client.node_id, "worker", manager.view.cluster.id)


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
                    await status(http, manager, context, me.node)
                assert refusal.value.status == code
                assert manager.statistics()[f"refused_{reason}"] == before + 1
            with pytest.raises(NotFoundError, match="not in this swarm any more"):
                await status(http, manager, shown(manager, replace(me, node="gone")), "gone")
            assert await status(http, manager, shown(manager, me), me.node)

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
                    await status(http, manager, context, me.node)
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
            assert await status(http, manager, context, me.node)
            refused: list[str] = []

            async with asyncio.timeout(10):
                while not refused:
                    try:
                        await status(http, manager, context, me.node)
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
            monkeypatch.setitem(ROLES, "/v1/nodes/{id}/status", frozenset({"manager"}))
            with pytest.raises(MeshnetError, match="a worker may not do this; it takes a manager"):
                await status(http, manager, context, node.client.node_id)
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
                url = f"https://127.0.0.1:{port}/v1/nodes/x/status"
                with pytest.raises(aiohttp.ClientError) as failure:
                    await joining.ask(http, "PUT", url, files.context(), {}, joining.TIMEOUT)
                assert "not that of a manager" in tls.explained(failure.value)
            finally:
                server.close()
                await server.wait_closed()

    run(scenario)


async def refused_to_join(manager: Manager, token: str, directory: Path) -> str:
    credentials = Credentials(directory)
    async with session() as http:
        with pytest.raises(MeshnetError) as refusal:
            await joining.join(http, manager.listen_address, token, JOIN, credentials, RNG)
    assert not credentials
    assert not directory.exists()
    return str(refusal.value)


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


def test_renewal_under_a_live_stream(tmp_path: Path) -> None:
    """Certificates are renewed again and again before they expire, while stream and heartbeats go on unbroken."""

    async def scenario() -> None:
        settings = replace(FAST, expiry=3 * SECOND)
        async with swarm(tmp_path, settings) as it:
            node = await it.node("docker-1")
            serials = {node.credentials.certificate.serial_number}
            streams = watched_streams(it)
            deadline = node.credentials.certificate.not_valid_after_utc.timestamp()

            def renewed() -> bool:
                serials.add(node.credentials.certificate.serial_number)
                return len(serials) >= 3 and time.time() > deadline

            await eventually(renewed, "the certificate is renewed twice", 15)
            web = await it.service(spec("web"))
            await it.converged(web, 1)
            assert streams == [1]
            assert not any(key.startswith("refused") for key in it.manager.statistics())
            assert it.manager.view.nodes[node.client.node_id].status.state == "ready"

    run(scenario, 30)


def watched_streams(it: Swarm) -> list[int]:
    """The numbers of open streams that were seen, each change once."""
    seen = [it.manager.statistics()["streams"]]

    def look(_: object) -> None:
        now = it.manager.statistics()["streams"]
        if now != seen[-1]:
            seen.append(now)

    it.manager.state.listen(look)
    return seen


def test_an_expired_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A node that was away for too long becomes a new member by its token; without one it says what is to be done."""

    async def scenario() -> None:
        caplog.set_level(logging.INFO)
        async with swarm(tmp_path, replace(FAST, expiry=2 * SECOND)) as it:
            node = await it.node("docker-1")
            await node.stop()
            it.nodes.remove(node)
            await eventually(lambda: node.credentials.expired(time.time()), "the certificate expires")
            without = ManagerClient([it.manager.listen_address], JOIN, Credentials(tmp_path / "docker-1"))
            trying = asyncio.create_task(without.join())
            await eventually(lambda: "the node must leave the swarm and join it" in caplog.text, "it is said")
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            await without.close()
            again = await it.node("docker-1")
            assert again.client.node_id != node.client.node_id

    run(scenario)


def test_the_ca_changes_under_live_streams(tmp_path: Path) -> None:
    """Every node gets a certificate of the new CA without losing its stream; then the old CA is worth nothing."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it, session() as http:
            nodes = [await it.node(f"docker-{n}") for n in (1, 2, 3)]
            manager, keeper = it.manager, it.manager.keeper
            old, token = keeper.trust.root, keeper.tokens()["Worker"]
            spare = shown(manager, member(nodes[0], manager))
            streams = watched_streams(it)
            await keeper.update(lambda trust, now, rng: reconfigured(trust, CAConfig(force_rotate=1), [], now, rng))
            await eventually(lambda: keeper.trust.coming is None, "the new CA is the only one")
            assert keeper.trust.root.id != old.id
            await eventually(lambda: all(n.credentials.root == keeper.trust.root.certificate for n in nodes), "told")
            assert {issuer_of(node.credentials.certificate) for node in nodes} == {keeper.trust.root.id}
            assert streams == [3]
            described = [node.description.tls_info for node in manager.view.nodes.values()]
            await eventually(
                lambda: {n.description.tls_info for n in manager.view.nodes.values()} == {keeper.tls_info()},
                f"the nodes are seen to trust it: {described}",
            )
            with pytest.raises((aiohttp.ClientError, OSError)):
                await status(http, manager, spare, nodes[0].client.node_id)
            assert "remote CA" in await refused_to_join(manager, token, tmp_path / "x")
            newcomer = await it.node("docker-4")
            assert newcomer.credentials.root == keeper.trust.root.certificate
            assert nodes[0].client.connected

    run(scenario, 30)


def test_a_node_that_is_away_holds_the_old_ca(tmp_path: Path) -> None:
    """The old CA stays trusted until a node that is away came back with its certificate, or is removed."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            here, away = await it.node("docker-1"), await it.node("docker-2")
            keeper = it.manager.keeper
            await away.stop()
            it.nodes.remove(away)
            await keeper.update(lambda trust, now, rng: reconfigured(trust, CAConfig(force_rotate=1), [], now, rng))
            coming = keeper.trust.coming
            assert coming is not None
            key = coming.public_key

            def seen() -> bool:
                node = it.manager.view.nodes[here.client.node_id]
                return node.description.tls_info.cert_issuer_public_key == key

            await eventually(seen, "one has it")
            assert keeper.trust.coming is not None
            again = await it.node("docker-2")
            assert again.client.node_id == away.client.node_id
            await eventually(lambda: keeper.trust.coming is None, "the change is over")

    run(scenario, 30)


def test_a_manager_goes_on_in_the_middle_of_a_change(tmp_path: Path) -> None:
    """A manager that is started again has the same CA, tokens and keys, and ends what was begun."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node = await it.node("docker-1")
            keeper = it.manager.keeper
            await keeper.update(lambda trust, now, rng: reconfigured(trust, CAConfig(force_rotate=1), [], now, rng))
            coming, address = keeper.trust.coming, it.manager.listen_address
            assert coming is not None
            await it.manager.stop()
            it.manager = Manager(tmp_path / "manager", address, FAST)
            await it.manager.start()
            again = it.manager.keeper
            assert coming.id in {again.trust.signer.id, again.trust.root.id}
            await eventually(lambda: again.trust.coming is None, "the change is over")
            await eventually(lambda: node.credentials.root == coming.certificate, "the node trusts the new CA")

    run(scenario, 30)


def test_gossip_keys_rotate(tmp_path: Path) -> None:
    """A new gossip key reaches every node as one to open with, then to seal with, then alone; and is kept."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            nodes = [await it.node(f"docker-{n}") for n in (1, 2)]
            keeper = it.manager.keeper
            old = keeper.trust.gossip.keys
            heard: dict[str, list[tuple[str, ...]]] = {node.name: [] for node in nodes}
            for node in nodes:
                node.client.on_keys(lambda keys, name=node.name: heard[name].append(keys.keys))  # type: ignore[misc]
            await keeper.rotate_gossip_key()
            new = keeper.trust.gossip.fresh
            await eventually(lambda: keeper.trust.gossip.keys == (new,), "the new key is alone")
            steps = [(*old, new), (new, *old), (new,)]
            await eventually(lambda: all(each == steps for each in heard.values()), f"each step, in order: {heard}")
            assert Credentials(tmp_path / "docker-1").gossip == keeper.trust.gossip

    run(scenario)


def test_a_removed_node(tmp_path: Path) -> None:
    """A node that was removed is refused despite its certificate, its client ends, and others change the gossip key."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node, other = await it.node("docker-1"), await it.node("docker-2")
            ident, known = node.client.node_id, other.credentials.gossip.keys

            def remove(view: Any) -> Changes:
                return remove_node(view, view.nodes[ident], force=True)

            await it.manager.state.write(remove)
            with pytest.raises(RemovedError, match="not in this swarm any more"):
                await node.client.heartbeats()
            await eventually(lambda: it.manager.statistics()["streams"] == 1, "its stream has ended")
            with pytest.raises(RemovedError):
                async for _ in node.client.assignments():
                    pass
            assert it.manager.statistics()["refused_unknown_node"] >= 1
            await eventually(
                lambda: not set(known) & set(other.credentials.gossip.keys), "the key that it knew is gone"
            )

    run(scenario)


def test_secrets_stay_where_they_belong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No key, secret or token is in a log, in the store or in what others may read."""

    async def scenario() -> None:
        caplog.set_level(logging.DEBUG)
        async with swarm(tmp_path, FAST) as it:
            node = await it.node("docker-1")
            keeper = it.manager.keeper
            await refused_to_join(it.manager, keeper.tokens()["Worker"][:-1] + "!", tmp_path / "x")
            await keeper.update(
                lambda trust, now, rng: reconfigured(trust, CAConfig(force_rotate=1), ["worker"], now, rng)
            )
            await keeper.rotate_gossip_key()
            await eventually(lambda: not keeper.trust.gossip.fresh and not keeper.trust.coming, "all is changed")
            trust = keeper.trust
            secrets = [trust.worker, trust.manager, *trust.gossip.keys]
            secrets += [line for text in (trust.root.key, node.credentials.key) for line in text.splitlines()[1:-1]]
        text = caplog.text
        stored = b"".join(path.read_bytes() for path in (tmp_path / "manager").iterdir())
        for secret in secrets:
            assert secret not in text
            assert secret.encode() not in stored
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        for name in ("manager", "docker-1"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700

    run(scenario)


def test_a_store_without_its_key(tmp_path: Path) -> None:
    """A store whose sealing key is gone, damaged or another is refused, and its secrets are not made anew."""

    async def scenario() -> None:
        async with swarm(tmp_path):
            pass
        key = tmp_path / "manager" / "store.key"
        kept = key.read_bytes()
        for damage, words in ((kept[:5], "damaged"), (bytes(32), "cannot be opened"), (None, "cannot be read")):
            key.write_bytes(damage) if damage is not None else key.unlink()
            with pytest.raises(MeshnetError, match=words):
                await Manager(tmp_path / "manager", "127.0.0.1:0", SETTINGS).start()
        key.write_bytes(kept)
        async with swarm(tmp_path):
            pass

    run(scenario)


def test_credentials_that_are_damaged(tmp_path: Path) -> None:
    """A node's certificate that cannot be read is an error in one line that names the place."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            await it.node("docker-1")

    run(scenario)
    for name, text in (("swarm-node.pem", "x"), ("gossip-keys.json", "["), ("swarm-node.pem", "")):
        directory = tmp_path / "docker-1"
        kept = (directory / name).read_text()
        (directory / name).write_text(text)
        with pytest.raises(MeshnetError, match=f"{directory}: this node's certificate cannot be used"):
            Credentials(directory)
        (directory / name).write_text(kept)
    assert json.loads((tmp_path / "docker-1" / "gossip-keys.json").read_text())["Version"] == 1
    assert Credentials(tmp_path / "docker-1")
