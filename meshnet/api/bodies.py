"""Bodies of requests: JSON whose texts can be used for what they are for, as names, arguments and lines of files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from meshnet.errors import MeshnetError

# Only such a body can hold what is looked for: U+0000 and the halves of a pair, escaped or raw.
_SUSPECT = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


def decoded(raw: bytes) -> Any:
    """A body's value. MeshnetError if it is no JSON, or with the path of a text that no program can be given."""
    try:
        value = json.loads(raw)
        if _SUSPECT.search(raw):
            for path, text in _texts(value, ""):
                _check_text(path, text)
    except (ValueError, RecursionError) as error:
        raise MeshnetError(f"the request body is not JSON: {error}") from None
    return value


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path or "a name", key
            yield from _texts(item, f"{path}.{key}" if path else key)


def _check_text(path: str, text: str) -> None:
    if "\0" in text:
        raise MeshnetError(f"{path}: a text without NUL characters is needed, not {text[:40]!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MeshnetError(f"{path}: a text of whole characters is needed, not {text[:40]!r}") from None
