"""The part of Go's templates that people type behind `--format`: text with {{.Field}} and {{json .Field}} (pure)."""

from __future__ import annotations

import json
import re
from typing import Any

from meshnet.errors import MeshnetError

_ACTION = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_FIELD = re.compile(r"(json\s+)?(\.|(?:\.\w+)+)")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def expand(template: str, value: Any) -> str:
    """The text with each action replaced by what it names in `value`, decoded JSON.

    Raises MeshnetError for actions beyond fields, and for fields that are not there.
    """
    for written, meant in _ESCAPES.items():
        template = template.replace(written, meant)
    return _ACTION.sub(lambda found: _action(found[1].strip(), value), template)


def _action(text: str, value: Any) -> str:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise MeshnetError(f"--format: {{{{{text}}}}} is not understood; write {{{{.Field}}}} or {{{{json .Field}}}}")
    found = value
    for name in match[2].split(".")[1:] if match[2] != "." else []:
        if not isinstance(found, dict) or name not in found:
            known = ", ".join(found) if isinstance(found, dict) else "none"
            raise MeshnetError(f"--format: there is no field {name} in {match[2]}; fields there are {known}")
        found = found[name]
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False) if match[1] else _plain(found)


def _plain(value: Any) -> str:
    """As Go prints it: lists and maps in its own brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<no value>"
    if isinstance(value, list):
        return f"[{' '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_plain(item)}' for key, item in sorted(value.items()))}]"
    return str(value)
