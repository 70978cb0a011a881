"""Images: those of the catalogue, which are there at any tag, and those that were imported.

The imported ones are shared by the nodes of a lab, as if each had pulled them from a registry. No registry is ever
asked: what is nowhere here exists nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aiohttp import web

from meshnet.agent import inventory
from meshnet.agent.agent import Agent
from meshnet.api import filters, words
from meshnet.api.http import answer, flag
from meshnet.api.node.context import agent_of, node_of
from meshnet.api.node.uploads import uploaded
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.sandbox import importing
from meshnet.sandbox.images import Image, Images, familiar, repository

Json = dict[str, Any]
FILTERS = ("reference", "dangling", "label", "before", "since", "until")
NAMELESS = "<none>:<none>"
MADE = Path(importing.__file__).stat().st_mtime  # of the catalogue's images: they are as old as this installation
NAME = r"/images/{name:.+}"
NOWHERE = (
    "No such image: {}: it is neither of the catalogue nor loaded, and no registry is ever asked; see docker image ls, "
    "or bring it with docker load or docker import"
)


def _images(request: web.Request) -> Images:
    return agent_of(request).containers.images


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"No such image: {name if ':' in name.rpartition('/')[2] else name + ':latest'}")


def rows(images: Images) -> dict[str, Json]:
    """Every image by its id, with all its names."""
    found: dict[str, Json] = {}
    for stored in images.store.images():
        found[f"sha256:{stored.id}"] = _row(
            f"sha256:{stored.id}", list(stored.names), stored.created, stored.size, stored.config
        )
    names = [(name, name) for name in images.catalogue()] + list(images.store.aliases().items())
    for name, of in names:
        ident = images.identity(of)
        row = found.setdefault(ident, _row(ident, [], MADE, 0, {}))
        row["RepoTags"] = sorted({*row["RepoTags"], familiar(name)} - {NAMELESS})
    return found


def _row(ident: str, names: list[str], created: float, size: int, config: Json) -> Json:
    return {
        "Id": ident,
        "ParentId": "",
        "RepoTags": sorted(familiar(name) for name in names) or [NAMELESS],
        "RepoDigests": [],
        "Created": int(created),
        "Size": size,
        "SharedSize": -1,
        "VirtualSize": size,
        "Labels": config.get("Labels"),
        "Containers": -1,
    }


async def list_images(request: web.Request) -> web.Response:
    """GET /images/json, with `filters`."""
    wanted = filters.parse(request.query.get("filters", ""), FILTERS)
    shown = [_named(row, wanted) for row in rows(_images(request)).values() if _matches(row, wanted)]
    return answer(sorted(shown, key=lambda row: (-row["Created"], row["RepoTags"])))


def _named(row: Json, wanted: filters.Filters) -> Json:
    """The row with those of its names that were asked for."""
    if "reference" not in wanted:
        return row
    names = [name for name in row["RepoTags"] if any(_fits(name, reference) for reference in wanted["reference"])]
    return {**row, "RepoTags": names}


def _matches(row: Json, wanted: filters.Filters) -> bool:
    dangling = ("true", "1") if row["RepoTags"] == ["<none>:<none>"] else ("false", "0")
    return (
        ("reference" not in wanted or bool(_named(row, wanted)["RepoTags"]))
        and filters.labels_match(wanted, "label", row["Labels"] or {})
        and filters.any_equal(wanted, "dangling", *dangling)
    )


def _fits(name: str, reference: str) -> bool:
    return fnmatchcase(name, reference) or fnmatchcase(repository(name), reference)


async def inspect(request: web.Request) -> web.Response:
    """GET /images/{name}/json"""
    images, name = _images(request), request.match_info["name"]
    try:
        image = images.find(name)
    except NotFoundError:
        raise NotFoundError(f"no such image: {name}: {_missing(name)}") from None
    stored = images.stored(name)
    ident = images.identity(name)
    created, size, config = (stored.created, stored.size, stored.config) if stored is not None else (MADE, 0, {})
    row = rows(images).get(ident, {"RepoTags": []})
    return answer(
        {
            "Id": ident,
            "RepoTags": [tag for tag in row["RepoTags"] if tag != "<none>:<none>"],
            "RepoDigests": [],
            "Parent": "",
            "Comment": "",
            "Created": words.stamp(created),
            "Container": "",
            "DockerVersion": "",
            "Author": "",
            "Config": {**_config(image), **({key: value for key, value in config.items() if value is not None})},
            "Architecture": "amd64",
            "Os": "linux",
            "Size": size,
            "VirtualSize": size,
            "GraphDriver": {"Data": None, "Name": "overlay"},
            "RootFS": {"Type": "layers", "Layers": [ident]},
            "Metadata": {"LastTagTime": words.NEVER},
        }
    )


def _config(image: Image) -> Json:
    return {
        "Hostname": "",
        "Domainname": "",
        "User": image.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": list(image.env) or None,
        "Cmd": list(image.command) or None,
        "Image": "",
        "Volumes": None,
        "WorkingDir": image.workdir,
        "Entrypoint": list(image.entrypoint) or None,
        "OnBuild": None,
        "Labels": None,
    }


async def history(request: web.Request) -> web.Response:
    """GET /images/{name}/history: one step, since layers are not kept apart."""
    images, name = _images(request), request.match_info["name"]
    try:
        images.find(name)
    except NotFoundError:
        raise _missing(name) from None
    row = rows(images)[images.identity(name)]
    step = {"Id": row["Id"], "Created": row["Created"], "CreatedBy": "", "Tags": row["RepoTags"], "Size": row["Size"]}
    return answer([{**step, "Comment": ""}])


async def create(request: web.Request) -> web.StreamResponse:
    """POST /images/create: with `fromImage` a pull, with `fromSrc=-` the import of a root file system."""
    if request.query.get("fromSrc"):
        return await _import(request)
    name, tag = request.query.get("fromImage", ""), request.query.get("tag", "")
    if not name:
        raise MeshnetError("fromImage: the name of an image is needed")
    asked = f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}" if tag else name
    try:
        _images(request).find(asked)
    except NotFoundError:
        raise NotFoundError(NOWHERE.format(asked if "@" in asked else familiar(asked))) from None
    shown, path = familiar(asked), repository(asked)
    agent_of(request).events.publish("image", "pull", shown, {"name": repository(asked)})
    return _lines(
        {"status": f"Pulling from {path if '/' in path else f'library/{path}'}", "id": shown.rpartition(":")[2]},
        {"status": f"Status: Image is up to date for {shown}"},
    )


def _lines(*messages: Json) -> web.Response:
    """A stream of JSON messages: in chunks, by which clients know it from one message."""
    text = "".join(json.dumps(message) + "\r\n" for message in messages)
    response = web.Response(body=text.encode(), content_type="application/json")
    response.enable_chunked_encoding()
    return response


async def _import(request: web.Request) -> web.StreamResponse:
    node = node_of(request)
    if request.query["fromSrc"] != "-":
        raise MeshnetError("fromSrc: only what is sent with the request can be imported (docker import FILE)", 501)
    repo, tag = request.query.get("repo", ""), request.query.get("tag", "")
    names = (f"{repo}:{tag}" if tag else repo,) if repo else ()
    store = _images(request).store
    config = _changed(request.query.getall("changes", []))
    async with uploaded(request) as path:
        with _unplaced(path):
            image = await node.complete(asyncio.to_thread(importing.import_rootfs, store, path, names, config))
    node.agent.events.publish("image", "import", f"sha256:{image.id}", {"name": f"sha256:{image.id}"})
    return _lines({"status": f"sha256:{image.id}"})


def _changed(changes: list[str]) -> Json:
    """The configuration that `docker import --change` asks for: the instructions that concern running."""
    config: Json = {"Cmd": ["/bin/sh"]}
    fields = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint", "WORKDIR": "WorkingDir", "USER": "User", "ENV": "Env"}
    for change in changes:
        name, _, value = change.strip().partition(" ")
        field, value = fields.get(name.upper(), ""), value.strip()
        if not field or not value:
            raise MeshnetError(f"changes: {change!r} is none of {', '.join(fields)}")
        if field in ("Cmd", "Entrypoint"):
            try:
                found = json.loads(value)
            except ValueError:
                found = ["/bin/sh", "-c", value]
            config[field] = [str(word) for word in found] if isinstance(found, list) else [value]
        elif field == "Env":
            config.setdefault("Env", []).append(value if "=" in value else value.replace(" ", "=", 1))
        else:
            config[field] = value
    return config


@contextlib.contextmanager
def _unplaced(path: str) -> Iterator[None]:
    """Complaints about a request's body without the path at which it was kept meanwhile."""
    try:
        yield
    except MeshnetError as error:
        raise MeshnetError(str(error).removeprefix(f"{path}: "), error.status) from None


