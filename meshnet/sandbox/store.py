"""Imported images: a directory of root file systems, and one small file per image that says what it is.

    <store>/<id>/rootfs/      the unpacked tree, never written after the import
    <store>/<id>/image.json   its names and its configuration

An image appears whole or not at all: it is unpacked beside its place and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meshnet.errors import NotFoundError

ROOTFS = "rootfs"
IMAGE = "image.json"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """`names` are what it is looked up by (no tag, no default registry); the rest is Docker's image configuration."""

    id: str
    names: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""


class ImageStore:
    """The images below one directory, shared by every agent that is given the same one."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def rootfs(self, image: StoredImage) -> str:
        """The path of an image's root file system."""
        return str(self._directory / image.id / ROOTFS)

    def find(self, name: str) -> StoredImage | None:
        """The image of that name; None if there is none."""
        return next((image for image in self.images() if name in image.names), None)

    def names(self) -> list[str]:
        return sorted(name for image in self.images() for name in image.names)

    def images(self) -> Iterator[StoredImage]:
        """Every image that is there whole."""
        for path in sorted(self._directory.glob(f"*/{IMAGE}")):
            try:
                values: dict[str, Any] = json.loads(path.read_text())
                for field in ("names", "entrypoint", "command", "env"):
                    values[field] = tuple(values[field])
                yield StoredImage(**values)
            except (OSError, ValueError, KeyError, TypeError):
                continue

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[Path]:
        """An empty directory in the store for an import in progress; gone afterwards unless `add` took it."""
        path = self._directory / f".import-{secrets.token_hex(8)}"
        os.makedirs(path, mode=0o700)
        try:
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    def add(self, image: StoredImage, unpacked: Path) -> StoredImage:
        """Takes a directory that holds `rootfs` into the store under the image's id; its names leave other images."""
        for other in list(self.images()):
            left = tuple(name for name in other.names if name not in image.names)
            if other.id == image.id:
                image = replace(image, names=tuple(sorted({*other.names, *image.names})))
            elif left != other.names:
                self._write(self._directory / other.id, replace(other, names=left))
        self._write(unpacked, image)
        place = self._directory / image.id
        if place.exists():
            self._write(place, image)
        else:
            os.rename(unpacked, place)
        return image

    def remove(self, name: str) -> None:
        """Removes the image of that name with all its names. NotFoundError if there is none."""
        image = self.find(name)
        if image is None:
            raise NotFoundError(f"No such image: {name}")
        place = self._directory / image.id
        (place / IMAGE).unlink()
        shutil.rmtree(place)

    @staticmethod
    def _write(place: Path, image: StoredImage) -> None:
        fresh = place / (IMAGE + ".new")
        fresh.write_text(json.dumps(asdict(image)))
        os.replace(fresh, place / IMAGE)
