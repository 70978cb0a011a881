"""Running a lab's checks: each until it succeeds or its time is over."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshnet.errors import NotFoundError
from meshnet.lab import tasks
from meshnet.lab.enter import run_in_task, run_on_host
from meshnet.lab.spec import Lab, LabCheck
from meshnet.model import SECOND

PAUSE = 0.1
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended. `reason` is "" if it passed, else what was expected and what was seen."""

    check: LabCheck
    passed: bool
    seconds: float
    tries: int
    reason: str = ""


def run(lab: Lab, heard: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Runs the lab's checks in order; `heard` is told of each as it ends."""
    outcomes = []
    for check in lab.checks:
        outcomes.append(_run(lab, check))
        heard(outcomes[-1])
    return outcomes


def _run(lab: Lab, check: LabCheck) -> Outcome:
    begun = time.monotonic()
    tries = 0
    while True:
        tries += 1
        left = begun + check.within / SECOND - time.monotonic()
        reason = _try(lab, check, max(left, 1.0))
        spent = time.monotonic() - begun
        if not reason or spent + PAUSE > check.within / SECOND:
            return Outcome(check, not reason, spent, tries, reason)
        time.sleep(PAUSE)


def _try(lab: Lab, check: LabCheck, timeout: float) -> str:
    """Why the check does not hold now; "" if it does."""
    try:
        if lab.host(check.on) is not None:
            done = run_on_host(lab, check.on, check.run, timeout)
        else:
            done = run_in_task(tasks.find(lab, check.on), check.run, timeout)
    except NotFoundError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"no end after {timeout:.1f} s; try: meshnet lab exec {check.on} -- {' '.join(check.run)}"
    seen = " ".join((done.stdout + done.stderr).split())[:_SHOWN]
    if done.returncode != 0:
        return f"expected exit status 0, saw {done.returncode}: {seen or 'no output'}"
    if check.expect and check.expect not in done.stdout:
        return f"expected {check.expect!r} in the output, saw: {seen or 'nothing'}"
    return ""
