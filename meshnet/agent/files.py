"""Secrets and configs of a task as files in its container: what the service says of each, with the data (pure)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from meshnet.errors import MeshnetError
from meshnet.model import ConfigReference, ContainerSpec, SecretReference
from meshnet.sandbox.memory import MemoryFile

SECRETS = "/run/secrets"


def memory_files(spec: ContainerSpec, secrets: Mapping[str, str], configs: Mapping[str, str]) -> tuple[MemoryFile, ...]:
    """The files of a container. `secrets` and `configs` are the data by id, base64 as in the Engine API.

    MeshnetError for one that the node was not given, or that is no file.
    """
    found = [_secret(reference, secrets) for reference in spec.secrets if reference.file is not None]
    found += [_config(reference, configs) for reference in spec.configs if reference.file is not None]
    return tuple(found)


def _secret(reference: SecretReference, data: Mapping[str, str]) -> MemoryFile:
    return _file(f"secret {reference.secret_name}", reference, data.get(reference.secret_id), SECRETS)


def _config(reference: ConfigReference, data: Mapping[str, str]) -> MemoryFile:
    return _file(f"config {reference.config_name}", reference, data.get(reference.config_id), "/")


def _file(what: str, reference: SecretReference | ConfigReference, data: str | None, folder: str) -> MemoryFile:
    file = reference.file
    if file is None or data is None:
        raise MeshnetError(f"{what}: this node was not given it")
    target = file.name if file.name.startswith("/") else f"{folder.rstrip('/')}/{file.name}"
    if not file.uid.isdecimal() or not file.gid.isdecimal():
        raise MeshnetError(f"{what}: its owner must be given by numbers, not {file.uid}:{file.gid}")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise MeshnetError(f"{what}: its data is not base64") from None
    return MemoryFile(target, content, int(file.uid), int(file.gid), file.mode & 0o7777)
