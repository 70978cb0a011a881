"""`meshnet secret create` and `config create`: where the data comes from is said, and none is an answer."""

from __future__ import annotations

import io
import sys

import pytest
from cli_engine import answering, meshnet


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_where_the_data_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without a file, and with nothing coming in, one line says so and nothing is made; - takes what comes in."""
    client = answering(monkeypatch, {})

    def create(stdin: bytes, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return meshnet(capsys, monkeypatch, kind, "create", "x", *words)

    missing = f"meshnet: Missing argument 'FILE|-'; see: meshnet {kind} create --help\n"
    assert create(b"data") == (2, "", missing)
    nothing = "meshnet: nothing came in: pipe the data into this command, or name a file instead of -\n"
    assert create(b"", "-") == (1, "", nothing)
    assert client.changes == []
    assert create(b"data", "-") == (0, "id1\n", "")
    assert client.changes == [f"POST /{kind}s/create x"]
