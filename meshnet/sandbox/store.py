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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from meshnet.errors import NotFoundError
from meshnet.files import remove_tree, replace_text

ROOTFS = "rootfs"
IMAGE = "image.json"
ALIASES = "aliases.json"


def without_tag(name: str) -> str:
    """`team/app:1` without its tag; a port of a registry is none."""
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """`names` are what it is looked up by: `repository:tag` without default registry, or a repository alone, which
    answers at any tag. `created` is in seconds since 1970, `size` in bytes; `config` is what the image's own
    configuration says, and the fields before it what of that is used."""

    id: str
    names: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    created: float = 0.0
    size: int = 0
    config: dict[str, Any] = field(default_factory=dict)


class ImageStore:
    """The images below one directory, shared by every agent that is given the same one."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    @property
    def directory(self) -> str:
        return str(self._directory)

    def place(self) -> Path:
        """The file system that images are on: their directory, or where it will be."""
        return next(each for each in (self._directory, *self._directory.absolute().parents) if each.is_dir())

    def rootfs(self, image: StoredImage) -> str:
        """The path of an image's root file system."""
        return str(self._directory / image.id / ROOTFS)

    def find(self, name: str) -> StoredImage | None:
        """The image of that name, a repository and tag or a repository alone; None if there is none."""
        repository = without_tag(name)
        found = [image for image in self.images() if name in image.names or repository in image.names]
        return next((image for image in found if name in image.names), found[0] if found else None)

    def with_id(self, ident: str) -> StoredImage | None:
        """The image whose id begins like that; None if there is none, or several."""
        found = [image for image in self.images() if ident and image.id.startswith(ident.removeprefix("sha256:"))]
        return found[0] if len(found) == 1 else None

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
                remove_tree(path)

    def add(self, image: StoredImage, unpacked: Path) -> StoredImage:
        """Takes a directory that holds `rootfs` into the store under the image's id; its names leave other images."""
        for other in list(self.images()):
            left = tuple(name for name in other.names if name not in image.names)
            if other.id == image.id:
                names = tuple(sorted({*other.names, *image.names}))
                image = replace(image, names=names, created=other.created or image.created)
            elif left != other.names:
                self._write(self._directory / other.id, replace(other, names=left))
        self._write(unpacked, image)
        place = self._directory / image.id
        if place.exists():
            self._write(place, image)
        else:
            os.rename(unpacked, place)
        return image

    def tag(self, image: StoredImage, name: str) -> None:
        """Gives an image one more name, which leaves the image that had it."""
        for other in list(self.images()):
            if other.id == image.id:
                self._write(self._directory / other.id, replace(other, names=tuple(sorted({*other.names, name}))))
            elif name in other.names:
                self._write(self._directory / other.id, replace(other, names=tuple(set(other.names) - {name})))

    def untag(self, image: StoredImage, name: str) -> None:
        """Takes a name from an image, which stays."""
        self._write(self._directory / image.id, replace(image, names=tuple(n for n in image.names if n != name)))

    def remove(self, name: str) -> None:
        """Removes the image of that name with all its names. NotFoundError if there is none."""
        image = self.find(name)
        if image is None:
            raise NotFoundError(f"No such image: {name}")
        self.delete(image)

    def delete(self, image: StoredImage) -> None:
        """Removes an image with all its names."""
        place = self._directory / image.id
        (place / IMAGE).unlink()
        remove_tree(place)

    def aliases(self) -> dict[str, str]:
        """Names that were given to images of the catalogue: name -> repository of the catalogue."""
        try:
            found = json.loads((self._directory / ALIASES).read_text())
            return {str(name): str(repository) for name, repository in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def set_aliases(self, aliases: dict[str, str]) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        replace_text(self._directory / ALIASES, json.dumps(aliases))

    @staticmethod
    def _write(place: Path, image: StoredImage) -> None:
        fresh = place / (IMAGE + ".new")
        fresh.write_text(json.dumps(asdict(image)))
        os.replace(fresh, place / IMAGE)
