"""Commands of docker that this engine does not serve: each says so, and what to do instead."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from meshnet.api.http import Handler, answer
from meshnet.api.unserved import refused
from meshnet.errors import NotFoundError

IMAGE = "/images/{name:.+}"
# Method, path, what it is, and what to do instead.
COMMANDS = (
    ("GET", "/containers/{id}/export", "docker export is", "use docker cp, or exec with tar"),
    ("GET", "/containers/{id}/changes", "docker diff is", "look inside with docker exec"),
    ("POST", "/containers/{id}/update", "docker update is", "make the container again"),
    ("GET", "/containers/{id}/attach/ws", "attaching over a web socket is", "use docker attach"),
    ("POST", "/commit", "docker commit is", "import or load an image"),
    ("POST", "/build", "docker build is", "build elsewhere, and load what docker save wrote"),
    ("POST", "/session", "docker build is", "build elsewhere, and load what docker save wrote"),
    ("POST", "/grpc", "docker build is", "build elsewhere, and load what docker save wrote"),
    ("GET", "/images/search", "docker search is", "no registry is asked; docker images shows what there is"),
    ("POST", IMAGE + "/push", "docker push is", "no registry is asked; load the image on the other machine"),
    ("GET", "/images/get", "docker save is", "keep the archive that the image was loaded from"),
    ("GET", IMAGE + "/get", "docker save is", "keep the archive that the image was loaded from"),
    ("POST", "/auth", "docker login is", "no registry is asked"),
    ("POST", "/plugins/{rest:.+}", "plugins are", "volumes are local, networks overlay"),
)


def _refusing(what: str, instead: str) -> Handler:
    async def refuse(_: web.Request) -> web.StreamResponse:
        raise refused(what, instead)

    return refuse


async def no_cache(_: web.Request) -> web.Response:
    """POST /build/prune: nothing is built, so nothing is kept of it; `docker system prune` asks."""
    return answer({"CachesDeleted": None, "SpaceReclaimed": 0})


async def no_plugin(request: web.Request) -> web.Response:
    """GET /plugins/{name}/json: there are none; `docker inspect` asks for one last of all."""
    raise NotFoundError(f'plugin "{request.match_info["name"]}" not found')


ROUTES: tuple[tuple[str, str, Any], ...] = (
    *((method, path, _refusing(what, instead)) for method, path, what, instead in COMMANDS),
    ("POST", "/build/prune", no_cache),
    ("GET", "/plugins/{name:.+}/json", no_plugin),
)
