"""What all routes share: reading a request, refusing one, answering in JSON, the API version in the path."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from meshnet.api import shapes
from meshnet.api.bodies import decoded
from meshnet.codec import from_json
from meshnet.control.manager import Manager
from meshnet.errors import MeshnetError

log = logging.getLogger(__name__)
T = TypeVar("T")
MANAGER = web.AppKey("manager", Manager)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIMIT = 4 * 2**20


def manager_of(request: web.Request) -> Manager:
    return request.config_dict[MANAGER]


async def body_of(request: web.Request) -> Any:
    """The decoded JSON body. Raises MeshnetError if it is none."""
    return decoded(await request.read())


async def body_as(cls: type[T], request: web.Request) -> T:
    """The JSON body as `cls`. Raises MeshnetError naming the field that is wrong."""
    return from_json(cls, await body_of(request))


def json_text(value: Any) -> str:
    """JSON as the Engine writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def answer(value: Any, status: int = 200) -> web.Response:
    """A value as JSON."""
    return answer_text(json_text(value), status)


def answer_text(text: str, status: int = 200) -> web.Response:
    """JSON without a charset: the docker CLI reads errors of exactly this type only."""
    body = text.encode(errors="replace") + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def version_of(request: web.Request, what: str) -> int:
    """The `version` parameter of an update. Raises MeshnetError."""
    text = request.query.get("version", "")
    if not text.isascii() or not text.isdigit():
        raise MeshnetError(f"invalid {what} version '{text}': strconv.ParseUint: parsing \"{text}\": invalid syntax")
    if len(text) > 19:
        raise MeshnetError(
            f"invalid {what} version '{text}': strconv.ParseUint: parsing \"{text}\": value out of range"
        )
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A boolean parameter as the Engine reads it."""
    return request.query.get(name, "").lower() not in ("", "0", "no", "false", "none")


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as `{"message": ...}`, the Engine's headers, and a word about versions that are too new."""
    try:
        _check_version(request.match_info.get("version", ""))
        response = await handler(request)
    except MeshnetError as error:
        response = answer({"message": str(error)}, error.status)
    except web.HTTPNotFound:
        response = answer({"message": "page not found"}, 404)
    except web.HTTPRequestEntityTooLarge:
        response = answer({"message": f"the request body is larger than {LIMIT} bytes"}, 413)
    except web.HTTPException as error:
        response = answer({"message": error.reason}, error.status)
    except ConnectionResetError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        response = answer({"message": "the client has gone"}, 400)  # for nobody
    except Exception:  # a fault here: the client gets an answer, the log the traceback
        log.exception("%s %s failed", request.method, request.path)
        response = answer({"message": "internal error; the manager's log has the reason"}, 500)
    if not response.prepared:
        response.headers["Api-Version"] = shapes.API_VERSION
        response.headers["Docker-Experimental"] = "false"
        response.headers["Ostype"] = "linux"
        response.headers["Server"] = f"Docker/{shapes.ENGINE_VERSION} (linux)"
    return response


def _check_version(text: str) -> None:
    if not text:
        return
    asked = tuple(int(part) for part in text.split("."))
    if asked > _numbers(shapes.API_VERSION):
        raise MeshnetError(
            f"client version {text} is too new. Maximum supported API version is {shapes.API_VERSION}", 400
        )
    if asked < _numbers(shapes.MINIMUM_API_VERSION):
        raise MeshnetError(
            f"client version {text} is too old. Minimum supported API version is {shapes.MINIMUM_API_VERSION}, "
            "please upgrade your client to a newer version",
            400,
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
