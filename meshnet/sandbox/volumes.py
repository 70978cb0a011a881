"""A node's volumes: directories that outlive the containers that use them (the Engine's `local` driver).

<volumes>/<name>/_data         what containers see
<volumes>/<name>/volume.json   labels, and when it was made
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.files import replace_text

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")
DATA, FILE = "_data", "volume.json"


@dataclass(frozen=True, slots=True)
class Volume:
    """`path` is what is mounted; `created` in seconds since 1970."""

    name: str
    path: str
    created: float = 0.0
    labels: dict[str, str] | None = None
    options: dict[str, str] = field(default_factory=dict)


class Volumes:
    """Those below one directory."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    def create(self, name: str, labels: dict[str, str] | None = None) -> tuple[Volume, bool]:
        """The volume of that name, and whether it was made now. MeshnetError for a name that cannot be."""
        if not NAME.fullmatch(name):
            raise MeshnetError(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        place = self._directory / name
        if (place / FILE).exists():
            return self.get(name), False
        made = Volume(name, str(place / DATA), time.time(), labels)
        os.makedirs(place / DATA, mode=0o755, exist_ok=True)
        replace_text(place / FILE, json.dumps(asdict(made)))
        return made, True

    def get(self, name: str) -> Volume:
        """NotFoundError in the Engine's words."""
        if NAME.fullmatch(name):
            try:
                return Volume(**json.loads((self._directory / name / FILE).read_text()))
            except (OSError, ValueError, TypeError):
                pass
        raise NotFoundError(f"get {name}: no such volume")

    def all(self) -> list[Volume]:
        """Every volume, by name."""
        names = sorted(path.parent.name for path in self._directory.glob(f"*/{FILE}"))
        found = []
        for name in names:
            with contextlib.suppress(NotFoundError):  # removed since it was listed
                found.append(self.get(name))
        return found

    def size(self, name: str) -> int:
        """How many bytes the files of a volume have; 0 for one that is not there."""
        total = 0
        with contextlib.suppress(RecursionError):  # what is nested deeper than that is not counted
            for place, _, files in os.walk(self._directory / name / DATA):
                for file in files:
                    with contextlib.suppress(OSError):  # it has gone meanwhile
                        total += os.lstat(os.path.join(place, file)).st_size
        return total

    def put_away(self, name: str) -> Path:
        """Ends a volume at once; returns where all that was in it waits to be deleted. NotFoundError."""
        self.get(name)
        place = Path(tempfile.mkdtemp(prefix=".", dir=self._directory))
        os.rename(self._directory / name, place / name)
        return place
