"""Certificates, CA and gossip keys that change under a swarm that works, and where keys and secrets lie."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import stat
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from peers import FAST, JOIN, member, refused_to_join, session, shown, told
from swarm import SETTINGS, Swarm, eventually, run, spec, swarm

from meshnet.control.client import ManagerClient, RemovedError
from meshnet.control.manager import Manager
from meshnet.control.objects import Changes
from meshnet.control.operations import remove_node
from meshnet.control.trust.credentials import Credentials
from meshnet.control.trust.identity import issuer_of
from meshnet.control.trust.rotation import CAConfig, reconfigured
from meshnet.errors import MeshnetError
from meshnet.model import SECOND


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


@pytest.mark.parametrize("whose", ["client", "trust.keeper"])
def test_a_machine_that_slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    """A certificate that came due while the machine slept is renewed soon after that: a node's, and the manager's."""
    module = f"meshnet.control.{whose}"
    ahead = SimpleNamespace(time=lambda: time.time() + 0.9 * 3600, monotonic=time.monotonic)
    monkeypatch.setattr(f"{module}.LOOK", 0.05)

    async def scenario() -> None:
        async with swarm(tmp_path, replace(FAST, expiry=3600 * SECOND)) as it:
            node = await it.node("docker-1")
            before, used = node.credentials.certificate, list[object]()
            use = it.manager.keeper.listener.use

            def watched(context: ssl.SSLContext) -> None:
                used.append(context)
                use(context)

            monkeypatch.setattr(it.manager.keeper.listener, "use", watched)
            monkeypatch.setattr(f"{module}.time", ahead)
            await eventually(lambda: used or node.credentials.certificate != before, "it is renewed")
            monkeypatch.undo()

    run(scenario)


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
                await told(http, manager, spare, nodes[0].client.node_id)
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


def test_a_node_that_is_removed_before_a_restart(tmp_path: Path) -> None:
    """The gossip key that a removed node was told is given up also by a manager that is started again before that."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node, away = await it.node("docker-1"), await it.node("docker-2")
            ident, keeper = node.client.node_id, it.manager.keeper
            await away.stop()  # the change of keys waits for it
            await keeper.rotate_gossip_key()
            await eventually(lambda: node.credentials.gossip == keeper.trust.gossip, "the node is told the new key")
            known = node.credentials.gossip.keys
            await it.manager.state.write(lambda view: remove_node(view, view.nodes[ident], force=True))
            assert keeper.trust.gossip.keys == known
        async with swarm(tmp_path, FAST) as it:
            await it.node("docker-2")
            keeper = it.manager.keeper
            await eventually(lambda: not set(known) & set(keeper.trust.gossip.keys), "the keys that it knew are gone")
            rounds = keeper.trust.gossip.version
            await keeper.rotate_gossip_key()
            await eventually(lambda: keeper.trust.gossip.version == rounds + 3, "the next change is an ordinary one")
            assert not keeper.trust.gossip.fresh

    run(scenario)


def test_a_manager_that_is_killed_before_it_has_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that is killed as it makes the key of its store starts another time."""

    class Killed(BaseException):
        pass

    def killed(size: int) -> bytes:
        raise Killed

    async def scenario() -> None:
        monkeypatch.setattr(os, "urandom", killed)
        with pytest.raises(Killed):
            await Manager(tmp_path / "manager", "127.0.0.1:0", SETTINGS).start()
        monkeypatch.undo()
        async with swarm(tmp_path):
            pass

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
