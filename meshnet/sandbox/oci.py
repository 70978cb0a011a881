"""Which files of an OCI image layout make up its images (OCI image specification 1.0, image-layout.md)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INDEX = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
DEPTH = 4  # indexes within indexes


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of an archive: the names of its configuration and layers in the archive, and its own names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...] = ()


def manifests(read: Callable[[str], Any]) -> list[Manifest]:
    """The images of a layout that run here. `read` gives the JSON of a file by name.

    KeyError, TypeError or ValueError for what is no layout.
    """
    found = []
    for item in read("index.json")["manifests"]:
        name = next((str(item.get("annotations", {}).get(key, "")) for key in NAMES if key in _notes(item)), "")
        manifest = _resolved(read, item, 0)
        if manifest is not None:
            config, layers = manifest["config"]["digest"], [layer["digest"] for layer in manifest["layers"]]
            found.append(Manifest(blob(config), tuple(map(blob, layers)), (name,) if name else ()))
    if not found:
        raise ValueError("it has no image for this machine")
    return found


def _notes(item: dict[str, Any]) -> dict[str, Any]:
    return item.get("annotations") or {}


def _resolved(read: Callable[[str], Any], item: dict[str, Any], depth: int) -> dict[str, Any] | None:
    """The manifest behind a descriptor; of an index the one for this machine, None if there is none."""
    wanted = item.get("platform")
    if wanted is not None and not _runs_here(wanted):
        return None
    content: dict[str, Any] = read(blob(item["digest"]))
    if item.get("mediaType") not in INDEX and "manifests" not in content:
        return content
    if depth >= DEPTH:
        raise ValueError("indexes within indexes")
    inner = (_resolved(read, one, depth + 1) for one in content["manifests"])
    return next((one for one in inner if one is not None), None)


def _runs_here(wanted: dict[str, Any]) -> bool:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return wanted.get("os") == "linux" and wanted.get("architecture") == machine


def blob(digest: str) -> str:
    """Where the layout has what is named by a digest. ValueError for what is no digest."""
    kind, colon, value = digest.partition(":")
    if not colon or not value.isalnum() or not kind.isalnum():
        raise ValueError(f"{digest!r} is no digest")
    return f"blobs/{kind}/{value}"
