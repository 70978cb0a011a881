"""`meshnet stack`: what is refused names its place in the file, and what was made before stays no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_engine import answering, meshnet

from meshnet.errors import ConflictError, MeshnetError

STACK = """\
services:
  web:
    image: i
    networks: [back]
    secrets: [pw]
  db:
    image: i
networks:
  back: {}
secrets:
  pw: {file: pw}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pw").write_text("secret")
    (tmp_path / "s.yml").write_text(STACK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("refused", "said", "left"),
    [
        ("POST /networks/create b_default", "1:1: network b_default: no", ["network b_back"]),
        ("POST /networks/create b_back", "9:9: networks.back: no", []),
        ("POST /secrets/create b_pw", "11:7: secrets.pw: no", ["network b_back", "network b_default"]),
        ("POST /services/create b_web", "3:5: services.web: no", ["network b_default", "secret b_pw"]),
        ("POST /services/create b_db", "7:5: services.db: no", ["network b_default", "secret b_pw", "service b_web"]),
    ],
)
def test_what_the_engine_refuses(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
    said: str,
    left: list[str],
) -> None:
    """A refusal of the engine names the file, the line and what it is about, then what was made and how it goes."""
    client = answering(monkeypatch, {refused: ConflictError("no")})
    code, _, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    place, rest = err.splitlines()
    assert (code, place) == (1, f"s.yml:{said}")
    assert client.changes[-1] == refused
    assert [what for what in left if what not in rest] == []
    assert rest.endswith("; to remove the whole stack: meshnet stack rm b" if left else "nothing was made or changed")


def test_what_was_pruned_is_a_change(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that fails after it has removed a service does not say that nothing has changed."""
    (folder / "s.yml").write_text("services: {web: {image: i}}")
    table: dict[str, Any] = {
        "GET /networks": [{"Id": "n", "Name": "b_default"}],
        "POST /services/create b_web": ConflictError("no"),
    }
    client = answering(monkeypatch, table)
    plain = client.get
    there = {"ID": "o", "Spec": {"Name": "b_old"}}
    monkeypatch.setattr(client, "get", lambda path, **asked: [there] if asked else plain(path))
    code, out, err = meshnet(capsys, monkeypatch, "stack", "deploy", "--prune", "-c", "s.yml", "b")
    assert (code, out.splitlines()[0]) == (1, "Removing service b_old")
    assert err.splitlines()[1].startswith("meshnet: made or changed before that: service b_old (removed); ")


def test_an_interruption_says_what_is_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle leaves what was made, and says what that is and how it goes."""
    answering(monkeypatch, {"POST /services/create b_db": KeyboardInterrupt()})
    code, _, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    assert code == 130
    assert err.startswith("meshnet: interrupted; made or changed before that: network b_")
    assert err.endswith("service b_web; to remove the whole stack: meshnet stack rm b\n")


def test_nobody_is_no_place(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that ends in the middle is no mistake of the file; what was made is said all the same."""
    answering(monkeypatch, {"POST /services/create b_web": MeshnetError("gone", 503)})
    code, _, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    assert (code, err.splitlines()[0]) == (1, "meshnet: gone")
    assert "network b_back" in err


def test_what_is_nowhere_is_known_before(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and external things that do not exist are all said with their places, and nothing is made."""
    text = STACK.replace("image: i", "image: j").replace("back: {}", "back: {external: true}")
    (folder / "s.yml").write_text(text.replace("{file: pw}", "{external: true, name: far}"))
    client = answering(monkeypatch, {})
    code, out, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    assert (code, out, client.changes) == (1, "", [])
    assert err.splitlines() == [
        "s.yml:3:12: services.web.image: No such image: j",
        "s.yml:7:12: services.db.image: No such image: j",
        "s.yml:9:9: networks.back: there is no network back; make it with: meshnet network create back",
        "s.yml:11:7: secrets.pw: there is no secret far; make it with: meshnet secret create far FILE",
    ]


def test_a_network_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that no manager takes is one mistake, and not another one of each service on it."""
    (folder / "s.yml").write_text(STACK.replace("back: {}", "back: {ipam: {config: [{subnet: 10.0.0.0/24}]}}"))
    client = answering(monkeypatch, {})
    code, _, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    assert (code, client.changes, len(err.splitlines())) == (1, [], 1)
    assert err.startswith("s.yml:9:9: networks.back: subnet 10.0.0.0/24 overlaps ")


def test_warnings_have_places(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is without effect is said with its place, whether the file's reader or the engine knows it."""
    (folder / "s.yml").write_text(STACK.replace("secrets: [pw]", "links: [db]"))
    answering(monkeypatch, {"POST /services/create b_db": {"ID": "1", "Warnings": ["no such limit"]}})
    code, _, err = meshnet(capsys, monkeypatch, "stack", "deploy", "-c", "s.yml", "b")
    assert (code, err.splitlines()) == (
        0,
        [
            "s.yml:5:12: warning: services.web.links: a swarm has no use for it, so it changes nothing",
            "s.yml:7:5: warning: services.db: no such limit",
        ],
    )


def test_removing_goes_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stacks and their parts all go that can; what cannot is said, and the status is 1."""
    parts: dict[str, Any] = {
        "GET /services": [{"ID": "s", "Spec": {"Name": "b_web"}}],
        "GET /networks": [{"Id": "n", "Name": "b_back"}, {"Id": "m", "Name": "b_default"}],
        "DELETE /networks/n": ConflictError("in use"),
    }
    client = answering(monkeypatch, parts)
    code, out, err = meshnet(capsys, monkeypatch, "stack", "rm", "b", "c")
    assert client.changes == [f"DELETE /{part}" for part in ("services/s", "networks/n", "networks/m")] * 2
    assert (code, out.splitlines()[:2]) == (1, ["Removing service b_web", "Removing network b_back"])
    assert err == "meshnet: network b_back: in use\n" * 2
    client = answering(monkeypatch, {})
    assert meshnet(capsys, monkeypatch, "stack", "rm", "b", "c") == (
        1,
        "",
        "meshnet: nothing found in stack: b\nmeshnet: nothing found in stack: c\n",
    )


def test_networks_go_one_by_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The ingress network, which stays unless it is forced, does not keep the others."""
    answering(monkeypatch, {"GET /networks": [{"Id": "i", "Name": "ingress"}, {"Id": "n", "Name": "back"}]})
    code, out, err = meshnet(capsys, monkeypatch, "network", "rm", "ingress", "back")
    assert (code, out) == (1, "back\n")
    assert err.startswith("meshnet: without ingress no port can be published; ")


def test_images_go_one_by_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is not there does not keep the others."""
    answering(monkeypatch, {"DELETE /images/a": ConflictError("no"), "DELETE /images/b": [{"Untagged": "b"}]})
    assert meshnet(capsys, monkeypatch, "image", "rm", "a", "b") == (1, "Untagged: b\n", "meshnet: no\n")
