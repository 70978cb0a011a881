"""The documentation shows code that runs: its examples are tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(ROOT.glob("tests/*/test_example_*.py"))


def test_the_examples_of_testing_are_tests() -> None:
    """Each example in docs/testing.md is one of the tests, word for word, and every such test is there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/testing.md").read_text(), re.DOTALL)
    assert len(EXAMPLES) == 3
    assert sorted(blocks) == sorted(path.read_text() for path in EXAMPLES)
