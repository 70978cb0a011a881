"""A run of `meshnet bench scale`: what the number of services costs, on the way of packets, in time and in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from meshnet.bench import machine, prober, run, scale_mesh, scale_result
from meshnet.bench.holder import Job
from meshnet.bench.paths import Row, Table, Way
from meshnet.bench.population import BACKENDS, BEHIND_VIPS, FIRST_PORT, MOST, TARGET_PORT, VIPS
from meshnet.bench.result import Result, ResultTable
from meshnet.bench.run import Progress
from meshnet.bench.scale_mesh import FAR, NEAR, OUT, Servers, Site
from meshnet.bench.scale_result import Memory, Programming, Scale
from meshnet.bench.world import World, world
from meshnet.errors import MeshnetError

SERVICES = (10, 100, 1_000, 10_000)
SECONDS, QUICK_SECONDS = 60.0, 16.0  # of measuring, all tables together
TIMES, QUICK_TIMES = 3, 1  # that all services are programmed
DEAREST = 1.03  # what a connection may cost with the most services, against the fewest
AIMS = {1_000: 1.0}  # services -> seconds in which all of them are programmed
_NUMBERS = 8
_HOLDERS = "holders"  # their cgroup


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` of measuring costs, `cpu` to run on (None: the quietest). `times`: how often all services are
    programmed, and single ones changed."""

    services: tuple[int, ...] = SERVICES
    seconds: float = SECONDS
    cpu: int | None = None
    times: int = TIMES


def run_scale(options: Options, progress: Progress) -> Result:
    """Measures. Raises MeshnetError where it cannot; nothing stays behind in any case."""
    sites = _sites(options.services)
    program = prober.build()
    cpu = machine.quietest_cpu() if options.cpu is None else options.cpu
    with world() as made, ExitStack() as stack:
        progress("making namespaces")
        scale_mesh.build(made, sites)
        holders = []
        for site in sites:
            holder = stack.enter_context(_holder(made, site, 1 if site.again else options.times))
            holder.wait(progress)
            scale_mesh.one_neighbour(made, site)
            holders.append(holder)
        progress("programming the nodes that serve the published ports")
        servers = Servers(made, sites)
        stack.callback(servers.close)
        servers.apply()
        measured = _measure(program, made, sites, cpu, options.seconds, progress)
        drops = servers.drops()
        for holder in holders:
            drops |= holder.drops()
    about = machine.about() | {"CPU": str(cpu)}
    shown = [holder for holder, site in zip(holders, sites, strict=True) if not site.again]
    programming = tuple(each for holder in shown for each in holder.programming())
    return Result(about, measured, drops, Scale(programming, tuple(holder.memory() for holder in shown)))


def _sites(services: Sequence[int]) -> list[Site]:
    """In the order in which they are made: the fewest services twice, then more and more."""
    found = sorted(set(services))
    if not found or found[0] < 1 or found[-1] > MOST:
        raise MeshnetError(f"numbers of services are from 1 to {MOST:,}")
    if len(found) > _NUMBERS:
        raise MeshnetError(f"{len(found)} numbers of services at once are too many: choose {_NUMBERS}")
    return [Site(found[0], 0, again=True), *(Site(count, index) for index, count in enumerate(found, 1))]


def _measure(
    program: Any, made: World, sites: Sequence[Site], cpu: int, seconds: float, progress: Progress
) -> tuple[ResultTable, ...]:
    groups = {site: scale_mesh.group(made, site) for site in sites}
    found = tables(sites, groups)
    return tuple(
        run.measure(program, prober.job(table, made, cpu), cpu, table, seconds / len(found), progress)
        for table in found
    )


