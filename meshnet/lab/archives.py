"""Root file systems that a lab brings as archives: unpacked once for all its nodes, gone with the lab."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from meshnet import names
from meshnet.lab.spec import Lab


def unpacked(lab: Lab) -> Lab:
    """The lab with every `rootfs` archive replaced by the directory it was unpacked to.

    What an image archive says of its command and environment holds where the lab file says nothing. Raises
    MeshnetError for a file that is no archive.
    """
    return dataclasses.replace(lab, images={name: _unpacked(lab, name, image) for name, image in lab.images.items()})


def _unpacked(lab: Lab, name: str, image: Any) -> Any:
    if not isinstance(image, dict) or not os.path.isfile(str(image.get("rootfs", ""))):
        return image
    from meshnet.sandbox.importing import import_archive
    from meshnet.sandbox.store import ImageStore

    store = ImageStore(f"{names.lab_dir(lab.name)}/images")
    stored = import_archive(store, image["rootfs"], name)
    own: dict[str, Any] = {
        "entrypoint": list(stored.entrypoint),
        "command": list(stored.command),
        "env": list(stored.env),
        "workdir": stored.workdir,
        "user": stored.user,
    }
    return {**own, **image, "rootfs": store.rootfs(stored)}
