"""Pictures of labs: every form shows every host, network and service, and can be read by its program."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from meshnet.lab import file
from meshnet.lab.graph import Picture, as_data, dot, mermaid, picture
from meshnet.lab.graph_svg import WIDTH, svg

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def shown() -> Picture:
    """A lab with a compose file, and tasks on one of its nodes."""
    return picture(file.load(ROOT / "labs/two-tier"), tasks={"worker-1": ["web.1"]})


def test_what_a_picture_has(shown: Picture) -> None:
    """Hosts with their tasks, networks with ingress first, services with size, mode, networks and ports."""
    data = as_data(shown)
    assert json.loads(json.dumps(data)) == data
    assert [node["Name"] for node in data["Nodes"]] == ["manager-0", "worker-0", "worker-1"]
    assert data["Nodes"][2]["Tasks"] == ["web.1"]
    assert data["Networks"] == ["ingress", "front", "back"]
    web, _, cache, probe = data["Services"]
    assert (web["Networks"], web["Ports"], web["Size"]) == (["ingress", "front", "back"], ["8080->8000/tcp"], "2 tasks")
    assert (cache["EndpointMode"], probe["Size"]) == ("dnsrr", "on every node")


def test_svg(shown: Picture) -> None:
    """The document is XML with every name in it; no two boxes of a row meet, and nothing is outside."""
    root = ElementTree.fromstring(svg(shown))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for name in ("client", "worker-1", "web.1", "network back", "cache", "2 tasks, dnsrr", "8080->8000/tcp"):
        assert name in texts
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    rows: dict[str, list[float]] = {}
    for box in root.iter(f"{SVG}rect"):
        if box.get("width") == str(WIDTH):
            rows.setdefault(box.get("y", ""), []).append(float(box.get("x", "")))
            assert float(box.get("x", "")) + WIDTH <= width
            assert float(box.get("y", "")) + float(box.get("height", "")) <= height
    assert [len(row) for row in rows.values()] == [1, 3, 4]
    assert all(right - left > WIDTH for row in rows.values() for left, right in itertools.pairwise(row))
    lines = root.findall(f"{SVG}line")
    assert len(lines) == 4 + 3 + 6  # hosts to the underlay, nodes to ingress, services to their networks


def test_text_forms(shown: Picture) -> None:
    """mermaid and dot have a box for each thing and a line for each attachment; quotes cannot end a label."""
    for text, link in ((mermaid(shown), " --- "), (dot(shown), " -- ")):
        assert text.count(link) == 4 + 3 + 6
        for name in ("manager-0", "client", "back", "probe"):
            assert name in text
    assert mermaid(shown).startswith("flowchart TB\n")
    odd = Picture("x", "10.1.0.0/16", (), (), (shown.services[0].__class__('a"]b', "i", "1 task", "vip"),))
    assert 'a"' not in mermaid(odd)
    assert 'a"' not in dot(odd)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in ROOT.glob("labs/*/topology.svg")))
def test_pictures_in_the_tree_are_current(folder: str) -> None:
    """A lab's topology.svg is what `meshnet lab graph` writes for it now."""
    assert (ROOT / "labs" / folder / "topology.svg").read_text() == svg(picture(file.load(ROOT / "labs" / folder)))
