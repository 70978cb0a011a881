"""Volumes that are removed while something else happens to them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshnet.api.node import volumes as api
from meshnet.api.node.context import NODE
from meshnet.files import remove_tree
from meshnet.sandbox.volumes import Volumes


def asked(volumes: Volumes, name: str = "") -> Any:
    agent = SimpleNamespace(volumes=volumes, events=SimpleNamespace(publish=lambda *_: None))
    return SimpleNamespace(config_dict={NODE: SimpleNamespace(agent=agent)}, query={}, match_info={"name": name})


def test_used_while_others_are_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that gets its container while another one is measured is kept, and what is gone already no error."""
    volumes = Volumes(tmp_path)
    for name in ("aa", "bb", "cc", "dd"):
        volumes.create(name)
    used: list[str] = []
    size = volumes.size

    def measure(name: str) -> int:
        used.append("cc")
        if name == "bb":
            volumes.put_away("bb")
        return size(name)

    monkeypatch.setattr(volumes, "size", measure)
    monkeypatch.setattr(api, "users", lambda _, name: [one for one in used if one == name])
    answer = asyncio.run(api.prune(asked(volumes)))
    assert json.loads(answer.body)["VolumesDeleted"] == ["aa", "dd"]  # type: ignore[arg-type]
    assert [one.name for one in volumes.all()] == ["cc"]


def test_made_while_its_namesake_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another one, and stays."""
    volumes = Volumes(tmp_path)
    volumes.create("aa")

    def slow(place: Path) -> None:
        assert volumes.create("aa")[1], "made now"
        remove_tree(place)

    monkeypatch.setattr(api, "remove_tree", slow)
    monkeypatch.setattr(api, "users", lambda *_: [])
    asyncio.run(api.remove(asked(volumes, "aa")))
    assert [one.name for one in volumes.all()] == ["aa"]
    assert Path(volumes.get("aa").path).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["aa"], "nothing is left of the other"


def test_listed_while_one_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list has the others, instead of an error about the one that is gone."""
    volumes = Volumes(tmp_path)
    for name in ("aa", "bb"):
        volumes.create(name)
    get = volumes.get

    def slow(name: str) -> Any:
        if name == "aa" and (tmp_path / "aa" / "volume.json").exists():
            (tmp_path / "aa" / "volume.json").unlink()
        return get(name)

    monkeypatch.setattr(volumes, "get", slow)
    assert [one.name for one in volumes.all()] == ["bb"]
