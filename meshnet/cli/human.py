"""Times, ids and states as docker's tables show them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

SHORT_ID = 12


def short(ident: str) -> str:
    """The first 12 characters of an id."""
    return ident[:SHORT_ID]


def count(number: int, thing: str) -> str:
    """A number of things, such as `1 node` or `2 nodes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def duration(seconds: float) -> str:
    """A time span in words, rounded down: `4 seconds`, `About a minute`, `3 hours` (docker/go-units)."""
    if seconds < 1:
        return "Less than a second"
    amount = int(seconds)
    if amount < 60:
        return "1 second" if amount == 1 else f"{amount} seconds"
    if amount < 120:
        return "About a minute"
    if amount < 3600:
        return f"{amount // 60} minutes"
    if amount < 7200:
        return "About an hour"
    if amount < 48 * 3600:
        return f"{amount // 3600} hours"
    return f"{amount // 86400} days"


def ago(timestamp: str, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was, such as `4 seconds ago`; "" if there is no time."""
    # Python reads microseconds, the Engine writes nanoseconds.
    text = re.sub(r"(\.\d{6})\d+", r"\1", timestamp).replace("Z", "+00:00")
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return ""
    words = duration(max(0.0, ((now or datetime.now(UTC)) - then).total_seconds()))
    return f"{words[0].lower() + words[1:]} ago"


def state(word: str, timestamp: str) -> str:
    """A task's state as in `docker service ps`: `Running 4 seconds ago`."""
    return f"{word.capitalize()} {ago(timestamp)}".rstrip()


def go_duration(nanoseconds: int) -> str:
    """As Go writes it: `1m5s`, `500ms`, `0s`."""
    if 0 < nanoseconds < 10**9:
        return f"{nanoseconds / 1e6:g}ms"
    minutes, seconds = divmod(nanoseconds / 1e9, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds:g}s"


def size(number: float) -> str:
    """Bytes in units of 1024, as docker/go-units writes them: `20MiB`, `23.54GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.4g}{unit}"


def decimal_size(number: float) -> str:
    """Bytes in units of 1000, as docker shows those of images: `12.3MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:.3g}{unit}"
