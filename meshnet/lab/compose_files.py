"""What a compose file declares for its services, and its secrets and configs, which are files beside it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from meshnet.containerspec import Driver, ReferenceFile
from meshnet.files import instead_of_file
from meshnet.lab.compose_words import pairs
from meshnet.lab.compose_words import text as _text
from meshnet.lab.yamlnodes import Value
from meshnet.model import ConfigReference, NetworkSpec, SecretReference
from meshnet.secretspec import ConfigSpec, SecretSpec

STACK = "com.docker.stack.namespace"
KEYS = ("file", "external", "name", "labels", "template_driver")
# What a manager takes at most, in bytes (swarmkit).
LIMITS = {"secrets": 512_000, "configs": 1_024_000}
NAME, MAX_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?"), 64
MAX_ID = 2**32 - 2
Spec = TypeVar("Spec", SecretSpec, ConfigSpec)


@dataclass(slots=True)
class Declared:
    """What services can refer to: name in the file -> name in the swarm, which is the same without a `stack`."""

    stack: str = ""
    directory: Path = Path()
    networks: dict[str, NetworkSpec] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)

    def scoped(self, name: str) -> str:
        return f"{self.stack}_{name}" if self.stack else name

    def default_network(self) -> NetworkSpec:
        """The network of services that name none."""
        return NetworkSpec(name=self.scoped("default"), labels={STACK: self.stack} if self.stack else {})


def own_name(key: str, keys: Mapping[str, Value], stack: str) -> str:
    """The name in the swarm of something declared: what its `name` says, its own if it is external, else scoped."""
    if "name" in keys:
        return keys["name"].text()
    external = "external" in keys and keys["external"].flag()
    return key if external or not stack else f"{stack}_{key}"


def specs(
    kind: str, cls: type[Spec], value: Value, declared: Declared
) -> tuple[list[tuple[Value, Spec]], list[tuple[Value, str]]]:
    """The top-level `secrets` or `configs`, with their places: those to be made, and the names of external ones."""
    made, external = [], []
    for key, entry in value.map().items():
        keys = entry.map(KEYS)
        name = own_name(key, keys, declared.stack)
        getattr(declared, kind)[key] = name
        if "external" in keys and keys["external"].flag():
            external.append((entry, name))
            continue
        if len(name) > MAX_NAME or not NAME.fullmatch(name):
            entry.error(f"{name!r} is no name: up to {MAX_NAME} letters, digits, -, _ and dots are allowed")
        if "file" not in keys:
            entry.error("file is missing: the path of a file with its content (or external: true)")
            continue
        templating = Driver(keys["template_driver"].choice("golang")) if "template_driver" in keys else None
        data = _content(keys["file"], declared.directory, kind)
        spec = cls(name=name, labels=_labels(keys, declared), data=data, templating=templating)
        made.append((entry, spec))
    return made, external


def _labels(keys: dict[str, Value], declared: Declared) -> dict[str, str]:
    return (pairs(keys["labels"]) if "labels" in keys else {}) | ({STACK: declared.stack} if declared.stack else {})


def _content(value: Value, directory: Path, kind: str) -> str:
    """A file's content in base64, bounded; "" after a complaint."""
    path = directory / _text(value)
    if other := instead_of_file(path):
        value.error(f"{path} cannot be read: it is {other}, and no regular file")
        return ""
    try:
        with path.open("rb") as stream:
            content = stream.read(LIMITS[kind])
    except OSError as error:
        value.error(f"{path} cannot be read: {error.strerror}")
        return ""
    if not 0 < len(content) < LIMITS[kind]:
        value.error(f"{path}: larger than 0 and less than {LIMITS[kind]} bytes are needed")
    return b64encode(content).decode()


def secret_references(value: Value, declared: Declared) -> tuple[SecretReference, ...]:
    """A service's `secrets`; their ids are known once they are made."""
    return tuple(SecretReference(file, "", name) for name, file in _references(value, declared.secrets, "secrets"))


def config_references(value: Value, declared: Declared) -> tuple[ConfigReference, ...]:
    """A service's `configs`; their ids are known once they are made."""
    return tuple(
        ConfigReference(file, None, "", name) for name, file in _references(value, declared.configs, "configs")
    )


def _references(value: Value, known: Mapping[str, str], kind: str) -> list[tuple[str, ReferenceFile]]:
    found = []
    for item in value.list():
        keys = item.map(("source", "target", "uid", "gid", "mode")) if item.is_map else {"source": item}
        if "source" not in keys:
            item.error(f"source is missing: one of the top-level {kind}")
            continue
        source = keys["source"].text()
        if source not in known:
            keys["source"].error(f"{source} is not declared under the top-level {kind}")
            continue
        # What a service sees of it is called as in the file; a config lies at the root (docker's rule).
        target = keys["target"].text() if "target" in keys else source if kind == "secrets" else f"/{source}"
        uid, gid = (str(keys[key].integer(0, MAX_ID)) if key in keys else "0" for key in ("uid", "gid"))
        mode = _mode(keys["mode"]) if "mode" in keys else 0o444
        found.append((known[source], ReferenceFile(target, uid, gid, mode)))
    return found


def _mode(value: Value) -> int:
    """The bits of a file's mode: 0440 as it is written in YAML and in octal."""
    text = value.text().removeprefix("0o")
    try:
        mode = int(text, 8) if text.startswith("0") or value.text() != text else int(text)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        value.error("a file's mode such as 0440 is needed")
        return 0
    return mode
