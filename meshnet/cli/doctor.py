"""`meshnet doctor`: what works on this machine, and the fix for what does not."""

from __future__ import annotations

import dataclasses

import click

from meshnet.cli import options, render


@click.command(short_help="Try what meshnet needs on this machine.")
@options.as_json
def doctor(json_output: bool) -> None:
    """Try what meshnet needs here; exit 1 if something that it cannot do without is missing."""
    from meshnet.kernel.capabilities import probes

    found = probes()
    if json_output:
        render.as_json([{key.capitalize(): value for key, value in dataclasses.asdict(one).items()} for one in found])
    else:
        rows = [(one.name, _word(one.works, one.needed), one.detail, one.fix) for one in found]
        render.table(("WHAT", "STATE", "FOUND", "FIX"), rows)
    missing = [one.name for one in found if one.needed and not one.works]
    if missing:
        render.message(f"meshnet: labs cannot run here until this works: {', '.join(missing)}")
    click.get_current_context().exit(1 if missing else 0)


def _word(works: bool, needed: bool) -> str:
    return "ok" if works else "MISSING" if needed else "missing (optional)"
