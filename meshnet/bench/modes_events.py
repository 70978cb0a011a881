"""One event under all clients: what is done to both services, and what became of every request."""

from __future__ import annotations

import time

from meshnet.bench import machine, modes
from meshnet.bench.load import Load
from meshnet.bench.modes import MODES, REPLICAS
from meshnet.bench.modes_result import Event, Lived
from meshnet.bench.modes_swarm import Services
from meshnet.bench.pressure import Pressure
from meshnet.bench.timeline import timeline
from meshnet.errors import MeshnetError

_ON_TIME = 0.85  # of the requests that an open loop should have made; times between them are random
BEFORE = 1.0  # s that clients run undisturbed
# s that clients are watched from an event on. Names are kept for 5 s as meshnet answers them; a lost node is replaced
# after three heartbeats of a second.
AFTER = {"add": 7.0, "drain": 7.0, "update": 8.0, "kill": 7.0, "node": 9.0}


def backends(key: str) -> int:
    """How many backends a service has before an event."""
    return REPLICAS + (key == "drain")


def observe(services: Services, load: Load, key: str) -> Event:
    """Has an event happen, and tells what each client lived through. Both services have settled, with as many
    backends as `backends` says."""
    players = modes.living_clients(backends(key))
    before = {mode: set(services.running(mode)) for mode in MODES}
    seconds, group = BEFORE + AFTER[key], services.ground.group
    work = machine.work(group)
    load.trace(seconds, players)
    time.sleep(BEFORE)
    when = happen(services, key)
    found = load.answer()
    pressure = Pressure(*machine.shares(work, machine.work(group)), 0.0)
    after = {mode: set(services.running(mode)) for mode in MODES}
    lived = []
    for kind in dict.fromkeys(one.kind for one in players):
        alike = [one for one in players if one.kind == kind]
        gone, came = before[kind[0]] - after[kind[0]], after[kind[0]] - before[kind[0]]
        requests = [request for one in alike for request in found[one.key].requests]
        lived.append(
            Lived(
                mode=kind[0],
                policy=kind[1],
                title=alike[0].title,
                connections=alike[0].connections,
                timeline=timeline(requests, when[kind[0]], gone, came),
                asked=round(sum(found[one.key].questions for one in alike) / seconds, 1),
            )
        )
    late = sum(len(found[one.key].requests) < _ON_TIME * one.amount * seconds for one in players)
    return Event(key, AFTER[key], pressure, late, tuple(lived))


def happen(services: Services, key: str) -> dict[str, int]:
    """Does it, to both services; when it was asked for, by service (ns, the monotonic clock)."""
    if key == "node":
        nodes = set.intersection(*(set(services.running(mode).values()) for mode in MODES))
        if not nodes:
            raise MeshnetError("no node has a backend of both services; what was made is removed")
        now = time.monotonic_ns()
        services.ground.kill_node(min(nodes))
        return dict.fromkeys(MODES, now)
    found = {}
    for mode in MODES:
        victim = min(services.running(mode))
        found[mode] = time.monotonic_ns()
        if key == "kill":
            services.ground.kill_task(victim)
        elif key == "update":
            services.replace(mode)
        else:
            services.scale(mode, REPLICAS + (key == "add"))
    return found
