"""Restart policies of single containers: which ends begin again, and after how long."""

from __future__ import annotations

import pytest

from meshnet.agent.restarting import FIRST, LONGEST, RestartPolicy, again, at_boot, check, delay
from meshnet.errors import MeshnetError


@pytest.mark.parametrize(
    ("policy", "auto_remove", "words"),
    [
        (RestartPolicy("sometimes"), False, "invalid restart policy 'sometimes'"),
        (RestartPolicy("always", 3), False, "maximum retry count cannot be used with restart policy 'always'"),
        (RestartPolicy("on-failure", -1), False, "cannot be negative"),
        (RestartPolicy("always"), True, "can't create 'AutoRemove' container with restart policy"),
    ],
)
def test_policies_that_cannot_be(policy: RestartPolicy, auto_remove: bool, words: str) -> None:
    """They are refused in the engine's words."""
    with pytest.raises(MeshnetError, match=words):
        check(policy, auto_remove)
    check(RestartPolicy("no"), True)
    check(RestartPolicy("on-failure", 3), False)


@pytest.mark.parametrize(
    ("name", "most", "code", "restarts", "stopped", "ends", "boots"),
    [
        ("", 0, 1, 0, False, False, False),
        ("no", 0, 1, 0, False, False, False),
        ("always", 0, 0, 9, False, True, True),
        ("always", 0, 0, 9, True, True, True),
        ("unless-stopped", 0, 0, 9, False, True, True),
        ("unless-stopped", 0, 0, 9, True, True, False),
        ("on-failure", 0, 1, 99, False, True, True),
        ("on-failure", 0, 0, 0, False, False, False),
        ("on-failure", 2, 1, 1, False, True, True),
        ("on-failure", 2, 1, 2, False, False, False),
        ("on-failure", 0, 1, 0, True, True, False),
    ],
)
def test_what_begins_again(
    name: str, most: int, code: int, restarts: int, stopped: bool, ends: bool, boots: bool
) -> None:
    """After an end of its own, and when its node starts."""
    policy = RestartPolicy(name, most)
    assert again(policy, code, restarts) is ends
    assert at_boot(policy, stopped, code, restarts) is boots


def test_delays() -> None:
    """They double from a tenth of a second to a minute."""
    assert [delay(number) for number in (1, 2, 3)] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert delay(50) == LONGEST
