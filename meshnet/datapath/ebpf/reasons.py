"""Names of counters and drop reasons, read from the list that the programs are compiled with (bpf/reasons.h)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_LIST = re.compile(r"#define (REASONS|EVENTS)\(X\) \\\n((?:.*\\\n)*.*)")
_ENTRY = re.compile(r'X\((\w+), "([^"]*)"\)')


@dataclass(frozen=True, slots=True)
class Reasons:
    """Name -> meaning, in the order of the counters: the position is the index in `drops` or `events`."""

    drops: Mapping[str, str]
    events: Mapping[str, str]


def parse(header: str) -> Reasons:
    """The two lists in the text of reasons.h; names in lower case. KeyError if one is missing."""
    lists = {
        found[1]: {entry[1].lower(): entry[2] for entry in _ENTRY.finditer(found[2])}
        for found in _LIST.finditer(header)
    }
    return Reasons(lists["REASONS"], lists["EVENTS"])


def read(directory: Path) -> Reasons:
    """The lists of the programs in a folder of BPF sources."""
    return parse((directory / "reasons.h").read_text())
