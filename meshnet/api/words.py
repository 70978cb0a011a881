"""How the Engine writes times and durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime

NEVER = "0001-01-01T00:00:00Z"
_SPANS = ((2, 3600 * 24 * 365, "years"), (2, 3600 * 24 * 30, "months"), (2, 3600 * 24 * 7, "weeks"))


def stamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339; 0.0 is never."""
    if not seconds:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """As Docker's units package says it: `Less than a second`, `5 seconds`, `About a minute`, `2 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for least, length, name in _SPANS:
        if whole >= least * length:
            return f"{whole // length} {name}"
    return f"{hours // 24} days"


def parse_time(text: str, now: float | None = None) -> float | None:
    """A time as clients send it: seconds since 1970 with a fraction, RFC 3339, or a Go duration before now.

    None for an empty text, ValueError for what is none of these.
    """
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    present = time.time() if now is None else now
    found = _go_duration(text)
    return present - found if found is not None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _go_duration(text: str) -> float | None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    total, number, unit = 0.0, "", ""
    for char in text + "0":
        if char.isdigit() or char == ".":
            if unit:
                if unit not in units or not number:
                    return None
                total, number, unit = total + float(number) * units[unit], "", ""
            number += char
        else:
            unit += char
    return total if number == "0" and not unit else None
