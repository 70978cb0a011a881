"""Assignments as text for an agent's disk, written anew after each change at the price of the change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from meshnet.codec import compact
from meshnet.control.assignments import TABLES, for_disk
from meshnet.memo import Memo
from meshnet.model import Assignments


class CacheText:
    """Remembers the text of every object that it wrote last time."""

    def __init__(self) -> None:
        self._memos = {table: Memo(_text) for table in TABLES}

    def of(self, assignments: Assignments) -> str:
        """The assignments, without secrets, as JSON that `from_json` reads."""
        kept = for_disk(assignments)
        parts = [] if kept.node is None else [f'"Node":{_text(kept.node)}']
        for table, memo in self._memos.items():
            things: Mapping[str, Any] = getattr(kept, table)
            texts = zip(map(json.dumps, things), memo.each(things.values()), strict=True)
            parts.append(f'"{table.capitalize()}":{{{",".join(f"{ident}:{text}" for ident, text in texts)}}}')
        return f"{{{','.join(parts)}}}"


def _text(thing: Any) -> str:
    return json.dumps(compact(thing), separators=(",", ":"))
