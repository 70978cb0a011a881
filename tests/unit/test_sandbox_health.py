"""The health check's states, by Docker's rules."""

from __future__ import annotations

import pytest

from meshnet.sandbox.health import HEALTHY, STARTING, UNHEALTHY, Health, Result, command, next_delay, observe
from meshnet.sandbox.spec import HealthConfig

CONFIG = HealthConfig(("CMD", "x"), interval=10.0, timeout=1.0, retries=3, start_period=0.0)


def after(health: Health, *results: tuple[float, int | None], config: HealthConfig = CONFIG) -> Health:
    for time, code in results:
        health = observe(health, config, Result(time, time, code))
    return health


def test_one_success_makes_a_task_healthy() -> None:
    """A task joins its service with the first success."""
    assert after(Health(0.0), (0.0, 1), (1.0, 0)).status == HEALTHY


def test_failures_in_a_row_make_it_unhealthy() -> None:
    """As many as `retries`, a time-out included; a success in between starts the count anew."""
    health = after(Health(0.0), (0.0, 0), (10.0, 1), (20.0, None), (30.0, 0), (40.0, 1), (50.0, 1))
    assert (health.status, health.failing_streak) == (HEALTHY, 2)
    assert after(health, (60.0, None)).status == UNHEALTHY


def test_an_unhealthy_task_can_recover() -> None:
    """The next success makes it healthy again."""
    health = after(Health(0.0), (10.0, 1), (20.0, 1), (30.0, 1))
    assert health.status == UNHEALTHY
    assert after(health, (40.0, 0)).status == HEALTHY


def test_early_failures_do_not_count() -> None:
    """Within the first interval, or the start period if longer, failures only mean not yet."""
    assert after(Health(0.0), *[(float(t), 1) for t in range(10)]).failing_streak == 0
    patient = HealthConfig(("CMD", "x"), interval=1.0, retries=2, start_period=60.0)
    health = after(Health(0.0), *[(float(t), 1) for t in range(60)], config=patient)
    assert (health.status, health.failing_streak) == (STARTING, 0)
    assert after(health, (60.0, 1), (61.0, 1), config=patient).status == UNHEALTHY


def test_the_start_period_ends_with_the_first_success() -> None:
    """A task that was healthy and fails is judged at once, also within its start period."""
    patient = HealthConfig(("CMD", "x"), interval=1.0, retries=1, start_period=60.0)
    assert after(Health(0.0), (1.0, 0), (2.0, 1), config=patient).status == UNHEALTHY


def test_checks_begin_at_once_and_slow_down() -> None:
    """A task that is ready soon is found ready soon; the distance never exceeds the interval."""
    health, delays = Health(0.0), []
    for time in range(9):
        delays.append(next_delay(health, CONFIG))
        health = after(health, (float(time), 1))
    assert delays[:4] == [0.0, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert max(delays) == CONFIG.interval
    assert next_delay(after(health, (20.0, 0)), CONFIG) == CONFIG.interval


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (("CMD", "a", "b c"), ("a", "b c")),
        (("CMD-SHELL", "a || b"), ("/bin/sh", "-c", "a || b")),
        (("NONE",), None),
        ((), None),
    ],
)
def test_both_forms_of_a_check(test: tuple[str, ...], words: tuple[str, ...] | None) -> None:
    """CMD runs a program, CMD-SHELL a line of shell, NONE nothing."""
    assert command(HealthConfig(test)) == words
