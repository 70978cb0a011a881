"""A run of `meshnet bench vip-vs-dnsrr` on a swarm that is up: rates, then waits, then events one after the other."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from meshnet.bench import machine, modes, sharing, statistics, wrk
from meshnet.bench.load import Load
from meshnet.bench.modes import DNSRR, EVENTS, MODES, RATES, REPLICAS, VIP, WAITS, Client
from meshnet.bench.modes_events import backends, observe
from meshnet.bench.modes_result import Event, Modes, Share, Sliced, Wait, wait
from meshnet.bench.modes_swarm import CLIENT, PATIENCE, Ground, Services
from meshnet.bench.paths import Missing
from meshnet.bench.pressure import Pressure
from meshnet.bench.prober import Slice
from meshnet.bench.result import Measured, Result, ResultRow, ResultTable
from meshnet.bench.wrk import Asked
from meshnet.errors import MeshnetError

Progress = Callable[[str], object]
SECONDS, QUICK_SECONDS = 120.0, 30.0  # of measuring rates and waits
_FOR_RATES = 0.4  # of these, where both are measured
_ROUNDS = 60  # that a measurement should have
_SHORTEST, _LONGEST = 0.02, 0.2  # s, of a slice
_RUNS = 5  # of wrk
_OTHERS = 0.2  # of the CPU time of a slice, from which it counts as disturbed
TOO_FEW = "too few rounds: give it more seconds"


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` of measuring rates and waits, `only` these tables."""

    seconds: float = SECONDS
    only: tuple[str, ...] = ()


@dataclass(slots=True)
class Series:
    """What every client did in turns, by its key; and how hard others worked meanwhile."""

    slices: dict[str, list[Sliced]] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    pressure: Pressure = field(default_factory=lambda: Pressure(0.0, 0.0, 0.0))


def choose(only: Sequence[str]) -> tuple[str, ...]:
    """The tables with these keys, or all, in their order. MeshnetError if there is no such table."""
    for key in only:
        if key not in modes.TABLES:
            raise MeshnetError(f"there is no table {key}; there are {', '.join(modes.TABLES)}")
    return tuple(key for key in modes.TABLES if not only or key in only)


def run(ground: Ground, options: Options, progress: Progress) -> Result:
    """Measures. Raises MeshnetError where it cannot."""
    chosen = choose(options.only)
    progress("creating the services")
    services = Services(ground)
    services.create(REPLICAS)
    with clients(ground) as load:
        settle(services, load, REPLICAS)
        both = {RATES, WAITS} <= set(chosen)
        tables: list[ResultTable] = []
        shares: list[Share] = []
        waits: tuple[Wait, ...] = ()
        asked: tuple[Asked, ...] = ()
        pressure = None
        if RATES in chosen:
            seconds = options.seconds * (_FOR_RATES if both else 1)
            found = take_turns(load, ground, modes.rate_clients(), seconds, progress, "rates")
            tables.append(rate_table(found, () if wrk.installed() else (wrk.MISSING,)))
            asked = ask_by_wrk(services, max(1, min(_RUNS, round(options.seconds / 10))), progress)
            shares += spread(found, modes.rate_clients())
        if WAITS in chosen:
            seconds = options.seconds * (1 - _FOR_RATES if both else 1)
            found = take_turns(load, ground, modes.wait_clients(), seconds, progress, "latency")
            waits, pressure = all_waits(found), found.pressure
            shares += spread(found, modes.wait_clients())
        events = tuple(_event(services, load, key, progress) for key in EVENTS if key in chosen)
    about = machine.about() | {"method": METHOD}
    return Result(about, tuple(tables), {}, modes=Modes(waits, pressure, tuple(shares), events, asked))


def _event(services: Services, load: Load, key: str, progress: Progress) -> Event:
    progress(EVENTS[key])
    for mode in MODES:
        services.scale(mode, backends(key))
    settle(services, load, backends(key))
    return observe(services, load, key)


@contextmanager
def clients(ground: Ground) -> Iterator[Load]:
    """All clients, in their task."""
    living = [one for key in EVENTS for one in modes.living_clients(backends(key))]
    every = [*modes.rate_clients(), *modes.wait_clients(), *living]
    load = Load(ground.start(f"{CLIENT}.1", ["/task", "load"]), every)
    try:
        yield load
    finally:
        load.close()


def settle(services: Services, load: Load, replicas: int) -> None:
    """Returns when the clients meet exactly the tasks that run, so many of each service. MeshnetError if never."""
    services.wait(replicas)
    probes = [Client(mode, "each", False, open_loop=True, amount=modes.RATE) for mode in MODES]
    deadline = time.monotonic() + PATIENCE
    while True:
        found = load.run(0.1, probes)
        wanted = {one.mode: set(services.running(one.mode)) for one in probes}
        met = {one.mode: set(found[one.key].backends) for one in probes}
        if met == wanted and not any(found[one.key].errors for one in probes):
            return
        if time.monotonic() > deadline:
            raise MeshnetError(f"after {PATIENCE:g} s clients meet {met}, while {wanted} run; what was made is removed")