async def load(request: web.Request) -> web.Response:
    """POST /images/load: what `docker save` wrote, or an OCI layout."""
    node = node_of(request)
    store = _images(request).store
    async with uploaded(request) as path:
        with _unplaced(path):
            found = await node.complete(asyncio.to_thread(importing.load_archive, store, path))
    for image in found:
        node.agent.events.publish("image", "load", f"sha256:{image.id}", {"name": f"sha256:{image.id}"})
    return _lines(*({"stream": f"Loaded image: {name}\n"} for image in found for name in image.names))


async def tag(request: web.Request) -> web.Response:
    """POST /images/{name}/tag, with `repo` and `tag`."""
    images, name = _images(request), request.match_info["name"]
    repo, text = request.query.get("repo", ""), request.query.get("tag", "")
    if not repo or any(char.isspace() or char.isupper() for char in repo):
        raise MeshnetError(f"invalid reference format: {repo!r}")
    fresh = familiar(f"{repo}:{text}" if text else repo)
    try:
        images.find(name)
    except NotFoundError:
        raise _missing(name) from None
    if repository(fresh) in images.catalogue():
        raise ConflictError(f"{repository(fresh)} is an image of the catalogue, which answers at any tag")
    stored = images.stored(name)
    aliases = images.store.aliases()
    if stored is not None:
        images.store.tag(stored, fresh)
        aliases.pop(fresh, None)
    else:
        aliases[fresh] = aliases.get(familiar(name), repository(name))
    images.store.set_aliases(aliases)
    agent_of(request).events.publish("image", "tag", images.identity(fresh), {"name": fresh})
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    """DELETE /images/{name}, with `force`: the name, and with its last name the image."""
    agent, images, name = agent_of(request), _images(request), request.match_info["name"]
    aliases, shown = images.store.aliases(), familiar(name)
    stored = images.stored(name)
    if stored is None:
        if shown in aliases:
            del aliases[shown]
            images.store.set_aliases(aliases)
            agent.events.publish("image", "untag", shown, {"name": shown})
            return answer([{"Untagged": shown}])
        if repository(name) in images.catalogue():
            raise ConflictError(f"conflict: unable to remove repository reference {name!r}: it is of the catalogue")
        raise _missing(name)
    ident = f"sha256:{stored.id}"
    if shown in stored.names and len(stored.names) > 1:
        images.store.untag(stored, shown)
        agent.events.publish("image", "untag", ident, {"name": ident})
        return answer([{"Untagged": shown}])
    user = _user_of(agent, ident)
    if user is not None and not flag(request, "force"):
        raise ConflictError(
            f"conflict: unable to remove repository reference {name!r} (must force) - container {user[:12]} is using "
            f"its referenced image {stored.id[:12]}"
        )
    if user is not None and _runs(agent, ident):
        raise ConflictError(
            f"conflict: unable to delete {stored.id[:12]} (cannot be forced) - image is being used by running "
            f"container {user[:12]}"
        )
    images.store.delete(stored)
    agent.events.publish("image", "delete", ident, {"name": ident})
    return answer([*({"Untagged": one} for one in stored.names), {"Deleted": ident}])


