"""`meshnet bench`: measurements."""

from __future__ import annotations

from pathlib import Path

import click

from meshnet.cli import render


@click.group()
def bench() -> None:
    """Measure what meshnet's paths cost on this machine."""


@bench.command()
@click.option("--quick", is_flag=True, help="A quarter of the time: good to a few per cent.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to measure, all tables together.")
@click.option("--cpu", type=click.IntRange(min=0), help="The CPU to run on; by default the quietest.")
@click.option("--table", "only", multiple=True, metavar="NAME", help="Measure this table only; may be repeated.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result there.")
def paths(quick: bool, seconds: float | None, cpu: int | None, only: tuple[str, ...], json_file: Path | None) -> None:
    """CPU time per operation of every path, beside what others use.

    Everything happens in namespaces that are made for it and removed at the end. It takes about a minute.
    """
    from meshnet.bench import report, result, run

    wanted = seconds or (run.QUICK_SECONDS if quick else run.SECONDS)
    with render.Progress() as progress:
        found = run.run(run.Options(wanted, cpu, only), progress)
    for line in report.lines(found):
        print(line)
    if json_file:
        json_file.write_text(result.dump(found))
