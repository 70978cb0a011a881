"""Image names to what they run: the machine's own programs, or an imported root file system.

A `HostImage` is the machine's root seen through an overlay: nothing to download, and its writes stay in the task.
A `RootfsImage` is a directory that was imported. Names are compared without registry default, `library/`, tag and
digest: a lab that has an `nginx` answers for `docker.io/library/nginx:alpine` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.sandbox.store import ImageStore

MIB = 1024 * 1024
PROGRAMS = "/usr/libexec/meshnet"  # where a host image finds the project's own programs
_PYTHON = ("/usr/bin/python3", "-I", "-S", "-E")
_FIELDS = frozenset({"entrypoint", "command", "env", "workdir", "user", "writable", "rootfs"})


@dataclass(frozen=True, slots=True)
class HostImage:
    """Runs the machine's programs. `writable` bounds what a task may write, in bytes."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ("/bin/sh",)
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    writable: int = 256 * MIB
    programs: str = str(Path(__file__).parent / "programs")

    @property
    def lower(self) -> str:
        return "/"


@dataclass(frozen=True, slots=True)
class RootfsImage:
    """Runs what is in the directory `path`, which is never written."""

    path: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    writable: int = 256 * MIB

    @property
    def lower(self) -> str:
        return self.path


Image = HostImage | RootfsImage

WHOAMI = HostImage(entrypoint=(*_PYTHON, f"{PROGRAMS}/whoami.py"), command=())
BUILT_IN: dict[str, Image] = {
    "whoami": WHOAMI,
    "jwilder/whoami": WHOAMI,
    "traefik/whoami": WHOAMI,
    **dict.fromkeys(("alpine", "busybox", "debian", "ubuntu", "host"), HostImage()),
}


def repository(reference: str) -> str:
    """The name an image is looked up by: no digest, tag, `docker.io/` or `library/`.

    >>> repository("docker.io/library/nginx:1.25")
    'nginx'
    """
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    name = head + slash + last.partition(":")[0]
    for prefix in ("index.docker.io/", "docker.io/", "library/"):
        name = name.removeprefix(prefix)
    return name


class Images:
    """Finds images: the lab's own first, then imported ones (`store`), then the built-in ones."""

    def __init__(self, images: Mapping[str, Any] | None = None, store: str = "", base: str = ".") -> None:
        """`images` and `base` as for `from_mapping`, `store` the directory of an image store ("" for none)."""
        self._images = {repository(name): image for name, image in from_mapping(images or {}, base).items()}
        self._store = ImageStore(store) if store else None

    def find(self, reference: str) -> Image:
        """The image of that name at any tag. Raises NotFoundError in Docker's words, with what to do."""
        name = repository(reference)
        image = self._images.get(name)
        if image is None and self._store is not None:
            image = self._imported(self._store, name)
        if image is None:
            image = BUILT_IN.get(name)
        if image is None:
            raise NotFoundError(
                f"No such image: {reference}; name it in the lab's images, or give it a `rootfs:` there (docs/lab.md)"
            )
        return image

    def identity(self, reference: str) -> str:
        """The id of the image of that name, `sha256:` and 64 hex digits; "" if there is none."""
        name = repository(reference)
        try:
            image = self.find(reference)
        except NotFoundError:
            return ""
        stored = self._store.find(name) if self._store is not None and name not in self._images else None
        digest = stored.id if stored is not None else sha256(f"{name} {image!r}".encode()).hexdigest()
        return f"sha256:{digest}"

    @staticmethod
    def _imported(store: ImageStore, name: str) -> Image | None:
        found = store.find(name)
        if found is None:
            return None
        return RootfsImage(store.rootfs(found), found.entrypoint, found.command, found.env, found.workdir, found.user)

    def names(self) -> list[str]:
        """The names that the lab, the store and the project itself define, sorted."""
        stored = self._store.names() if self._store is not None else ()
        return sorted({*self._images, *stored, *BUILT_IN})


def from_mapping(images: Mapping[str, Any], base: str = ".") -> dict[str, Image]:
    """A lab's `images`: name to `{command, entrypoint, env, workdir, user, writable}`, and `rootfs` for a directory
    (or an archive, that whoever starts the agents has to unpack).

    A name may also stand for one of the built-in images, for a command line as a list, or for an `Image`. Relative
    `rootfs` paths start at `base`. Raises MeshnetError that names the image and the field.
    """
    return {name: _image(name, value, base) for name, value in images.items()}


def _image(name: str, value: Any, base: str) -> Image:
    if isinstance(value, HostImage | RootfsImage):
        return value
    if isinstance(value, str):
        known = BUILT_IN.get(repository(value))
        if known is None:
            raise MeshnetError(f"images.{name}: {value!r} is none of {', '.join(sorted(BUILT_IN))}")
        return known
    if isinstance(value, list):
        value = {"command": value}
    if not isinstance(value, Mapping):
        raise MeshnetError(f"images.{name}: a mapping, a list or a name is needed, not {value!r}")
    unknown = sorted(set(map(str, value)) - _FIELDS)
    if unknown:
        raise MeshnetError(f"images.{name}.{unknown[0]}: not known; use {', '.join(sorted(_FIELDS))}")
    fields: dict[str, Any] = {
        key: _words(f"images.{name}.{key}", value[key])
        for key in ("entrypoint", "command", "env")
        if value.get(key) is not None
    }
    for key, kind in (("workdir", str), ("user", str), ("writable", int)):
        item = value.get(key)
        if item is None:
            continue
        if not isinstance(item, kind) or isinstance(item, bool):
            raise MeshnetError(f"images.{name}.{key}: {kind.__name__} is needed, not {item!r}")
        fields[key] = item
    rootfs = value.get("rootfs")
    if rootfs is None:
        return HostImage(**fields)
    path = Path(base, str(rootfs)).absolute()
    if not path.exists():
        raise MeshnetError(f"images.{name}.rootfs: {path} is neither a directory nor an archive")
    return RootfsImage(str(path), **fields)


def _words(where: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and not where.endswith(".env"):
        return ("/bin/sh", "-c", value)
    if isinstance(value, Mapping) and where.endswith(".env"):
        return tuple(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return tuple(str(item) for item in value)
    raise MeshnetError(f"{where}: a list of words is needed, not {value!r}")
