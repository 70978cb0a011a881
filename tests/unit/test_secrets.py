"""Secrets and configs: over the API, in the store, and on their way to the nodes that need them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from api_world import Api, served, service
from swarm import FakeNode, Swarm, eventually, run, swarm

from meshnet.api.server import application
from meshnet.control.vault import Vault
from meshnet.errors import MeshnetError

PASSWORD = b64encode(b"correct horse battery staple").decode()


def file(name: str) -> dict[str, Any]:
    return {"Name": name, "UID": "0", "GID": "0", "Mode": 292}


def using(name: str, secrets: dict[str, str], configs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A service with the secrets and configs given as name -> id."""
    body = service(name, **more)
    body["TaskTemplate"]["ContainerSpec"] |= {
        "Secrets": [{"File": file(key), "SecretID": ident, "SecretName": key} for key, ident in secrets.items()],
        "Configs": [
            {"File": file("/" + key), "ConfigID": ident, "ConfigName": key} for key, ident in (configs or {}).items()
        ],
    }
    return body


async def made(api: Api, kind: str, name: str, data: str = PASSWORD) -> str:
    answer = await api.post(f"/{kind}s/create", {"Name": name, "Labels": {"a": "b"}, "Data": data})
    assert list(answer) == ["ID"]
    return str(answer["ID"])


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_over_the_api(tmp_path: Path, kind: str) -> None:
    """Secrets and configs are created, listed, shown (a secret without its data), labelled and removed."""

    async def scenario(api: Api) -> None:
        ident = await made(api, kind, "first")
        shown = await api.get(f"/{kind}s/first")
        assert shown["ID"] == ident
        expected: dict[str, Any] = {"Name": "first", "Labels": {"a": "b"}}
        if kind == "config":
            expected["Data"] = PASSWORD
        assert shown["Spec"] == expected
        assert set(shown) == {"ID", "Version", "CreatedAt", "UpdatedAt", "Spec"}
        await made(api, kind, "second")
        for filters, names in (
            ({}, ["first", "second"]),
            ({"name": {"fi": True}}, ["first"]),
            ({"names": ["fi", "second"]}, ["second"]),
            ({"id": [ident[:8]]}, ["first"]),
            ({"label": ["a=c"]}, []),
        ):
            assert [item["Spec"]["Name"] for item in await api.get(f"/{kind}s", filters=filters)] == names
        version = shown["Version"]["Index"]
        spec = {"Name": "first", "Labels": {"c": "d"}}
        await api.post(f"/{kind}s/{ident}/update", spec, version=version)
        assert (await api.get(f"/{kind}s/{ident[:6]}"))["Spec"]["Labels"] == {"c": "d"}
        assert await api.refused("POST", f"/{kind}s/first/update", spec, version=version) == (
            500,
            "update out of sequence",
        )
        version = (await api.get(f"/{kind}s/first"))["Version"]["Index"]
        for change in ({"Name": "other"}, {"Name": "first", "Data": b64encode(b"x").decode()}):
            assert await api.refused("POST", f"/{kind}s/first/update", change, version=version) == (
                400,
                "only updates to Labels are allowed",
            )
        await api.delete(f"/{kind}s/first")
        assert await api.refused("GET", f"/{kind}s/first") == (404, f"{kind} first not found")
        assert await api.refused("DELETE", f"/{kind}s/first") == (404, f"{kind} first not found")

    served(tmp_path, scenario)


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_refusals(tmp_path: Path, kind: str) -> None:
    """What cannot be a secret or a config is refused in Swarm's words, and one in use is not removed."""
    limit = 512_000 if kind == "secret" else 1_024_000
    size = f"{kind} data must be larger than 0 and less than {limit} bytes"

    async def scenario(api: Api) -> None:
        ident = await made(api, kind, "pw")
        for body, status, words in (
            ({"Name": "pw", "Data": PASSWORD}, 409, f"{kind} pw already exists"),
            ({"Name": "-x", "Data": PASSWORD}, 400, "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"),
            ({"Name": "x" * 65, "Data": PASSWORD}, 400, "invalid name"),
            ({"Name": "x"}, 400, size),
            ({"Name": "x", "Data": "!"}, 400, "Data: illegal base64 data"),
            ({"Name": "x", "Data": b64encode(bytes(limit)).decode()}, 400, size),
            ({"Name": "x", "Data": 5}, 400, "Data: a string is needed"),
            ({"Name": "x", "Data": PASSWORD, "Templating": {"Name": "golang"}}, 501, "Templating: templates"),
        ):
            answer = await api.refused("POST", f"/{kind}s/create", body)
            assert (answer[0], words in answer[1]) == (status, True), answer
        one = {"pw": ident}
        await api.post("/services/create", using("a", one if kind == "secret" else {}, one if kind == "config" else {}))
        assert await api.refused("DELETE", f"/{kind}s/pw") == (
            400,
            f"{kind} 'pw' is in use by the following service: a",
        )
        await api.post("/services/create", using("b", one if kind == "secret" else {}, one if kind == "config" else {}))
        assert (await api.refused("DELETE", f"/{kind}s/pw"))[1].endswith("the following services: a, b")
        none = {"pw": "nosuch", "other": ident}
        answer = await api.refused(
            "POST", "/services/create", using("c", none if kind == "secret" else {}, none if kind == "config" else {})
        )
        assert answer == (400, f"{kind}s not found: pw, other")
        twice = using("c", {}, {})
        field, key = ("Secrets", "Secret") if kind == "secret" else ("Configs", "Config")
        reference = {"File": file("x"), f"{key}ID": ident, f"{key}Name": "pw"}
        twice["TaskTemplate"]["ContainerSpec"][field] = [reference, reference]
        assert await api.refused("POST", "/services/create", twice) == (
            400,
            f"{kind} references 'pw' and 'pw' have a conflicting target: 'x'",
        )

    served(tmp_path, scenario)