def tables(sites: Sequence[Site], groups: Mapping[Site, str]) -> tuple[Table, ...]:
    """One table for the kernel without meshnet, one for backends without a service, and one for each way to a service.

    Rows are numbers of services, the fewest first, and these again. On the ways to services each has two: one service
    in use, which stays in the CPU's caches whatever the number, and all in turn, which do not.
    """
    sites = sorted(sites, key=lambda site: (site.services, site.again))
    many = [site.services * BACKENDS for site in sites]
    return (
        _plain_table(
            "kernel",
            "No meshnet: as many addresses behind a plain VXLAN device, all in turn",
            [Way(NEAR, FAR, BEHIND_VIPS, port, port, "rc", 0, count) for port, count in enumerate(many, 7401)],
            sites,
        ),
        _plain_table(
            "direct",
            "No service: the backends themselves, all in turn (dnsrr)",
            [
                Way(site.task, FAR, BEHIND_VIPS, port, port, "rc", 0, count)
                for port, (site, count) in enumerate(zip(sites, many, strict=True), 7421)
            ],
            sites,
        ),
        _table("socket", "VIP at the socket", sites, lambda *some: _vip(7441, groups[some[0]], *some)),
        _table("packet", "VIP per packet", sites, lambda *some: _vip(7461, "", *some)),
        _table("published", "Published port, backends on another node", sites, _port),
    )


def _vip(base: int, group: str, site: Site, count: int) -> Way:
    port = base + 2 * site.index + (count > 1)
    return Way(site.task, FAR, VIPS, port, port, "rc", 0, count, group=group)


def _port(site: Site, count: int) -> Way:
    return Way(OUT, site.served, site.address, FIRST_PORT, TARGET_PORT, "rc", 0, ports=count)


def _plain_table(key: str, title: str, ways: Sequence[Way], sites: Sequence[Site]) -> Table:
    rows = (Row(site.key, site.title, way, sites[0].key) for site, way in zip(sites, ways, strict=True))
    return Table(key, title, tuple(rows))


def _table(key: str, title: str, sites: Sequence[Site], way: Callable[[Site, int], Way]) -> Table:
    """`way`: to so many services of a site."""
    first, rows = sites[0].key, []
    for site in sites:
        aim = {"connect": 1 / DEAREST} if site is sites[-1] and not site.again else {}
        one = way(site, 1)
        rows.append(Row(f"{site.key}-one", f"{site.title}, one in use", one, f"{first}-one", aim, tolerance=0.0))
    for site in sites:
        rows.append(Row(site.key, f"{site.title}, all in turn", way(site, site.services), first))
    return Table(key, title, tuple(rows))


class Holder:
    """The process that programs and holds one node."""

    def __init__(self, site: Site, process: subprocess.Popen[str]) -> None:
        self._site = site
        self._process = process
        self._figures: dict[str, Any] = {}

    def wait(self, progress: Progress) -> None:
        """Returns when it has measured. MeshnetError if it cannot."""
        while not self._figures:
            said = self._read()
            if "failed" in said:
                raise MeshnetError(said["failed"])
            if "step" in said:
                progress(said["step"])
            else:
                self._figures = said

    def programming(self) -> list[Programming]:
        services, samples = self._site.services, self._figures["samples"]
        return [
            scale_result.programming(services, change, found, AIMS.get(services) if change == "all" else None)
            for change, found in samples.items()
        ]

    def memory(self) -> Memory:
        maps, process = self._figures["maps"], self._figures["memory"]
        return Memory(
            services=self._site.services,
            maps=maps["after"],
            maps_before=sum(maps["before"].values()),
            pss=process["after"]["pss"],
            pss_before=process["before"]["pss"],
            rss=process["after"]["rss"],
            sizes=scale_mesh.larger_maps(self._site.services),
            left=self._figures["left_to_user_space"],
        )

    def drops(self) -> dict[str, int]:
        """Packets dropped at its node so far, by node and reason."""
        assert self._process.stdin is not None
        print("statistics", file=self._process.stdin, flush=True)
        said = self._read()
        return {
            f"{self._site.node}: {name}": count for name, count in said.items() if count and name.startswith("drop")
        }

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.stderr.read().strip() or "no reason given"
            raise MeshnetError(f"the process that programs {self._site.services:,} services ended: {errors}")
        value: dict[str, Any] = json.loads(line)
        return value


@contextlib.contextmanager
def _holder(made: World, site: Site, times: int) -> Iterator[Holder]:
    job = Job(made.name, made.space(site.node), made.path(site.task), site.services, site.place, times)
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "meshnet.bench.holder"]
    group = made.group() / _HOLDERS  # where the next benchmark finds it, should this one be killed
    group.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            (group / "cgroup.procs").write_text(str(process.pid))
            assert process.stdin is not None
            print(json.dumps(dataclasses.asdict(job)), file=process.stdin, flush=True)
            yield Holder(site, process)
        finally:
            process.kill()
