"""Running a lab's checks: each until it succeeds or its time is over."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshnet.errors import NotFoundError
from meshnet.lab import packages, tasks
from meshnet.lab.enter import run_in_task, run_on_host
from meshnet.lab.spec import Lab, LabCheck
from meshnet.model import SECOND

PAUSE = 0.1
PASSED, FAILED, CANNOT = "passed", "failed", "could not run"
_BEGIN, _END = 100, 200  # characters of a long output that are shown: what failed stands at its end, mostly
_CUT = "none after"
_NO_PROGRAM = 127  # as a shell says
_NOT_FOUND = re.compile(r"([\w.+-]+): (?:command )?not found|No such file or directory: '([^']+)'")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one try showed. `state` is `passed`, `failed`, or `could not run` because the machine lacks a program."""

    state: str
    expected: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended, after how long (s) and how many tries; `look` is where to look if it did not pass."""

    check: LabCheck
    verdict: Verdict
    seconds: float
    tries: int
    look: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict.state == PASSED

    @property
    def reason(self) -> str:
        """ "" if it passed, else what was expected, what was seen and where to look, in one line."""
        if self.passed:
            return ""
        return f"expected {self.verdict.expected}, saw {self.verdict.seen}; look: {self.look}"


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
    verdict: Verdict | None = None
    while True:
        tries += 1
        left = begun + check.within / SECOND - time.monotonic()
        before, verdict = verdict, _try(lab, check, max(left, 1.0))
        if verdict.seen.startswith(_CUT) and before is not None:
            verdict = before  # a try that was cut short says less than the one before it
        spent = time.monotonic() - begun
        if verdict.state != FAILED or check.once or spent + PAUSE > check.within / SECOND:
            return Outcome(check, verdict, spent, tries, check.look or _by_hand(lab, check))
        time.sleep(PAUSE)


def _by_hand(lab: Lab, check: LabCheck) -> str:
    return f"meshnet lab exec --lab {lab.name} {check.on} -- {shlex.join(check.run)}"


def _try(lab: Lab, check: LabCheck, timeout: float) -> Verdict:
    """Whether the check holds now."""
    try:
        if lab.host(check.on) is not None:
            done = run_on_host(lab, check.on, check.run, timeout)
        else:
            done = run_in_task(tasks.find(lab, check.on), check.run, timeout)
    except NotFoundError as error:
        return Verdict(FAILED, f"a host or a running task {check.on}", str(error))
    except subprocess.TimeoutExpired:
        return Verdict(FAILED, "an end", f"{_CUT} {timeout:.1f} s")
    return judge(check, done)


def judge(check: LabCheck, done: subprocess.CompletedProcess[str]) -> Verdict:
    """What a command that ended says about the check."""
    seen = _short(" ".join((done.stdout + done.stderr).split()))
    missing = _NOT_FOUND.search(done.stderr) if done.returncode == _NO_PROGRAM else None
    if missing is not None:
        program = (missing[1] or missing[2]).rpartition("/")[2]
        return Verdict(CANNOT, f"the program {program}", f"none on this machine; {packages.how_to_get(program)}")
    if done.returncode != 0:
        return Verdict(FAILED, "exit status 0", f"{done.returncode}: {seen or 'no output'}")
    if check.expect and check.expect not in done.stdout:
        return Verdict(FAILED, f"{check.expect!r} in the output", seen or "nothing")
    return Verdict(PASSED)


def _short(text: str) -> str:
    return text if len(text) <= _BEGIN + _END else f"{text[:_BEGIN]} ... {text[-_END:]}"
