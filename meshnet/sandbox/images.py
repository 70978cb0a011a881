"""Image names to what they run: the machine's own programs, or an imported root file system.

A `HostImage` is the machine's root seen through an overlay: nothing to download, and its writes stay in the task.
A `RootfsImage` is a directory that was imported. Names are compared without registry default, `library/`, tag and
digest: a lab that has an `nginx` answers for `docker.io/library/nginx:alpine` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.sandbox.spec import HealthConfig
from meshnet.sandbox.store import ImageStore, StoredImage

MIB = 1024 * 1024
SECOND = 10**9
_ID = re.compile(r"(sha256:)?[0-9a-f]{4,64}")
PROGRAMS = "/usr/libexec/meshnet"  # where a host image finds the project's own programs
_PYTHON = ("/usr/bin/python3", "-I", "-S", "-E")
_FIELDS = frozenset({"entrypoint", "command", "env", "workdir", "user", "writable", "rootfs"})


@dataclass(frozen=True, slots=True)
class HostImage:
    """Runs the machine's programs, and those in `layers`. `writable` bounds what a task may write, in bytes."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ("/bin/sh",)
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    writable: int = 256 * MIB
    programs: str = str(Path(__file__).parent / "programs")
    layers: tuple[str, ...] = ()
    health: HealthConfig | None = None
    stop_signal: str = ""

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
    health: HealthConfig | None = None
    stop_signal: str = ""

    @property
    def lower(self) -> str:
        return self.path


Image = HostImage | RootfsImage

WHOAMI = HostImage(entrypoint=(*_PYTHON, f"{PROGRAMS}/whoami.py"), command=())


def _program(name: str, *arguments: str) -> HostImage:
    """An image that runs one of the project's own programs; a command that is given runs instead of it."""
    return HostImage(command=(*_PYTHON, f"{PROGRAMS}/{name}.py", *arguments))


# What tutorials use, with a program that behaves alike on the wire where the machine has none.
BUILT_IN: dict[str, Image] = {
    "whoami": WHOAMI,
    "jwilder/whoami": WHOAMI,
    "traefik/whoami": WHOAMI,
    **dict.fromkeys(("alpine", "busybox", "debian", "ubuntu", "host"), HostImage()),
    **{kind: _program("web", kind) for kind in ("nginx", "httpd", "tomcat", "wordpress", "elasticsearch")},
    "redis": _program("redis"),
    **dict.fromkeys(("mysql", "mariadb"), _program("mysql")),
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


def familiar(reference: str) -> str:
    """The name and tag that people use for an image: no default registry, `latest` without a tag.

    >>> familiar("docker.io/library/nginx")
    'nginx:latest'
    """
    name = reference.partition("@")[0]
    tag = name.rpartition("/")[2].partition(":")[2]
    return f"{repository(name)}:{tag or 'latest'}"


class Images:
    """Finds images: the lab's own first, then imported ones (`store`), then the built-in ones."""

    def __init__(
        self,
        images: Mapping[str, Any] | None = None,
        store: str = "",
        base: str = ".",
        layers: tuple[str, ...] = (),
    ) -> None:
        """`images` and `base` as for `from_mapping`, `store` the directory of an image store ("" for none).

        `layers` are directories that host images show over the machine's root, the first on top.
        """
        self._layers = layers
        self._images = {repository(name): image for name, image in from_mapping(images or {}, base).items()}
        self._store = ImageStore(store) if store else None

    def find(self, reference: str) -> Image:
        """The image of that name, at any tag if it is of the catalogue. NotFoundError in Docker's words."""
        name = repository(reference)
        image = self._images.get(name)
        if image is None and self._store is not None:
            stored = self.stored(reference)
            image = self.rootfs(stored) if stored is not None else None
            name = self._store.aliases().get(familiar(reference), name) if image is None else name
        if image is None:
            image = self._images.get(name) or BUILT_IN.get(name)
        if image is None:
            raise NotFoundError(f"No such image: {reference}")
        if self._layers and isinstance(image, HostImage):
            return replace(image, layers=self._layers)
        return image

    def has(self, reference: str) -> bool:
        """Whether there is an image of that name now."""
        try:
            self.find(reference)
        except NotFoundError:
            return False
        return True

    def check(self, reference: str) -> None:
        """NotFoundError, with what to do in a lab, if there is no such image."""
        try:
            self.find(reference)
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}; name it in the lab's images, or give it a `rootfs:` there (docs/lab.md)"
            ) from None

    def stored(self, reference: str) -> StoredImage | None:
        """The imported image that is meant by a name, or by (the beginning of) an id."""
        if self._store is None or repository(reference) in self._images:
            return None
        found = self._store.find(familiar(reference))
        if found is None and _ID.fullmatch(reference):
            found = self._store.with_id(reference)
        return found

    def identity(self, reference: str) -> str:
        """The id of the image of that name, `sha256:` and 64 hex digits; "" if there is none."""
        try:
            image = self.find(reference)
        except NotFoundError:
            return ""
        stored = self.stored(reference)
        return f"sha256:{stored.id if stored is not None else _made_up(image)}"

    def rootfs(self, stored: StoredImage) -> RootfsImage:
        """An imported image as it is run."""
        path = self._store.rootfs(stored) if self._store is not None else ""
        return RootfsImage(
            path,
            stored.entrypoint,
            stored.command,
            stored.env,
            stored.workdir,
            stored.user,
            health=_health(stored.config.get("Healthcheck")),
            stop_signal=str(stored.config.get("StopSignal") or ""),
        )

    @property
    def store(self) -> ImageStore:
        """Where imported images are. MeshnetError if there is no such place."""
        if self._store is None:
            raise MeshnetError("images cannot be imported here", 501)
        return self._store

    def catalogue(self) -> dict[str, Image]:
        """The lab's and the project's own images by repository: they answer at any tag."""
        return {**BUILT_IN, **self._images}

    def names(self) -> list[str]:
        """The names that the lab, the store and the project itself define, sorted."""
        stored = self._store.names() if self._store is not None else ()
        return sorted({*self._images, *stored, *BUILT_IN})


def _made_up(image: Image) -> str:
    """An id for an image that was never built: the same for the same content, whatever its name."""
    return sha256(repr(image).encode()).hexdigest()


def _health(check: Any) -> HealthConfig | None:
    """An image's own health check, with Docker's defaults; None for what is none."""
    if not isinstance(check, dict) or not isinstance(check.get("Test"), list) or not check["Test"]:
        return None
    times = {name: check.get(name) for name in ("Interval", "Timeout", "StartPeriod", "Retries")}
    given = {name: value if isinstance(value, int) and value > 0 else 0 for name, value in times.items()}
    return HealthConfig(
        tuple(str(word) for word in check["Test"]),
        (given["Interval"] or 30 * SECOND) / SECOND,
        (given["Timeout"] or 30 * SECOND) / SECOND,
        given["Retries"] or 3,
        given["StartPeriod"] / SECOND,
    )


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
