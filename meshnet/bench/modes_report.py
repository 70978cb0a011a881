"""Waits, shares and events as rows of text, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator

from meshnet.bench.modes import CONNECTIONS, EVENTS
from meshnet.bench.modes_result import Event, Lived, Modes, Wait
from meshnet.bench.pressure import Pressure
from meshnet.bench.scale_report import Grid, laid_out

_STILL = 0.5  # s before the end of an observation, from which an error is not known to be the last


def lines(found: Modes) -> Iterator[str]:
    """Everything, line by line."""
    for grid in grids(found):
        yield from laid_out(grid)


def grids(found: Modes) -> Iterator[Grid]:
    """What wrk says, waits, shares, then one grid for each event."""
    if found.wrk:
        yield _wrk(found)
    if found.waits:
        yield _waits(found)
    if found.shares:
        yield _shares(found)
    yield from map(event, found.events)


def _wrk(found: Modes) -> Grid:
    rows: list[tuple[str, ...]] = [("ASKED", "REQUESTS/S", "P50", "P99", "FAILED")]
    for each in found.wrk:
        rate = f"{each.rate:,.0f} ({each.least:,.0f}-{each.most:,.0f})"
        rows.append((each.title, rate, f"{each.p50:,.0f}", f"{each.p99:,.0f}", str(each.failed)))
    note = f"medians of {found.wrk[0].rounds} runs of a second in turn, least and most in brackets; us"
    heading = f"The same by wrk: {CONNECTIONS} connections that are kept, full speed"
    pressure = found.wrk[0].pressure
    return _warned(heading, pressure.high, _others(pressure)), note, rows


def _others(pressure: Pressure) -> str:
    return f"others had {pressure.others:.0%} of the CPUs, the hypervisor {pressure.stolen:.0%}"


def _waits(found: Modes) -> Grid:
    rows: list[tuple[str, ...]] = [
        ("CLIENT", "CONNECTIONS", "REQUESTS", "P50", "AGAINST DNSRR", "P90", "P99", "P99.9", "FAILED", "DNS/S")
    ]
    rows += map(_wait, found.waits)
    note = (
        "us from when a request was due, in an open loop; in brackets the least and most of four parts of the run. The "
        "ratio is dnsrr's median over it, above 1 is faster. `-`: fewer than ten requests took longer. "
        "`?`: not known within 2 %, or measured while others had the CPUs"
    )
    loops = " and ".join(dict.fromkeys(each.loop for each in found.waits))
    return (
        _warned(f"Latency at {loops}", found.pressure.high if found.pressure else False, str(found.pressure)),
        note,
        rows,
    )


def _wait(found: Wait) -> tuple[str, ...]:
    doubt = "" if found.sure else "?"
    ratio = "-"
    if found.ratio is not None:
        ratio = f"{found.ratio.median:.3f}" + ("" if found.ratio.sure and found.sure else "?")
    parts = f" ({found.p99_low:,.0f}-{found.p99_high:,.0f})" if found.p99_low and found.p99_high else ""
    return (
        found.title,
        found.connections,
        f"{found.count:,}",
        _micro(found.p50, doubt),
        ratio,
        _micro(found.p90, doubt),
        _micro(found.p99, doubt) + parts,
        _micro(found.p999, doubt),
        str(found.failed),
        f"{found.asked:,.0f}",
    )


def _micro(value: float | None, doubt: str) -> str:
    return "-" if value is None else f"{value:,.0f}{doubt}"


def _shares(found: Modes) -> Grid:
    rows: list[tuple[str, ...]] = [("CLIENT", "HOW", "CONNECTIONS", "LEAST", "MOST", "CHI2", "SPREAD")]
    for each in found.shares:
        one = each.sharing
        spread = (f"{one.count:,}", f"{one.least:.1%}", f"{one.most:.1%}", f"{one.chi2:.2f}", one.verdict)
        rows.append((each.title, each.connections, *spread))
    note = "shares of the backend that got least, and most; chi square for each degree of freedom, about 1 by chance"
    return "Spread over the backends", note, rows


def event(found: Event) -> Grid:
    """What every client lived through in an event."""
    rows: list[tuple[str, ...]] = [
        (
            *("CLIENT", "CONNECTIONS", "REQUESTS", "FAILED", "FIRST ERROR", "LAST ERROR"),
            *("FIRST ON NEW", "LAST ON OLD", "SLOWEST", "DNS/S"),
        )
    ]
    rows += [_lived(each, found.seconds) for each in found.lived]
    note = (
        f"s from the event on, watched for {found.seconds:g} s. Errors at the time when the request was due; it fails "
        "after a second at the latest. First and last answer of a backend that came, or went"
    )
    why = _others(found.pressure)
    if found.late:
        why = f"{found.late} of {len(found.lived)} clients could not ask as often as they should; {why}"
    return _warned(EVENTS[found.key], found.pressure.high or found.late > 0, why), note, rows


def _warned(heading: str, high: bool, why: str) -> str:
    return f"{heading}. UNDER PRESSURE: {why}" if high else heading


def _lived(found: Lived, seconds: float) -> tuple[str, ...]:
    line = found.timeline
    kinds = ", ".join(f"{name} {count}" for name, count in line.errors.items())
    failed = f"{line.failed} ({kinds})" if kinds else "0"
    if line.before:
        failed += f", {line.before} before"
    return (
        found.title,
        found.connections,
        f"{line.requests:,}",
        failed,
        _second(line.first_error),
        "to the end" if lasting(line.last_error, seconds) else _second(line.last_error),
        _second(line.first_new),
        "to the end" if lasting(line.last_old, seconds) else _second(line.last_old),
        f"{line.slowest * 1000:,.0f} ms",
        f"{found.asked:.1f}",
    )


def lasting(last: float | None, seconds: float) -> bool:
    """Whether what was last seen then may have gone on after the observation."""
    return last is not None and last > seconds - _STILL


def _second(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
