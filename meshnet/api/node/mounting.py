"""The mounts of a container that a person starts: binds, mounts, volumes without a name, and tmpfs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import replace

from meshnet.agent.agent import Agent
from meshnet.api.node.hostconfig import HostConfig
from meshnet.api.unserved import PRIVATE, refused
from meshnet.errors import MeshnetError
from meshnet.sandbox.spec import TaskMount

UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
SHARED = ("shared", "rshared", "slave", "rslave")
# Without effect where there is neither SELinux nor a virtual machine between client and engine.
SAME = ("rw", "z", "Z", "consistent", "cached", "delegated", *PRIVATE)
_SIZE = re.compile(r"(\d{1,15})([bkmg]?)", re.IGNORECASE)
_NUMBER = re.compile(r"(uid|gid|nr_inodes)=\d{1,10}")


def mounts_of(agent: Agent, host: HostConfig, anonymous: Collection[str]) -> tuple[TaskMount, ...]:
    """`anonymous` are the targets of volumes without a name. MeshnetError for what is no mount."""
    targets = [*(mount.target for mount in host.mounts), *anonymous, *host.tmpfs]
    for target in targets:
        if not target.startswith("/") or target == "/":
            raise MeshnetError(
                f"invalid mount config: the target must be an absolute path other than /, not {target!r}"
            )
    found = [_bind(agent, text) for text in host.binds]
    for mount in host.mounts:
        tmpfs, volume, bind = mount.tmpfs_options, mount.volume_options, mount.bind_options
        if mount.type == "volume":
            labels = (volume.labels or None) if volume is not None else None
            made = _volume(agent, mount.source or secrets.token_hex(32), mount.target, mount.read_only, labels)
            made = replace(made, no_copy=volume is not None and volume.no_copy)
        elif mount.type in ("bind", "tmpfs"):
            size, mode = (tmpfs.size_bytes, tmpfs.mode) if tmpfs is not None else (0, 0)
            shallow = bind is not None and bind.non_recursive
            made = TaskMount(
                mount.source, mount.target, mount.read_only, mount.type, size=size, mode=mode, shallow=shallow
            )
        else:
            raise MeshnetError(f'mount type unknown: "{mount.type}"')
        found.append(made)
    taken = {mount.target for mount in found}
    found += [_volume(agent, secrets.token_hex(32), target, False) for target in anonymous if target not in taken]
    found += [_tmpfs(target, options) for target, options in host.tmpfs.items()]
    for one in found:
        if one.type == "bind" and not one.source.startswith("/"):
            raise MeshnetError(f'invalid mount config for type "bind": {one.source!r} is no absolute path')
    return tuple(found)


def _volume(agent: Agent, name: str, target: str, read_only: bool, labels: dict[str, str] | None = None) -> TaskMount:
    return TaskMount(agent.host.volume(name, labels), target, read_only, "volume", name)


def _bind(agent: Agent, text: str) -> TaskMount:
    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    words = [word for word in options.split(",") if word]
    if not colon or not target.startswith("/"):
        raise MeshnetError(f"invalid volume specification: '{text}'")
    for word in words:
        if word in SHARED:
            raise refused(f"mount {target}: the propagation {word} is", "mounts of a container are private")
        if word not in ("ro", "nocopy", *SAME):
            raise MeshnetError(f"invalid mode: {word}")
    if source.startswith("/"):
        return TaskMount(source, target, "ro" in words)
    return replace(_volume(agent, source, target, "ro" in words), no_copy="nocopy" in words)


def _tmpfs(target: str, options: str) -> TaskMount:
    """`size=64m`, `mode=1770`, `ro`, `noexec`, owner and number of inodes, as mount(8) writes them."""
    size = mode = 0
    kept = []
    for word in filter(None, options.split(",")):
        name, _, value = word.partition("=")
        measure = _SIZE.fullmatch(value) if name == "size" else None
        if measure is not None:
            size = int(measure[1]) * UNITS[measure[2].lower()]
        elif name == "mode" and re.fullmatch(r"[0-7]{1,4}", value):
            mode = int(value, 8)
        elif word == "noexec" or _NUMBER.fullmatch(word):
            kept.append(word)
        elif word not in ("ro", "rw", "exec", "nosuid", "nodev"):
            raise MeshnetError(f"invalid tmpfs option {word!r}: use size, mode, ro, noexec, uid, gid or nr_inodes")
    return TaskMount("", target, "ro" in options.split(","), "tmpfs", size=size, mode=mode, options=tuple(kept))
