"""Writing a small file so that whoever reads it, also after a crash, finds the old text or the new one, whole."""

from __future__ import annotations

import os


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Puts `text` into the file in one step, readable by its owner only. OSError if that cannot be."""
    fresh = f"{os.fspath(path)}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(fresh, path)