def _user_of(agent: Agent, ident: str) -> str | None:
    """A container of the image on this node."""
    there = inventory.entries(agent)
    return next((entry.id for entry in there if agent.containers.image_id(entry.spec.image) == ident), None)


def _runs(agent: Agent, ident: str) -> bool:
    there = inventory.entries(agent)
    return any(e.status == "running" and agent.containers.image_id(e.spec.image) == ident for e in there)


async def prune(request: web.Request) -> web.Response:
    """POST /images/prune: images without a name."""
    images = _images(request)
    gone = [stored for stored in list(images.store.images()) if not stored.names]
    for stored in gone:
        images.store.delete(stored)
    deleted = [{"Deleted": f"sha256:{stored.id}"} for stored in gone]
    return answer({"ImagesDeleted": deleted or None, "SpaceReclaimed": sum(stored.size for stored in gone)})


async def distribution(_: web.Request) -> web.Response:
    """GET /distribution/{name}/json: there is no registry to ask."""
    raise MeshnetError("no registry is reachable", 500)


ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/images/json", list_images),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("POST", "/images/prune", prune),
    ("GET", NAME + "/json", inspect),
    ("GET", NAME + "/history", history),
    ("POST", NAME + "/tag", tag),
    ("DELETE", NAME, remove),
    ("GET", "/distribution/{name:.+}/json", distribution),
)
