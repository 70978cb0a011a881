"""The pages hang together: decisions are numbered in a row and listed, and links lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"


def test_decisions_are_numbered_and_listed() -> None:
    """0001, 0002 ... without gaps or twins, each in the index under its own title, and each of half a page."""
    pages = sorted(DECISIONS.glob("0*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    lines = [f"- [{page.name[:4]}]({page.name}) {page.read_text().splitlines()[0][2:]}" for page in pages]
    assert [line for line in (DECISIONS / "README.md").read_text().splitlines() if line.startswith("- ")] == lines
    assert [page.name for page in pages if len(page.read_text().split()) > 400] == []


def test_links_lead_somewhere() -> None:
    """Every relative link of every page is a file or a directory of this project."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("labs/*/README.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []
