"""`meshnet lab check`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from meshnet.cli import options, render
from meshnet.errors import MeshnetError

if TYPE_CHECKING:
    from meshnet.lab.checks import Outcome

CANNOT = 2


class CannotCheck(MeshnetError):
    """The checks could not be run at all."""

    exit_code = CANNOT


@click.command(short_help="Run the checks of a lab that is up.")
@click.argument("what", required=False, metavar="[DIR|NAME]")
@options.in_lab
@options.as_json
def check(what: str | None, lab_name: str | None, json_output: bool) -> None:
    """Run the checks of a lab that is up; exit 0 if all passed, 1 if one failed, 2 if they could not be run."""
    from meshnet.lab import checks, down, state

    try:
        lab = state.current(down.resolve(what) if what else lab_name)
    except MeshnetError as error:
        raise CannotCheck(str(error)) from None
    if os.geteuid() != 0:
        raise CannotCheck("checks run commands in the lab, which needs root; run it with sudo")
    if not lab.checks:
        raise CannotCheck(f"the lab {lab.name} has no checks in its lab.yml")
    outcomes = checks.run(lab, (lambda outcome: None) if json_output else _show)
    if json_output:
        render.as_json(
            [
                {
                    "Name": one.check.name,
                    "On": one.check.on,
                    "Passed": one.passed,
                    "Seconds": round(one.seconds, 3),
                    "Tries": one.tries,
                    "Reason": one.reason,
                }
                for one in outcomes
            ]
        )
    failed = sum(not one.passed for one in outcomes)
    render.message(f"{len(outcomes) - failed} of {len(outcomes)} checks passed")
    click.get_current_context().exit(1 if failed else 0)


def _show(outcome: Outcome) -> None:
    word = "passed" if outcome.passed else "FAILED"
    said = f"  {outcome.reason}" if outcome.reason else ""
    print(f"{word}  {outcome.check.name} (on {outcome.check.on}, {outcome.seconds:.1f} s){said}", flush=True)
