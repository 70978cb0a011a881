"""GET /containers/{id}/stats: what a container uses, once or every second."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from aiohttp import web

from meshnet.agent.inventory import Entry
from meshnet.api import words
from meshnet.api.http import flag
from meshnet.api.node.containers import entry_of
from meshnet.api.node.context import sent
from meshnet.sandbox import usage
from meshnet.sandbox.usage import Usage

Json = dict[str, Any]
PERIOD = 1.0  # s between two looks, Docker's
PATIENCE = 20.0  # s that a client gets to take one
COUNTERS = ("bytes", "packets", "errors", "dropped")


async def stats(request: web.Request) -> web.StreamResponse:
    """With `stream` (the default) until the container ends or the client goes, and `one-shot`: one look, not two."""
    entry = entry_of(request)
    stream = request.query.get("stream") is None or flag(request, "stream")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    before: Json | None = None
    if not stream and not flag(request, "one-shot") and entry.status == "running":
        before = _look(entry)
        await asyncio.sleep(PERIOD)
    while True:
        now = _look(entry)
        await sent(request, response, json.dumps(_shown(entry, now, before)).encode() + b"\n", PATIENCE)
        if not stream or entry.status != "running":
            break
        before = now
        await asyncio.sleep(PERIOD)
    await response.write_eof()
    return response


def _look(entry: Entry) -> Json:
    """The part of the answer that the next one repeats as `precpu_stats`, and what is shown once."""
    if entry.status != "running":
        return {"read": words.NEVER, "cpu": _no_cpu(), "usage": None}
    found = usage.look(entry.spec.cgroup, entry.pid)
    return {"read": words.stamp(time.time()), "cpu": _cpu(found), "usage": found}


def _shown(entry: Entry, now: Json, before: Json | None) -> Json:
    found: Usage | None = now["usage"]
    return {
        "read": now["read"],
        "preread": before["read"] if before is not None else words.NEVER,
        "pids_stats": {"current": found.processes} if found is not None else {},
        "blkio_stats": _disk(found),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": now["cpu"],
        "precpu_stats": before["cpu"] if before is not None else _no_cpu(),
        "memory_stats": (
            {"usage": found.memory, "stats": found.memory_detail, "limit": found.memory_limit}
            if found is not None
            else {}
        ),
        "name": f"/{entry.name}",
        "id": entry.id,
        **({"networks": _networks(found)} if found is not None and found.interfaces else {}),
    }


def _cpu(found: Usage) -> Json:
    return {
        "cpu_usage": {
            "total_usage": found.cpu,
            "usage_in_kernelmode": found.cpu_system,
            "usage_in_usermode": found.cpu_user,
        },
        "system_cpu_usage": usage.machine_cpu(),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": found.periods,
            "throttled_periods": found.throttled,
            "throttled_time": found.throttled_time,
        },
    }


def _no_cpu() -> Json:
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def _disk(found: Usage | None) -> Json:
    disk = found.disk if found is not None else ()
    sizes = [_entry(row, op, row[at]) for row in disk for op, at in (("read", 2), ("write", 3))]
    counts = [_entry(row, op, row[at]) for row in disk for op, at in (("read", 4), ("write", 5))]
    absent = ("io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive")
    return {
        "io_service_bytes_recursive": sizes or None,
        "io_serviced_recursive": counts or None,
        **dict.fromkeys((*absent, "io_time_recursive", "sectors_recursive"), None),
    }


def _entry(row: tuple[int, ...], op: str, value: int) -> Json:
    return {"major": row[0], "minor": row[1], "op": op, "value": value}


def _networks(found: Usage) -> Json:
    return {
        name: {
            f"{way}_{counter}": counters[place + offset]
            for offset, way in ((0, "rx"), (4, "tx"))
            for place, counter in enumerate(COUNTERS)
        }
        for name, counters in found.interfaces.items()
    }


ROUTES: tuple[tuple[str, str, Any], ...] = (("GET", "/containers/{id}/stats", stats),)
