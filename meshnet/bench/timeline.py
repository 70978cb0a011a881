"""What a client lived through when its backends changed. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

OK = "ok"
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was due and when it ended (ns, one clock), `ok` or what went wrong, and who answered."""

    due: int
    end: int
    outcome: str
    backend: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds from the event on. `requests` that ended after it, and `errors` of these by kind; None for what never
    was. `first_error`, `last_error`: when the first and the last request that failed were due (0: before the event);
    how long it took to give up is the client's own. `first_new`, `last_old`: the first answer of a backend that came,
    the last of one that went. `slowest`: the longest wait of a request that was answered. `before`: errors before the
    event, which it has not caused."""

    requests: int
    errors: Mapping[str, int]
    first_error: float | None
    last_error: float | None
    first_new: float | None
    last_old: float | None
    slowest: float
    before: int = 0

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(self.errors.values())


def timeline(requests: Iterable[Request], event: int, old: Collection[str], new: Collection[str]) -> Timeline:
    """From all requests of a client. `event`: when the change was asked for (ns); `old` and `new` backends."""
    ordered = sorted(requests, key=lambda one: one.end)
    after = [one for one in ordered if one.end >= event]
    wrong = sorted(max(0, one.due - event) / _SECOND for one in after if one.outcome != OK)
    came = [one for one in after if one.outcome == OK and one.backend in new]
    left = [one for one in after if one.outcome == OK and one.backend in old]

    def at(found: list[Request], place: int) -> float | None:
        return (found[place].end - event) / _SECOND if found else None

    return Timeline(
        requests=len(after),
        errors=dict(sorted(Counter(one.outcome for one in after if one.outcome != OK).items())),
        first_error=wrong[0] if wrong else None,
        last_error=wrong[-1] if wrong else None,
        first_new=at(came, 0),
        last_old=at(left, -1),
        slowest=max(((one.end - one.due) / _SECOND for one in after if one.outcome == OK), default=0.0),
        before=sum(one.outcome != OK for one in ordered) - len(wrong),
    )
