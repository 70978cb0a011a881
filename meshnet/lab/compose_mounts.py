"""The `volumes` of a compose file: what it declares, and what a service mounts, short and long."""

from __future__ import annotations

import os

from meshnet.containerspec import BindOptions, TmpfsOptions, VolumeOptions
from meshnet.lab.compose_deploy import size
from meshnet.lab.compose_files import STACK, Declared, own_name
from meshnet.lab.compose_words import directory, pairs
from meshnet.lab.compose_words import text as _text
from meshnet.lab.yamlnodes import Value
from meshnet.model import Mount

KEYS = ("driver", "driver_opts", "external", "name", "labels")
LONG = ("type", "source", "target", "read_only", "bind", "volume", "tmpfs")


def declare(value: Value, declared: Declared) -> None:
    """The top-level `volumes`. They come into being where a task needs them."""
    for key, entry in value.map().items():
        keys = entry.map(KEYS)
        if "driver" in keys:
            keys["driver"].choice("local")
        if "driver_opts" in keys and keys["driver_opts"].text_map():
            keys["driver_opts"].error("the driver local has no options here")
        declared.volumes[key] = own_name(key, keys, declared.stack)
        if "labels" in keys:
            pairs(keys["labels"])


def mounts(value: Value, declared: Declared) -> tuple[Mount, ...]:
    """A service's `volumes`."""
    found: list[Mount] = []
    for item in value.list():
        mount = _long(item, declared) if item.is_map else _short(item, declared)
        if mount is None:
            continue
        if any(mount.target == other.target for other in found):
            item.error(f"something is mounted at {mount.target} already")
        found.append(mount)
    return tuple(found)


def _short(value: Value, declared: Declared) -> Mount | None:
    """`name:/target[:ro]`, `/source:/target`, `./source:/target`, or `/target` alone."""
    parts = _text(value).split(":")
    source, target, options = ("", *parts, "") if len(parts) == 1 else (*parts, "")[:3]
    if len(parts) > 3 or options not in ("", "ro", "rw") or not target.startswith("/"):
        value.error("write NAME:/TARGET, /SOURCE:/TARGET or /TARGET, with :ro behind it for reading alone")
        return None
    if source.startswith((".", "/", "~")):
        return Mount("bind", _path(source, declared), target, options == "ro")
    return _volume(value, source, target, options == "ro", declared)


def _path(source: str, declared: Declared) -> str:
    return os.path.normpath(declared.directory.resolve() / os.path.expanduser(source))


def _volume(
    value: Value, source: str, target: str, read_only: bool, declared: Declared, no_copy: bool = False
) -> Mount | None:
    if source and source not in declared.volumes:
        value.error(f"{source} is not declared under the top-level volumes")
        return None
    labels = {STACK: declared.stack} if declared.stack and source else {}
    options = VolumeOptions(no_copy, labels=labels)
    return Mount(
        "volume",
        declared.volumes.get(source, ""),
        target,
        read_only,
        volume_options=options if options != VolumeOptions() else None,
    )


def _long(value: Value, declared: Declared) -> Mount | None:
    keys = value.map(LONG)
    if "target" not in keys:
        value.error("target is missing: where it is in the task")
        return None
    kind = keys["type"].choice("volume", "bind", "tmpfs") if "type" in keys else "volume"
    for other in ("bind", "volume", "tmpfs"):
        if other in keys and other != kind:
            keys[other].error(f"this is for type: {other}")
    target, source = directory(keys["target"]), _text(keys["source"]) if "source" in keys else ""
    read_only = "read_only" in keys and keys["read_only"].flag()
    if kind == "volume":
        options = keys["volume"].map(("nocopy",)) if "volume" in keys else {}
        no_copy = "nocopy" in options and options["nocopy"].flag()
        return _volume(keys.get("source", value), source, target, read_only, declared, no_copy)
    if kind == "tmpfs":
        options = keys["tmpfs"].map(("size",)) if "tmpfs" in keys else {}
        return Mount("tmpfs", "", target, read_only, tmpfs_options=_tmpfs(options))
    if not source:
        value.error("source is missing: a path of the node")
        return None
    options = keys["bind"].map(("propagation",)) if "bind" in keys else {}
    modes = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
    bind = BindOptions(options["propagation"].choice(*modes)) if "propagation" in options else None
    return Mount("bind", _path(source, declared), target, read_only, bind_options=bind)


def _tmpfs(options: dict[str, Value]) -> TmpfsOptions | None:
    return TmpfsOptions(size(options["size"])) if "size" in options else None
