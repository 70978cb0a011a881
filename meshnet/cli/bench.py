"""`meshnet bench`: measurements."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from meshnet.cli import render

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def bench() -> None:
    """Measure what meshnet's paths cost on this machine."""


@bench.command()
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
    from meshnet.bench import compare as comparing
    from meshnet.bench import html, plots, report, result, run

    old = result.load(compare) if compare else None
    wanted = seconds or (run.QUICK_SECONDS if quick else run.SECONDS)
    with render.Progress() as progress:
        found = run.run(run.Options(wanted, cpu, only), progress)
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

    with render.Progress() as progress:
        found = measuring.run(seconds, progress)
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

    with render.Progress() as progress:
        found = measuring.run(only, seconds, progress)
    for line in measuring.lines(found):
        print(line)
    if json_file:
        json_file.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=1) + "\n")
