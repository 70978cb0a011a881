"""Secrets and configs."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import TypeVar

from aiohttp import web

from meshnet.api import filters, lists
from meshnet.api.http import answer, body_as, manager_of, version_of
from meshnet.api.shapes import Json, head
from meshnet.codec import shown
from meshnet.control import confidential
from meshnet.control.refusals import invalid
from meshnet.errors import MeshnetError
from meshnet.secretspec import Config, ConfigSpec, Secret, SecretSpec

NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
SECRET_LIMIT = 512_000
CONFIG_LIMIT = 1_024_000
Spec = TypeVar("Spec", SecretSpec, ConfigSpec)


def _described(thing: Secret | Config) -> Json:
    """A secret is shown without its data."""
    return {**head(thing), "Spec": shown(thing.spec)}


def _checked(spec: Spec, kind: str, limit: int) -> Spec:
    """The spec of something new, with the labels and the data that it must have. Raises MeshnetError."""
    if len(spec.name) > 64 or not NAME.fullmatch(spec.name):
        words = "only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
        raise invalid(f"invalid name, {words}")
    if isinstance(spec, SecretSpec) and spec.driver is not None:
        raise MeshnetError("Driver: secrets from a driver are not supported; give the data itself", 501)
    if spec.templating is not None and spec.templating.name:
        raise MeshnetError("Templating: templates are not filled in here; give the data as it shall be read", 501)
    try:
        size = len(b64decode(spec.data, validate=True))
    except (binascii.Error, ValueError):
        raise MeshnetError("Data: illegal base64 data") from None
    if not 0 < size < limit:
        raise invalid(f"{kind} data must be larger than 0 and less than {limit} bytes")
    return spec


async def list_secrets(request: web.Request) -> web.Response:
    """GET /secrets, with `filters`."""
    wanted = filters.parse(request.query.get("filters", ""), lists.CONFIDENTIAL)
    return answer([_described(item) for item in lists.confidential(manager_of(request).view.secrets, wanted)])


async def inspect_secret(request: web.Request) -> web.Response:
    """GET /secrets/{id}"""
    return answer(_described(filters.find_secret(manager_of(request).view, request.match_info["id"])))


async def create_secret(request: web.Request) -> web.Response:
    """POST /secrets/create"""
    manager = manager_of(request)
    spec = _checked(await body_as(SecretSpec, request), "secret", SECRET_LIMIT)
    changes = await manager.state.write(
        lambda view: confidential.create_secret(view, spec, manager.vault, manager.new_id)
    )
    return answer({"ID": changes.put[0].id}, 201)


async def update_secret(request: web.Request) -> web.Response:
    """POST /secrets/{id}/update?version=N: labels only."""
    manager, reference = manager_of(request), request.match_info["id"]
    version, spec = version_of(request, "secret"), await body_as(SecretSpec, request)
    await manager.state.write(
        lambda view: confidential.update_secret(filters.find_secret(view, reference), version, spec, manager.vault)
    )
    return web.Response()


async def remove_secret(request: web.Request) -> web.Response:
    """DELETE /secrets/{id}"""
    reference = request.match_info["id"]
    await manager_of(request).state.write(
        lambda view: confidential.remove_secret(view, filters.find_secret(view, reference))
    )
    return web.Response(status=204)


async def list_configs(request: web.Request) -> web.Response:
    """GET /configs, with `filters`."""
    wanted = filters.parse(request.query.get("filters", ""), lists.CONFIDENTIAL)
    return answer([_described(item) for item in lists.confidential(manager_of(request).view.configs, wanted)])


async def inspect_config(request: web.Request) -> web.Response:
    """GET /configs/{id}"""
    return answer(_described(filters.find_config(manager_of(request).view, request.match_info["id"])))


async def create_config(request: web.Request) -> web.Response:
    """POST /configs/create"""
    manager = manager_of(request)
    spec = _checked(await body_as(ConfigSpec, request), "config", CONFIG_LIMIT)
    changes = await manager.state.write(lambda view: confidential.create_config(view, spec, manager.new_id))
    return answer({"ID": changes.put[0].id}, 201)


async def update_config(request: web.Request) -> web.Response:
    """POST /configs/{id}/update?version=N: labels only."""
    reference = request.match_info["id"]
    version, spec = version_of(request, "config"), await body_as(ConfigSpec, request)
    await manager_of(request).state.write(
        lambda view: confidential.update_config(filters.find_config(view, reference), version, spec)
    )
    return web.Response()


async def remove_config(request: web.Request) -> web.Response:
    """DELETE /configs/{id}"""
    reference = request.match_info["id"]
    await manager_of(request).state.write(
        lambda view: confidential.remove_config(view, filters.find_config(view, reference))
    )
    return web.Response(status=204)
