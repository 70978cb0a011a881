"""How the command shows things: tables with docker's columns, JSON, and progress while something takes time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from meshnet.cli import gotemplate

if TYPE_CHECKING:
    from meshnet.cli.options import Listing

GAP = 3  # docker's tables


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table on stdout, with the headers even if there are no rows."""
    lines = [tuple(headers), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) + GAP for column in range(len(headers))]
    for line in lines:
        print("".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def listing(shown: Listing, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows as asked: a table, a line of a template for each, or the first column alone.

    `columns`: head and, for templates, the name of the field.
    """
    rows = list(rows)
    if shown.quiet:
        for row in rows:
            print(row[0])
        return
    if shown.template in ("", "table"):
        table([head for head, _ in columns], rows)
        return
    template = "{{json .}}" if shown.template == "json" else shown.template
    for row in rows:
        fields = dict(zip((field for _, field in columns), row, strict=True))
        print(gotemplate.expand(template, dict(sorted(fields.items()))))


def objects(found: Sequence[Any], template: str) -> None:
    """Prints objects as `inspect` does: a list in JSON, or a line of a template for each."""
    if not template:
        as_json(list(found))
    for one in found if template else ():
        print(gotemplate.expand("{{json .}}" if template == "json" else template, one))


def as_json(value: Any) -> None:
    """Prints a value as JSON on stdout, indented like docker does."""
    print(json.dumps(value, indent=4))


def message(text: str) -> None:
    """Prints a line for the person, on stderr: stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def warning(text: str) -> None:
    """Prints what the engine does not do of what it took, on stderr."""
    message(f"warning: {text}")


def height(line: str) -> int:
    """How many rows of the terminal on stderr a line takes."""
    return max(1, -(-len(line) // _columns()))


def _columns() -> int:
    """The width of the terminal on stderr; 80 where nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Progress:
    """What is going on, on stderr: one line that changes on a terminal, a line per step elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, text: str) -> None:
        """Says what is being done now; saying it again changes nothing."""
        if text == self._last:
            return
        self._last = text
        if self._live:
            print(f"\r\x1b[K{text[: _columns() - 1]}", end="", file=sys.stderr, flush=True)
        else:
            message(text)
