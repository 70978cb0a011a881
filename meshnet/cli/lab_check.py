"""`meshnet lab check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshnet.cli import lab_up, options, render
from meshnet.errors import MeshnetError, NotFoundError

if TYPE_CHECKING:
    from meshnet.lab.checks import Outcome
    from meshnet.lab.junit import Graded
    from meshnet.lab.spec import Lab

FAILED, CANNOT = 1, 2


class CannotCheck(MeshnetError):
    """The checks could not be run at all."""

    exit_code = CANNOT


@click.command(short_help="Run the checks of labs.")
@click.argument("what", nargs=-1, metavar="[DIR|NAME]...")
@click.option("--up", "bring_up", is_flag=True, help="Bring up those that are not up, and take them down afterwards.")
@click.option("--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Write the outcomes as JUnit XML, too.")
@options.in_lab
@options.as_json
def check(what: tuple[str, ...], bring_up: bool, junit: str | None, lab_name: str | None, json_output: bool) -> None:
    """Run the checks of labs that are up, each check until it passes or its time is over.

    Without a name, that is the lab named in $MESHNET_LAB; without that, the lab in the current folder; where there is
    none, the only lab that is up.

    Exit 0 if all passed, 1 if one failed, 2 if they could not be run.
    """
    from meshnet.lab import file
    from meshnet.lab import junit as documents

    if not what and not lab_name and not os.environ.get("MESHNET_LAB") and Path(file.FILE).exists():
        what = (".",)
    if bring_up and not what:
        raise CannotCheck("say which labs to bring up: meshnet lab check --up DIR...")
    if os.geteuid() != 0:
        raise CannotCheck("checks run commands in the lab, which needs root; run it with sudo")
    if junit and not os.access(Path(junit).absolute().parent, os.W_OK):
        raise CannotCheck(f"--junit {junit}: there is no such folder to write to")
    words: tuple[str | None, ...] = what or (lab_name,)
    graded = [_grade(word, bring_up, json_output, len(words) > 1) for word in words]
    if junit:
        _write(junit, documents.xml(graded))
    if json_output:
        render.as_json([_row(lab.lab, one) for lab in graded for one in lab.outcomes])
    outcomes = [one for lab in graded for one in lab.outcomes]
    if outcomes:
        render.message(f"{sum(one.passed for one in outcomes)} of {len(outcomes)} checks passed")
    if any(lab.could_not_run for lab in graded):
        click.get_current_context().exit(CANNOT)
    click.get_current_context().exit(FAILED if any(lab.failed for lab in graded) else 0)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise CannotCheck(f"--junit {path}: {error.strerror}") from None


def _grade(what: str | None, bring_up: bool, quiet: bool, several: bool) -> Graded:
    """The outcomes of one lab; a lab that cannot be checked is a problem of its own, not the others'."""
    from meshnet.lab import checks, interrupts, junit, state
    from meshnet.lab import down as downs

    name, made = what or "", False
    outcomes: list[Outcome] = []

    def heard(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not quiet:
            _show(outcome)

    try:
        lab, is_up = _lab(what, bring_up)
        name = lab.name
        if several and not quiet:
            print(f"--- {name}", flush=True)
        if not lab.checks:
            raise MeshnetError(f"the lab {name} has no checks in its lab.yml")
        if not is_up:
            lab_up.bring_up(lab)
            made = True
            lab = state.load(name)
        checks.run(lab, heard)
        return junit.Graded(name, outcomes)
    except MeshnetError as error:
        if not several and not outcomes:
            raise CannotCheck(str(error)) from None
        render.message(f"meshnet: {error}")
        return junit.Graded(name, outcomes, str(error))
    finally:
        if made:
            with interrupts.postponed():  # a second Ctrl-C does not leave half of it
                downs.down(name)
            if any(not one.passed for one in outcomes):
                render.message(
                    f"{name} is down again. Some labs' checks hold only once what their README says was done; "
                    f"to look, bring it up: meshnet lab up {what}"
                )


def _lab(what: str | None, bring_up: bool) -> tuple[Lab, bool]:
    """The lab that is meant, and whether it is up. NotFoundError if it is not up and shall not be."""
    from meshnet.lab import down, file, state

    if what is None:
        return state.current(None), True
    try:
        return state.load(down.resolve(what)), True
    except NotFoundError as error:
        if bring_up:
            return file.load(what), False
        known = Path(what).exists() or file.packaged(what)
        advice = f"; bring it up with: meshnet lab up {what}, or add --up" if known else ""
        raise NotFoundError(f"{error}{advice}") from None


def _row(lab: str, one: Outcome) -> dict[str, Any]:
    return {
        "Lab": lab,
        "Name": one.check.name,
        "On": one.check.on,
        "Passed": one.passed,
        "State": one.verdict.state,
        "Seconds": round(one.seconds, 3),
        "Tries": one.tries,
        "Expected": one.verdict.expected,
        "Seen": one.verdict.seen,
        "Nodes": one.absent,
        "Command": one.check.command,
        "Look": "" if one.passed else one.look,
    }


def _show(outcome: Outcome) -> None:
    word = outcome.verdict.state if outcome.passed else outcome.verdict.state.upper()
    tries = f", {outcome.tries} tries" if outcome.tries > 1 else ""
    print(f"{word}  {outcome.check.name} (on {outcome.check.on}, {outcome.seconds:.1f} s{tries})", flush=True)
    for head, text in outcome.told:
        print(f"        {head:8}  {text}".replace("\n", f"\n{'':18}"), flush=True)
