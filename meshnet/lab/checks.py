"""Running a lab's checks: each until it succeeds or its time is over.

What a try has started ends with it, in the background or not, also when its time is over or the whole is interrupted.
It runs in a cgroup of its own, named after this process, below that of the host's commands or of the task. A session
or process group would lose what makes its own (setsid, crun). `meshnet lab exec` and `load` inside the check go to a
group of that name where they enter (enter.CHECK). Agents and tasks that a check starts have groups of their own, and
stay.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshnet.errors import NotFoundError
from meshnet.lab import cgroups, packages, tasks, view
from meshnet.lab.bounded import TooMuchError
from meshnet.lab.enter import current_check, run_in_task, run_on_host
from meshnet.lab.interrupts import postponed
from meshnet.lab.spec import SHELL, Lab, LabCheck
from meshnet.model import SECOND

PAUSE = 0.1
PASSED, FAILED, CANNOT = "passed", "failed", "could not run"
_BEGIN, _END = 100, 200  # characters of a long output that are shown: what failed stands at its end, mostly
_CUT = "none after"
_NOBODY = "a host or a running task"
_ROUNDS = 10  # of ending what a check has started: a process may change from one group of the check to another
_NO_PROGRAM = 127  # as a shell says
_MESHNET = re.compile(r"(^|[;&|(]\s*)meshnet ", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_FOUND = re.compile(r"([\w.+-]+): (?:command )?not found|No such file or directory: '([^']+)'")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one try showed. `state` is `passed`, `failed`, or `could not run` because the machine lacks a program."""

    state: str
    expected: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended, after how long (s) and how many tries; `look` is where to look if it did not pass, `absent`
    says which nodes did not run then, and what brings them back."""

    check: LabCheck
    verdict: Verdict
    seconds: float
    tries: int
    look: str = ""
    absent: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict.state == PASSED

    @property
    def reason(self) -> str:
        """ "" if it passed, else what was expected, what was seen and where to look, in one line."""
        if self.passed:
            return ""
        absent = f"; {self.absent}" if self.absent else ""
        return f"expected {self.verdict.expected}, saw {self.verdict.seen}{absent}; look: {self.look}"

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        """The same for a person, one thing after the other, with the command as the lab file has it."""
        if self.passed:
            return ()
        seen = (("expected", self.verdict.expected), ("seen", self.verdict.seen))
        absent = (("nodes", self.absent),) if self.absent else ()
        return (*seen, *absent, ("command", self.check.command.rstrip()), ("look", self.look))


def run(lab: Lab, heard: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Runs the lab's checks in order; `heard` is told of each as it ends. GoneError if the lab goes down meanwhile."""
    _sweep(lab)
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
            absent = _absent(lab) if verdict.state == FAILED else ""
            return Outcome(check, verdict, spent, tries, _look(lab, check, verdict), absent)
        time.sleep(PAUSE)


def _look(lab: Lab, check: LabCheck, verdict: Verdict) -> str:
    """What to type to see more: as the lab file says, else a shell where the command can be typed. It names the lab:
    several may be up."""
    if check.look:
        return _MESHNET.sub(rf"\1meshnet --lab {lab.name} ", check.look)
    if verdict.expected.startswith(_NOBODY):
        return f"meshnet --lab {lab.name} service ps {check.on.partition('.')[0]}"
    where = f"meshnet lab exec --lab {lab.name} {check.on} --"
    return f"{where} sh" if check.run[:2] == SHELL else f"{where} {check.command}"


def _absent(lab: Lab) -> str:
    """Which nodes are killed or stopped, wholly or in part, each with what brings it back; "" if all run."""
    return "; ".join(
        f"{row['Name']} is {row['State']}; bring it back with: meshnet --lab {lab.name} lab start {row['Name']}"
        for row in view.hosts(lab)
        if row["Role"] != "client" and row["State"] != view.UP
    )


@contextmanager
def _group(lab: Lab) -> Iterator[str]:
    """The name of the groups of what a try starts; all that is in them ends with the block."""
    name = "/".join(filter(None, (current_check(), f"check-{os.getpid()}")))
    try:
        yield name
    finally:
        with postponed():
            for _ in range(_ROUNDS):
                found = _groups(lab, name)
                for group in found:
                    cgroups.end(group)
                if not found:
                    break


def _groups(lab: Lab, pattern: str) -> list[Path]:
    """The groups of checks on nodes and in tasks; unlike Path.glob, glob bears that a task goes as it looks."""
    return [Path(found) for found in glob.glob(f"{cgroups.path(lab.name)}/*/*/{pattern}")]


def _sweep(lab: Lab) -> None:
    """Ends what checks of processes have left that were killed."""
    for group in _groups(lab, "check-*"):
        if not os.path.exists(f"/proc/{group.name.removeprefix('check-')}"):
            cgroups.end(group)


def _try(lab: Lab, check: LabCheck, timeout: float) -> Verdict:
    """Whether the check holds now."""
    try:
        with _group(lab) as group:
            if lab.host(check.on) is not None:
                done = run_on_host(lab, check.on, check.run, timeout, check=group)
            else:
                done = run_in_task(tasks.find(lab, check.on), check.run, timeout, check=group)
    except NotFoundError as error:
        return Verdict(FAILED, f"{_NOBODY} {check.on}", str(error))
    except subprocess.TimeoutExpired as cut:
        said = _one_line(_text(cut.stdout) + _text(cut.stderr))
        return Verdict(FAILED, "an end", f"{_CUT} {timeout:.1f} s" + (f"; until then: {said}" if said else ""))
    except TooMuchError as flood:
        return Verdict(FAILED, "an end", f"{flood}, which begins: {_one_line(_text(flood.output))}")
    return judge(check, done, lab.directory)


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def judge(check: LabCheck, done: subprocess.CompletedProcess[str], directory: str) -> Verdict:
    """What a command that ended says about the check of the lab in `directory`."""
    seen = _one_line(done.stdout + done.stderr)
    missing = _NOT_FOUND.search(done.stderr) if done.returncode == _NO_PROGRAM else None
    if missing is not None:
        program = (missing[1] or missing[2]).rpartition("/")[2]
        return Verdict(
            CANNOT, f"the program {program}", f"none on this machine; {packages.how_to_get(program, directory)}"
        )
    if done.returncode != 0:
        return Verdict(FAILED, "exit status 0", f"{done.returncode}: {seen or 'no output'}")
    if check.expect and check.expect not in done.stdout:
        return Verdict(FAILED, f"{check.expect!r} in the output", seen or "nothing")
    return Verdict(PASSED)


def _one_line(text: str) -> str:
    """For a person's terminal, which must not be told what to do by what a check has printed."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))
    return text if len(text) <= _BEGIN + _END else f"{text[:_BEGIN]} ... {text[-_END:]}"
