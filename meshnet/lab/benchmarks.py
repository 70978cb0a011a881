"""Labs of benchmarks: which they are, and those that nobody takes down any more, because their benchmark was killed.

Such a lab is called after the benchmark's process, and has no folder, as no lab of a person's. A process that has the
number by chance keeps it from being removed, never the other way round.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.lab import down, state

DIRECTORY = "/"
_NAME = re.compile(r"bench-(\d+)-[0-9a-z]+")


def name(label: object) -> str:
    """What a lab of this process's is called."""
    return f"bench-{os.getpid()}-{label}"


def is_benchmark(lab: str, directory: str) -> bool:
    """Whether a lab of that name and folder is a benchmark's."""
    return _NAME.fullmatch(lab) is not None and directory == DIRECTORY


def is_left(lab: str) -> bool:
    """Whether the benchmark has ended whose lab this is by its name."""
    found = _NAME.fullmatch(lab)
    return found is not None and not os.path.exists(f"/proc/{found[1]}")


def left() -> list[str]:
    """Labs, whole or half, of benchmarks that have ended, sorted."""
    try:
        there = sorted(entry.name for entry in os.scandir(names.RUN))
    except FileNotFoundError:
        return []
    return [lab for lab in there if is_left(lab) and _is_ours(lab)]


def _is_ours(lab: str) -> bool:
    if not Path(names.lab_dir(lab), state.FILE).exists():
        return True  # it was killed before that was written
    with contextlib.suppress(MeshnetError):  # gone meanwhile, or damaged: whose it is cannot be said
        return state.load(lab).directory == DIRECTORY
    return False


def remove_left() -> list[str]:
    """Takes them down, and returns their names. Raises MeshnetError if one cannot be removed."""
    found = left()
    for lab in found:
        down.down(lab)
    return found
