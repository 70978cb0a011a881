"""Texts in requests that no program, name or file can be made of: refused, with the field that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_world import Api, served, service
from node_world import engine

from meshnet.api.bodies import decoded
from meshnet.errors import MeshnetError
from meshnet.sandbox.arguments import LONGEST, check_arguments, check_hostname

HALF = chr(0xD800)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"Env": ["A=\\u0000"]}', r"Env\[0\]: a text without NUL"),
        (b'{"A": {"B": [1, {"C": "\\ud800"}]}}', r"A\.B\[1\]\.C: a text of whole characters"),
        (b'{"A": "\\uDFFF"}', "A: a text of whole characters"),
        (b'{"A": "\xed\xa0\x80"}', "A: a text of whole characters"),
        (b'{"Labels": {"a\\u0000": "b"}}', "Labels: a text without NUL"),
        (b'"\\u0000"', "a text without NUL"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_bodies_that_are_refused(body: bytes, words: str) -> None:
    """One line that names the field, however the character is written."""
    with pytest.raises(MeshnetError, match=words):
        decoded(body)


@pytest.mark.parametrize("value", ["plain", "\\u0000", "caf\u00e9", "\U0001f600", {"a": ["\ud7ff", 1, None]}])
def test_bodies_that_are_taken(value: Any) -> None:
    """Every text of whole characters is, also a pair of surrogates that is one character, and a backslash."""
    assert decoded(json.dumps(value).encode()) == value
    assert decoded(json.dumps(value, ensure_ascii=False).encode()) == value


def test_arguments() -> None:
    """What the kernel would not start a program with is refused by the field that is too large, and no more."""
    check_arguments({"Env": ["A=" + "x" * (LONGEST - 2)] * 15, "Args": ()})
    with pytest.raises(MeshnetError, match=r"Env\[1\]: 131072 bytes are more"):
        check_arguments({"Env": ["A=1", "x" * (LONGEST + 1)]})
    with pytest.raises(MeshnetError, match="Args: arguments and variables of "):
        check_arguments({"Env": ["A=1"], "Args": ["x" * LONGEST] * 17})


@pytest.mark.parametrize("name", ["x" * 65, "a b", "a\n", "a\x7f", "\u00e9" * 33])
def test_hostnames_that_cannot_be(name: str) -> None:
    """Too long for the kernel, or more than one word in a hosts file."""
    with pytest.raises(MeshnetError, match=r"^Hostname: "):
        check_hostname("Hostname", name)
    check_hostname("Hostname", "x" * 64)
    check_hostname("Hostname", "under_score.example")


def test_a_manager_refuses_them(tmp_path: Path) -> None:
    """Services and networks with such texts are refused with 400, and are not there."""

    async def scenario(api: Api) -> None:
        for field, value in (
            ("Env", ["A=\0"]),
            ("Hostname", "h" + HALF),
            ("Hostname", "h" * 65),
            ("Args", ["x", "y" * 200_000]),
            ("Env", [f"A{number}=" + "x" * 100_000 for number in range(22)]),
            ("Healthcheck", {"Test": ["CMD", "x" * 200_000]}),
        ):
            asked = service("web")
            asked["TaskTemplate"]["ContainerSpec"][field] = value
            status, words = await api.refused("POST", "/services/create", asked)
            assert (status, f"ContainerSpec.{field}" in words) == (400, True), words
        labels = {"Name": "net", "Driver": "overlay", "Labels": {"a": "\0"}}
        assert await api.refused("POST", "/networks/create", labels) == (
            400,
            "Labels.a: a text without NUL characters is needed, not '\\x00'",
        )
        assert await api.get("/services") == []

    served(tmp_path, scenario)


def test_a_node_refuses_them(tmp_path: Path) -> None:
    """Containers, volumes and memberships, too; a worker says that networks are made by managers."""

    async def scenario(api: Api) -> None:
        for path, body in (
            ("/containers/create", {"Image": "alpine", "Env": ["A=\0"]}),
            ("/containers/create", {"Image": "alpine", "Cmd": ["x" * 200_000]}),
            ("/containers/create", {"Image": "alpine", "Hostname": "a b"}),
            ("/volumes/create", {"Name": "v", "Labels": {"x": HALF}}),
            ("/swarm/join", {"RemoteAddrs": ["\0"]}),
        ):
            assert (await api.refused("POST", path, body))[0] == 400
        assert await api.get("/containers/json", all="1") == []
        assert await api.refused("POST", "/networks/create", {"Name": "x", "Driver": "overlay"}) == (
            403,
            "Cannot create a multi-host network from a worker node. Please create the network from a manager node.",
        )

    engine(tmp_path, scenario, role="worker")
