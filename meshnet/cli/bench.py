"""`meshnet bench`: measurements."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshnet.cli import render
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.bench.result import Result

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def bench() -> None:
    """Measure what meshnet's paths cost on this machine."""


def check_outputs(*files: Path | None, pictures: Path | None = None) -> None:
    """Refuses what could not be written, before minutes are spent on measuring it. `pictures` is a folder to make."""
    for file in files:
        if file is not None:
            _check_writable(file, file if file.exists() else file.absolute().parent)
    if pictures is not None:
        from meshnet.bench import plots

        plots.check()
        _check_writable(pictures, next(each for each in (pictures, *pictures.absolute().parents) if each.exists()))


def remove_left() -> None:
    """What benchmarks left that were killed goes before another one begins, and is told of in a line."""
    if os.geteuid() != 0:
        return  # the benchmark itself says that it needs root
    from meshnet.bench import dockerd, world
    from meshnet.lab import benchmarks

    if found := [*benchmarks.remove_left(), *world.sweep(), *dockerd.sweep()]:
        render.message(f"removed what killed benchmarks left: {', '.join(found)}")


def _check_writable(asked: Path, place: Path) -> None:
    if not place.exists():
        raise MeshnetError(f"{asked} cannot be written: there is no folder {place}")
    if not os.access(place, os.W_OK) or (place != asked and not place.is_dir()):
        raise MeshnetError(f"{asked} cannot be written: {place} is not writable")


