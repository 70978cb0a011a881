"""Pages as scripts: commands at prompts in `console` blocks, and what each prints below it.

A prompt is `$`, or `host$` for a command that is typed somewhere else than in the reader's own shell.

Compared are lines that are not empty, with runs of blanks as one. In what is expected, `...` is anything within a
line, and on a line of its own any number of lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROMPT = re.compile(r"([a-z][a-z0-9-]*)?\$ (.+)")
# Commands that change nothing: what they show may need a moment, and they can be asked again.
LOOKS = re.compile(
    r"(docker|meshnet) (node|service|network|volume|secret|stack) (ls|ps|inspect|services|logs)\b"
    r"|docker (ps|exec)\b|meshnet (inspect|ps|lab (exec|inspect|ls|check)|haproxy stats)\b|curl |for "
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command: the line where it stands, the host at whose prompt ("" for none), and the lines that it prints."""

    line: int
    host: str
    command: str
    expected: tuple[str, ...]

    @property
    def looks(self) -> bool:
        """Whether it only looks, so that it can be asked again until it shows what is expected."""
        return LOOKS.match(self.command) is not None

    def matches(self, said: str) -> bool:
        """Whether this is what is expected."""
        return re.fullmatch(_pattern(self.expected), _lines(said)) is not None


def steps(page: Path) -> list[Step]:
    """The commands of a page, in order. AssertionError for output without a command."""
    found: list[tuple[int, str, str, list[str]]] = []
    for number, text in _console(page.read_text()):
        prompt = PROMPT.fullmatch(text)
        if prompt is not None:
            found.append((number, prompt[1] or "", prompt[2], []))
        else:
            assert found, f"{page}:{number}: output without a command"
            found[-1][3].append(text)
    return [Step(number, host, command, tuple(lines)) for number, host, command, lines in found]


def _console(text: str) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside:
            yield number, line


def _lines(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.replace("\r", "\n").split("\n"))
    return "".join(f"{line}\n" for line in lines if line)


def _pattern(expected: tuple[str, ...]) -> str:
    parts = []
    for line in _lines("\n".join(expected)).splitlines():
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            # Blanks beside a gap may be none: a column can be empty.
            pieces = [re.escape(piece) for piece in line.split("...")]
            parts.append(".*?".join(pieces).replace(r"\ .*?", r"\ ?.*?").replace(r".*?\ ", r".*?\ ?") + r"\n")
    return "".join(parts)