def take_turns(
    load: Load, ground: Ground, players: Sequence[Client], seconds: float, progress: Progress, what: str
) -> Series:
    """Slices of all clients in turn, in changing order, for so long."""
    found = Series()
    length = min(_LONGEST, max(_SHORTEST, seconds / (_ROUNDS * len(players))))
    for one in players:  # connections are open and caches are warm then
        load.run(length, [one])
    rng, began = random.Random(1), time.monotonic()
    first = last = machine.work(ground.group)
    while time.monotonic() < began + seconds:
        progress(f"{what}: {10 * min(10, int(10 * (time.monotonic() - began) / seconds))} %")
        for one in rng.sample(list(players), len(players)):
            counted = load.run(length, [one])[one.key]
            now = machine.work(ground.group)
            stolen, others = machine.shares(last, now)
            found.slices.setdefault(one.key, []).append(Sliced(found.rounds, counted, stolen + others > _OTHERS))
            last = now
        found.rounds += 1
    found.seconds = round(time.monotonic() - began, 1)
    every = [each for many in found.slices.values() for each in many]
    stolen, others = machine.shares(first, last)
    found.pressure = Pressure(stolen, others, round(sum(each.disturbed for each in every) / max(1, len(every)), 3))
    return found


def ask_by_wrk(services: Services, rounds: int, progress: Progress) -> tuple[Asked, ...]:
    """What wrk says, where it is installed."""
    if not wrk.installed():
        return ()
    progress("wrk")
    addresses = {"dnsrr, one backend": services.address(DNSRR), "VIP": services.vip(VIP)}
    ground = services.ground
    return wrk.measure(lambda command: ground.beside(f"{CLIENT}.1", command), ground.group, addresses, rounds)


def rate_table(series: Series, missing: tuple[Missing, ...]) -> ResultTable:
    """What clients get done that ask as fast as they can. `missing`: tools that would be asked beside them."""
    found = {
        (one.row, "connect" if not one.keep else one.operation): _slices(series.slices[one.key])
        for one in modes.rate_clients()
    }
    failed = {
        (one.row, "connect" if not one.keep else one.operation): sum(
            each.counted.errors for each in series.slices[one.key]
        )
        for one in modes.rate_clients()
    }
    titles = {one.row: one.title for one in modes.rate_clients()}
    rows = tuple(_rate_row(key, title, found, failed) for key, title in titles.items())
    title = f"Rates: {modes.CONNECTIONS} connections at once, {REPLICAS} backends on {REPLICAS} nodes"
    return ResultTable(RATES, title, rows, missing, series.rounds, series.seconds, "rate", series.pressure)


def _rate_row(
    key: str, title: str, found: Mapping[tuple[str, str], list[Slice]], failed: Mapping[tuple[str, str], int]
) -> ResultRow:
    baseline = f"{MODES[0]}-600"
    measured, failures = {}, {}
    for (row, operation), slices in found.items():
        if row != key:
            continue
        cost = statistics.spread(statistics.costs(statistics.clean(slices), wall=True))
        base = statistics.clean(found[baseline, operation])
        ratio = statistics.spread(statistics.ratios(base, statistics.clean(slices), wall=True))
        if failed[row, operation]:
            failures[operation] = f"{failed[row, operation]} requests failed"
        elif cost and ratio:
            measured[operation] = Measured(cost, ratio)
        else:
            failures[operation] = TOO_FEW
    return ResultRow(key, title, baseline, False, measured, failures)


def _slices(sliced: Sequence[Sliced]) -> list[Slice]:
    """As the other benchmarks have them, in ns for one operation; without those in which there was none."""
    return [
        Slice(each.round, 0.0, each.counted.seconds * 1e9 / each.counted.operations, each.disturbed)
        for each in sliced
        if each.counted.operations
    ]


def all_waits(series: Series) -> tuple[Wait, ...]:
    """A row for each client of an open loop, beside the same client of the baseline's service."""
    players = {one.key: one for one in modes.wait_clients()}
    found = []
    for one in players.values():
        base = next(
            each for each in players.values() if (each.mode, each.policy, each.keep) == (MODES[0], one.policy, one.keep)
        )
        words = {"mode": one.mode, "title": one.title, "loop": f"{one.amount:,}/s", "connections": one.connections}
        row = wait(words, series.slices[one.key], series.slices[base.key])
        if row is not None:
            found.append(row)
    return tuple(found)


def spread(series: Series, players: Sequence[Client]) -> Iterator[Share]:
    """How the connections of clients that open one for each request are spread."""
    for one in players:
        if one.keep:
            continue
        counts: Counter[str] = Counter()
        for each in series.slices[one.key]:
            counts.update(each.counted.backends)
        found = sharing.sharing(counts, REPLICAS)
        if found is not None:
            how = f"{one.amount:,} connections a second" if one.open_loop else f"{one.amount} at once"
            yield Share(one.title, how, found)


METHOD = (
    "Two services of one image on one overlay, alike but for their endpoint mode; clients in a task on another node, "
    "in C, one thread. Rates (closed loops) and latency (open loops: from when a request was due) are measured in "
    "slices, in which clients take turns in changing order; medians by the wall clock, ratios of the same round. "
    "Slices in which others had a fifth of the CPUs are left out where enough are left. Events happen to both services "
    "at once, under all clients at once; times count from the request to the manager, or from the kill."
)
