"""The command in this process, and an engine for it that answers from a table and notes what it was asked."""

from __future__ import annotations

import sys
from itertools import count
from typing import Any

import pytest

from meshnet.cli import main as cli
from meshnet.errors import NotFoundError
from meshnet.lab import engine, state
from meshnet.lab.spec import Lab, LabNode

LAB = Lab(
    "x", "/", "192.0.2.0/24", 1500, (LabNode("docker-0", "192.0.2.2", "manager"), LabNode("docker-1", "192.0.2.3"))
)


class TableClient:
    """`table`: what a method and path are answered, or the error that they raise; else a list is empty, and what is
    created gets an id."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table
        self.asked: list[str] = []
        self._numbers = count(1)

    def get(self, path: str, **_: Any) -> Any:
        return self._answer(f"GET {path}", [])

    def post(self, path: str, body: Any = None, **_: Any) -> Any:
        ident = f"id{next(self._numbers)}"
        name = body.get("Name", "") if isinstance(body, dict) else ""
        return self._answer(f"POST {path} {name}".strip(), {"ID": ident, "Id": ident})

    def delete(self, path: str, **_: Any) -> Any:
        return self._answer(f"DELETE {path}", None)

    def _answer(self, what: str, otherwise: Any) -> Any:
        self.asked.append(what)
        answer = self.table.get(what, otherwise)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def changes(self) -> list[str]:
        """What it was asked to change."""
        return [asked for asked in self.asked if not asked.startswith("GET ")]


def meshnet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """Runs the command in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["meshnet", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out, err


def answering(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any]) -> TableClient:
    """Has every command speak to such an engine."""
    client = TableClient(table)

    def of_node(lab: Lab, node: str | None = None) -> engine.Engine:
        found = engine.Engine(lab, node or "docker-0", "agent")
        monkeypatch.setattr(found, "_client", client)
        return found

    monkeypatch.setattr(state, "current", lambda _: LAB)
    monkeypatch.setattr(engine, "of_node", of_node)
    monkeypatch.setattr(engine, "check_image", _only_i)
    return client


def _only_i(_: Lab, reference: str) -> None:
    if reference != "i":
        raise NotFoundError(f"No such image: {reference}")
