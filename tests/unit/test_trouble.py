"""Complaints that are made once something has lasted."""

from __future__ import annotations

import logging

import pytest

from meshnet.control.trouble import Trouble


def test_only_what_lasts_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble of a moment leaves no word; what lasts two seconds is said once, and that it is over."""
    caplog.set_level(logging.INFO)
    now = 100.0
    trouble = Trouble(logging.getLogger("test"), "manager", lambda: now)
    trouble.goes_on("m:1 does not answer: refused")
    now += 1.9
    trouble.goes_on("m:1 does not answer: refused")
    trouble.ends()
    assert caplog.messages == []
    for _ in range(10):
        trouble.goes_on("m:1 does not answer: refused")
        now += 0.5
    assert caplog.messages == ["manager m:1 does not answer: refused, for 2 s now; trying on"]
    trouble.ends()
    trouble.ends()
    assert caplog.messages[1:] == ["manager answers again after 5 s"]
