"""Services and tasks."""

from __future__ import annotations

import time
from random import SystemRandom

from aiohttp import web

from meshnet.api import filters, lists, shapes, unserved, validate
from meshnet.api.http import answer, answer_text, body_of, flag, manager_of, version_of
from meshnet.api.listing import ServiceTexts
from meshnet.codec import from_json
from meshnet.control import operations
from meshnet.control.manager import Manager
from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import cgroup2_root
from meshnet.model import ServiceSpec

TEXTS = web.AppKey("texts", ServiceTexts)


async def list_services(request: web.Request) -> web.Response:
    """GET /services, with `filters` and `status`."""
    view = manager_of(request).view
    wanted = filters.parse(request.query.get("filters", ""), lists.SERVICES)
    texts = request.config_dict[TEXTS]
    return answer_text(texts.listing(lists.services(view, wanted), view, flag(request, "status")))


async def inspect_service(request: web.Request) -> web.Response:
    """GET /services/{id}, with `insertDefaults`."""
    view = manager_of(request).view
    service = filters.find_service(view, request.match_info["id"])
    return answer(shapes.service(service, view, defaults=flag(request, "insertDefaults")))


async def create_service(request: web.Request) -> web.Response:
    """POST /services/create"""
    manager = manager_of(request)
    spec = await _spec(request)
    changes = await manager.state.write(
        lambda view: operations.create_service(view, spec, manager.ledger(view), manager.new_id)
    )
    created = {"ID": changes.put[0].id}
    warnings = _warnings(manager, spec)
    return answer({**created, "Warnings": warnings} if warnings else created, 201)


async def update_service(request: web.Request) -> web.Response:
    """POST /services/{id}/update?version=N, with `rollback`: `previous` or how many specs to go back."""
    manager = manager_of(request)
    reference, version = request.match_info["id"], version_of(request, "service")
    steps = _rollback(request.query.get("rollback", ""))
    if steps:
        await manager.state.write(
            lambda view: operations.rollback_service(
                view, filters.find_service(view, reference), version, steps, manager.ledger(view), time.time()
            )
        )
        return answer({"Warnings": None})
    spec = await _spec(request)
    await manager.state.write(
        lambda view: operations.update_service(
            view, filters.find_service(view, reference), version, spec, manager.ledger(view)
        )
    )
    return answer({"Warnings": _warnings(manager, spec) or None})


def _rollback(text: str) -> int:
    """How many specs back the `rollback` parameter asks for; 0 for none."""
    if text in ("", "none"):
        return 0
    if text == "previous":
        return 1
    if text.isascii() and text.isdigit() and 0 < int(text[:3]) <= operations.KEPT_SPECS:
        return int(text[:3])
    kept = operations.KEPT_SPECS
    raise MeshnetError(f"unrecognized rollback option {text}: previous, or a number from 1 to {kept}, is needed")


async def _spec(request: web.Request) -> ServiceSpec:
    body = await body_of(request)
    validate.check_runtime(body)
    return validate.service_spec(from_json(ServiceSpec, body), SystemRandom())


def _warnings(manager: Manager, spec: ServiceSpec) -> list[str]:
    """What of a service is without effect on this machine, and the image if it is known to be none."""
    return [*_of_image(manager, spec), *unserved.warnings(spec.task_template, cgroup2_root())]


def _of_image(manager: Manager, spec: ServiceSpec) -> list[str]:
    image, there = spec.task_template.container_spec.image, manager.settings.has_image
    if there is None or there(image):
        return []
    return [f"image {image} is neither of the catalogue nor loaded here: until it is, its tasks will be rejected"]


async def remove_service(request: web.Request) -> web.Response:
    """DELETE /services/{id}"""
    await manager_of(request).state.write(
        lambda view: operations.remove_service(filters.find_service(view, request.match_info["id"]))
    )
    return web.Response()


async def list_tasks(request: web.Request) -> web.Response:
    """GET /tasks, with `filters`."""
    view = manager_of(request).view
    wanted = filters.parse(request.query.get("filters", ""), lists.TASKS)
    return answer([shapes.task(item, view) for item in lists.tasks(view, wanted)])


async def inspect_task(request: web.Request) -> web.Response:
    """GET /tasks/{id}"""
    view = manager_of(request).view
    return answer(shapes.task(filters.find_task(view, request.match_info["id"]), view))
