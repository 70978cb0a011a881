"""A health check's life as a value: results in, status and next delay out. Docker's rules, with a quicker beginning.

    starting --success--> healthy --`retries` failures in a row--> unhealthy --success--> healthy
    starting --`retries` failures in a row, after the start period--> unhealthy

Docker asks for the first time after a whole interval, so a task with `interval: 30s` joins its service half a minute
late. Here the first questions come at once and then at growing distances up to the interval; in exchange, no failure
counts before the first interval (or the start period, if that is longer) is over. A task that is never healthy is
found out no sooner than Docker would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from meshnet.sandbox.spec import HealthConfig

NONE, STARTING, HEALTHY, UNHEALTHY = "none", "starting", "healthy", "unhealthy"
FIRST_DELAY = 0.1  # seconds
OUTPUT = 4096  # bytes of a check's output that are kept, as in Docker
RESULTS = 5  # results that are kept, as in Docker


@dataclass(frozen=True, slots=True)
class Result:
    """One check: when it began and ended (seconds on one clock), its exit code (None: timed out) and its output."""

    start: float
    end: float
    code: int | None
    output: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Where a task stands. `began` is when it was started, on the clock of the results."""

    began: float
    status: str = STARTING
    failing_streak: int = 0
    checks: int = 0
    results: tuple[Result, ...] = ()  # the newest at the end

    @property
    def last(self) -> Result | None:
        """The newest result."""
        return self.results[-1] if self.results else None


def command(config: HealthConfig | None) -> tuple[str, ...] | None:
    """What the check runs inside the task; None if there is nothing to check."""
    if config is None or not config.test or config.test[0] == "NONE":
        return None
    if config.test[0] == "CMD-SHELL":
        return ("/bin/sh", "-c", " ".join(config.test[1:]))
    return config.test[1:] if config.test[0] == "CMD" and len(config.test) > 1 else None


def observe(health: Health, config: HealthConfig, result: Result) -> Health:
    """The state after one more result."""
    checks, results = health.checks + 1, (*health.results, result)[-RESULTS:]
    if result.code == 0:
        return replace(health, status=HEALTHY, failing_streak=0, checks=checks, results=results)
    grace = max(config.start_period, config.interval)
    if health.status == STARTING and result.start < health.began + grace:
        return replace(health, checks=checks, results=results)
    streak = health.failing_streak + 1
    status = UNHEALTHY if streak >= max(config.retries, 1) else health.status
    return replace(health, status=status, failing_streak=streak, checks=checks, results=results)


def next_delay(health: Health, config: HealthConfig) -> float:
    """Seconds from now (the end of the last check) to the next one."""
    if health.status != STARTING:
        return config.interval
    return min(config.interval, FIRST_DELAY * 2 ** min(health.checks, 16)) if health.checks else 0.0


def report(health: Health, offset: float) -> dict[str, Any]:
    """As the Engine's `State.Health`. `offset` is what makes seconds since 1970 of the results' clock."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": _stamp(result.start + offset),
                "End": _stamp(result.end + offset),
                "ExitCode": -1 if result.code is None else result.code,
                "Output": result.output,
            }
            for result in health.results
        ],
    }


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