@bench.command(short_help="CPU time per operation, beside what others use.")
@click.option("--quick", is_flag=True, help="A quarter of the time: good to a few per cent.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to measure, all tables together.")
@click.option("--cpu", type=click.IntRange(min=0), help="The CPU to run on; by default the quietest.")
@click.option("--table", "only", multiple=True, metavar="NAME", help="Measure this table only; may be repeated.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
@click.option("--html", "html_file", type=FILE, help="Write a report there: one file, nothing else needed.")
@click.option("--png", type=click.Path(file_okay=False, path_type=Path), help="Draw the tables into this folder.")
@click.option("--compare", type=FILE, help="Mark what changed beyond the noise since this result.")
def paths(
    quick: bool,
    seconds: float | None,
    cpu: int | None,
    only: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    png: Path | None,
    compare: Path | None,
) -> None:
    """CPU time per operation of every path, beside what others use.

    Everything happens in namespaces that are made for it and removed at the end. It takes about a minute.
    """
    from meshnet.bench import result, run
    from meshnet.lab import interrupts

    check_outputs(json_file, html_file, pictures=png)
    old = result.load(compare) if compare else None
    wanted = seconds or (run.QUICK_SECONDS if quick else run.SECONDS)
    remove_left()
    with interrupts.undone(), render.Progress() as progress:
        found = run.run(run.Options(wanted, cpu, only), progress)
    _show(found, old, json_file, html_file, png)


@bench.command()
@click.option("--quick", is_flag=True, help="A quarter of the time: good to a few per cent.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to measure costs, all tables together.")
@click.option("--cpu", type=click.IntRange(min=0), help="The CPU to run on; by default the quietest.")
@click.option(
    "--services", multiple=True, type=int, metavar="N", help="Measure this number of services; may be repeated."
)
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
@click.option("--html", "html_file", type=FILE, help="Write a report there: one file, nothing else needed.")
@click.option("--png", type=click.Path(file_okay=False, path_type=Path), help="Draw the tables into this folder.")
@click.option("--compare", type=FILE, help="Mark which costs changed beyond the noise since this result.")
def scale(
    quick: bool,
    seconds: float | None,
    cpu: int | None,
    services: tuple[int, ...],
    json_file: Path | None,
    html_file: Path | None,
    png: Path | None,
    compare: Path | None,
) -> None:
    """What 10, 100, 1,000 and 10,000 services of 10 backends cost.

    On the way of packets, in time to program them, and in memory. Everything happens in namespaces that are made for
    it and removed at the end. It takes three to five minutes, most of them for programming 10,000 services.
    """
    from meshnet.bench import result
    from meshnet.bench import scale as scaling
    from meshnet.lab import interrupts

    check_outputs(json_file, html_file, pictures=png)
    old = result.load(compare) if compare else None
    options = scaling.Options(
        services=services or scaling.SERVICES,
        seconds=seconds or (scaling.QUICK_SECONDS if quick else scaling.SECONDS),
        cpu=cpu,
        times=scaling.QUICK_TIMES if quick else scaling.TIMES,
    )
    remove_left()
    with interrupts.undone(), render.Progress() as progress:
        found = scaling.run_scale(options, progress)
    _show(found, old, json_file, html_file, png)


@bench.command("vip-vs-dnsrr", short_help="Endpoint modes, as clients live them.")
@click.option("--quick", is_flag=True, help="A quarter of the time for rates and latency; events take as long.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to measure rates and latency, together.")
@click.option("--table", "only", multiple=True, metavar="NAME", help="Measure this table only; may be repeated.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
@click.option("--html", "html_file", type=FILE, help="Write a report there: one file, nothing else needed.")
@click.option(
    "--png", type=click.Path(file_okay=False, path_type=Path), help="Draw tables and events into this folder."
)
@click.option("--compare", type=FILE, help="Mark which rates changed beyond the noise since this result.")
def vip_vs_dnsrr(
    quick: bool,
    seconds: float | None,
    only: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    png: Path | None,
    compare: Path | None,
) -> None:
    """Rates, latency, spread, and what clients live through, with a VIP and with dnsrr.

    A swarm of four nodes is made for it and removed at the end. Tables are rates, latency, and the events add, drain,
    update, kill and node, in which backends come and go under clients of every kind. It takes three minutes.
    """
    from meshnet.bench import modes_run, result
    from meshnet.bench.modes import WORKERS
    from meshnet.lab import interrupts, modesbench

    check_outputs(json_file, html_file, pictures=png)
    modes_run.choose(only)  # a name that is wrong is refused before anything is made
    old = result.load(compare) if compare else None
    options = modes_run.Options(seconds or (modes_run.QUICK_SECONDS if quick else modes_run.SECONDS), only)
    remove_left()
    with interrupts.undone(), render.Progress() as progress:
        progress("starting a swarm")
        with modesbench.ground(WORKERS) as ground:
            found = modes_run.run(ground, options, progress)
    _show(found, old, json_file, html_file, png)


def _show(found: Result, old: Result | None, json_file: Path | None, html_file: Path | None, png: Path | None) -> None:
    from meshnet.bench import compare as comparing
    from meshnet.bench import html, plots, report, result

    changes = comparing.changes(old, found) if old else {}
    for line in report.lines(found, changes):
        print(line)
    if old:
        for line in comparing.lines(old, found, changes):
            print(line)
    if json_file:
        json_file.write_text(result.dump(found))
    if html_file:
        html_file.write_text(html.page(found, changes))
    if png:
        for path in plots.draw(found, png):
            render.message(f"wrote {path}")


@bench.command(short_help="What a task's name server answers in a second.")
@click.option("--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True, help="How long to measure.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
def dns(seconds: float, json_file: Path | None) -> None:
    """What a task's name server answers in a second, beside dnsmasq and a server with dnslib.

    Everything happens in namespaces that are made for it and removed at the end.
    """
    from meshnet.bench import dns as measuring
    from meshnet.lab import interrupts

    check_outputs(json_file)
    remove_left()
    with interrupts.undone(), render.Progress() as progress:
        found = measuring.run(seconds, progress)
    for line in measuring.lines(found):
        print(line)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


@bench.command(short_help="What a swarm's engine takes for what people ask of it.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="How often everything is done."
)
@click.option("--replicas", type=click.IntRange(min=2, max=200), default=50, show_default=True, help="To scale to.")
@click.option("--services", type=click.IntRange(min=1, max=2000), default=300, show_default=True, help="To list.")
@click.option("--dockerd", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where one is unpacked.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
def swarm(rounds: int, replicas: int, services: int, folder: Path | None, json_file: Path | None) -> None:
    """How long an engine takes to create, scale and list services, meshnet beside a real dockerd.

    Both have one node, in namespaces that are made for it and removed at the end. Without a dockerd meshnet is measured
    alone: scripts/dockerd unpacks Debian's, for which nothing is installed.
    """
    from meshnet.bench import dockerd
    from meshnet.bench import swarm as measuring
    from meshnet.lab import interrupts, swarmbench

    check_outputs(json_file)
    size = measuring.Size(many=replicas, services=services, rounds=rounds)
    place = folder or dockerd.FOLDER
    lacking = dockerd.missing(place)
    remove_left()
    with interrupts.undone(), render.Progress() as progress, contextlib.ExitStack() as stack:
        progress("starting meshnet" if lacking else "starting meshnet and dockerd")
        sockets = {measuring.MESHNET: stack.enter_context(swarmbench.swarm(1))[0]}
        if not lacking:
            sockets[measuring.DOCKERD] = stack.enter_context(dockerd.running(place))
        sides = measuring.prepare(sockets)
        measuring.measure(sides, size, progress)
        found = measuring.summary(sides, size, {measuring.DOCKERD: lacking} if lacking else {}, os.getloadavg()[0])
    for line in measuring.lines(found):
        print(line)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


@bench.command(short_help="Whether a service takes longer to start among many.")
@click.option("--services", type=click.IntRange(min=40), default=1000, show_default=True, help="How many in the end.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
def growth(services: int, json_file: Path | None) -> None:
    """Whether a service takes longer to start where there are many already.

    Two swarms of three nodes are made for it and removed at the end. 1,000 services of two tasks take ten minutes and
    5 GiB of memory.
    """
    from meshnet.bench import growth as measuring
    from meshnet.bench import swarm as swarms
    from meshnet.lab import interrupts, swarmbench

    check_outputs(json_file)
    remove_left()
    with interrupts.undone(), render.Progress() as progress, contextlib.ExitStack() as stack:
        progress("starting two swarms")
        made = {name: stack.enter_context(swarmbench.swarm(3)) for name in ("grows", "small")}
        sides = swarms.prepare({name: socket for name, (socket, _) in made.items()})
        lots = [measuring.Lots(side, made[side.name][1]) for side in sides]
        measuring.measure(lots[0], lots[1], services, progress)
        found = measuring.summary(lots[0], lots[1], os.getloadavg()[0])
    for line in measuring.lines(found):
        print(line)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


@bench.command(short_help="What the BPF programs take of an operation.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=0.5, show_default=True, help="For each path.")
@click.option("--table", "only", multiple=True, metavar="NAME", help="These paths only; may be repeated.")
@click.option("--json", "json_file", type=FILE, help="Write the result there.")
def programs(seconds: float, only: tuple[str, ...], json_file: Path | None) -> None:
    """What each BPF program takes of an operation: how often it runs, and for how long.

    The paths and tables are those of `meshnet bench paths`, measured one path at a time.
    """
    from meshnet.bench import programs as measuring

    remove_left()
    with render.Progress() as progress:
        found = measuring.run(only, seconds, progress)
    for line in measuring.lines(found):
        print(line)
    if json_file:
        json_file.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=1) + "\n")