def test_the_store_holds_no_secret(tmp_path: Path) -> None:
    """Neither store nor log has the data of a secret; the key file belongs to its owner alone."""

    async def scenario(api: Api) -> None:
        await made(api, "secret", "pw")

    served(tmp_path, scenario)
    store = tmp_path / "store"
    for path in (item for item in store.iterdir() if item.is_file()):
        content = path.read_bytes()
        assert PASSWORD.encode() not in content
        assert b"correct horse" not in content
    with contextlib.closing(sqlite3.connect(store / "swarm.db")) as db:
        rows = db.execute("SELECT value FROM kv WHERE key LIKE 'secret/%'").fetchall()
    assert json.loads(rows[0][0])["Sealed"]
    assert stat.S_IMODE((store / "store.key").stat().st_mode) == 0o600


def test_the_key_is_needed(tmp_path: Path) -> None:
    """Without its key, or with another one, a manager that has secrets does not start, and says why."""

    async def scenario(api: Api) -> None:
        await made(api, "secret", "pw")

    async def nothing(api: Api) -> None:
        assert len(await api.get("/secrets")) == 1

    served(tmp_path, scenario)
    served(tmp_path, nothing)
    key = tmp_path / "store" / "store.key"
    right = key.read_bytes()
    for wrong, words in ((b"short", "is damaged"), (bytes(32), "cannot be opened")):
        key.write_bytes(wrong)
        with pytest.raises(MeshnetError, match=words):
            served(tmp_path, nothing)
    key.unlink()
    with pytest.raises(MeshnetError, match="cannot be read"):
        served(tmp_path, nothing)
    assert not key.exists(), "a new key would only hide what happened"
    key.write_bytes(right)
    served(tmp_path, nothing)


def test_what_is_sealed_stays_in_its_place() -> None:
    """A sealed secret opens under its own id only, and no two sealings are alike."""
    vault = Vault(bytes(range(32)))
    sealed = vault.seal("data", "one")
    assert vault.open(sealed, "one") == "data"
    assert vault.seal("data", "one") != sealed
    for other, ident in ((vault, "two"), (Vault(bytes(32)), "one")):
        with pytest.raises(MeshnetError):
            other.open(sealed, ident)


def test_only_nodes_that_need_it_get_a_secret(tmp_path: Path) -> None:
    """A node gets a secret with the first task that needs it, keeps it off its disk, and loses it with the last."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            first = await it.node("docker-1", cache=tmp_path / "one.json")
            second = await it.node("docker-2", cache=tmp_path / "two.json")
            await _deliver(it, first, second, tmp_path)

    run(scenario)


async def _deliver(it: Swarm, first: FakeNode, second: FakeNode, tmp_path: Path) -> None:
    async with TestClient(TestServer(application(it.manager))) as client:

        async def post(path: str, body: Any) -> Any:
            response = await client.post(path, json=body)
            assert response.status < 300, await response.text()
            return await response.json(content_type=None)

        pw = (await post("/secrets/create", {"Name": "pw", "Data": PASSWORD}))["ID"]
        cfg = (await post("/configs/create", {"Name": "cfg", "Data": "YQ=="}))["ID"]
        body = using("db", {"pw": pw}, {"cfg": cfg})
        body["TaskTemplate"]["Placement"] = {"Constraints": ["node.hostname==docker-1"]}
        db = (await post("/services/create", body))["ID"]
        await it.converged(db, 1)
        assert {s.spec.data for s in first.now.secrets.values()} == {PASSWORD}
        assert {c.spec.data for c in first.now.configs.values()} == {"YQ=="}
        assert not second.now.secrets
        assert not second.now.configs
        await eventually((tmp_path / "one.json").exists, "the assignments are on the disk")
        await eventually(lambda: db in (tmp_path / "one.json").read_text(), "the service is on the disk")
        assert PASSWORD not in (tmp_path / "one.json").read_text()
        assert (await client.delete(f"/services/{db}")).status == 200
        await eventually(lambda: not first.now.secrets and not first.now.configs, "the secret is gone with its task")
