"""What `meshnet bench swarm` and `meshnet bench growth` make of what they measured."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from meshnet.api.client import EngineClient
from meshnet.bench import dockerd, growth, swarm


def side(name: str, factor: float) -> swarm.Side:
    found = swarm.Side(name, EngineClient("/nowhere"), "sha256:0")
    found.seconds = {what: [factor * (1 + number / 10) for number in range(5)] for what in swarm.TITLES}
    return found


def test_engines_are_compared_by_round() -> None:
    """Ratios are dockerd's seconds over meshnet's of the same round; an aim that is missed is marked."""
    sides = [side(swarm.MESHNET, 0.1), side(swarm.DOCKERD, 0.4)]
    sides[1].seconds["list"] = [0.05] * 5
    found = cast("dict[str, Any]", swarm.summary(sides, swarm.Size(), {}, 0.5))
    assert found["measured"]["create"]["times"][1] == pytest.approx(4.0)
    text = "\n".join(swarm.lines(found))
    assert "create 10 replicas, until all run" in text
    assert "4.0 times as fast" in text
    assert next(line for line in text.splitlines() if line.startswith("list 300")).endswith("!")


def test_without_dockerd_it_says_how_to_get_one() -> None:
    """meshnet alone has a column, no ratio, and the reason why the other is not there."""
    found = cast("dict[str, Any]", swarm.summary([side(swarm.MESHNET, 2.0)], swarm.Size(), {"dockerd": "get it"}, 0.5))
    text = "\n".join(swarm.lines(found))
    assert "left out: dockerd: get it" in text
    assert "times as fast" not in text
    assert "2.4 s (2.2-2.6)" in text


def test_missing_dockerd_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lacking is named, with the script that gets it; what is unpacked in the folder is found."""
    monkeypatch.setattr(dockerd, "_path", lambda folder: f"{folder}/usr/bin")
    assert "there is no dockerd, containerd, containerd-shim-runc-v2, runc, iptables" in dockerd.missing(tmp_path)
    assert "scripts/dockerd" in dockerd.missing(tmp_path)
    place = tmp_path / "usr/bin"
    place.mkdir(parents=True)
    for name in ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "xtables-nft-multi"):
        (place / name).touch(0o755)
    assert dockerd.missing(tmp_path) == ""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev")
def test_root_file_system_is_one_program() -> None:
    """The archive that both engines import has one program that can be run."""
    with tarfile.open(fileobj=io.BytesIO(swarm.root_file_system())) as archive:
        assert [(member.name, member.mode & 0o111) for member in archive] == [("task", 0o111)]


def lots(wall: list[float]) -> growth.Lots:
    found = growth.Lots(side("x", 1.0), Path("/nowhere"))
    found.wall, found.cpu = wall, [each / 2 for each in wall]
    return found


def test_growth_is_by_lots_side_by_side() -> None:
    """A cost is the median ratio to the small swarm's lots beside; what makes both slower is none."""
    per = growth.STEP // growth.LOT
    grows = lots([1.0] * per + [3.0] * per)
    small = lots([1.0] * per + [2.0] * per)
    found = cast("dict[str, Any]", growth.summary(grows, small, 1.0))
    assert [step["services"] for step in found["steps"]] == [100, 200]
    assert found["growth"] == {"cost": 1.5, "cpu_cost": 1.5}
    text = "\n".join(growth.lines(found))
    assert "The last 100 cost 1.50 times the first! (1.50 in CPU time)" in text
