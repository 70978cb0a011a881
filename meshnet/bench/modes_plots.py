"""Waits and events of `meshnet bench vip-vs-dnsrr` as figures of matplotlib, which the caller has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshnet.bench.modes import EVENTS, WAITS
from meshnet.bench.modes_picture import BLUE, GREEN, GREY, LEGEND, RED, darkness
from meshnet.bench.modes_result import Event, Modes

_PERCENTILES = {"p50": "#8fb8de", "p90": "#5b93c9", "p99": "#2f6ea8", "p999": "#12436f"}
_LABELS = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}


def figures(figure_class: Any, modes: Modes, under: str) -> Iterator[tuple[str, Any]]:
    """Names of files without their ending, and figures."""
    if modes.waits:
        yield WAITS, _waits(figure_class, modes, under)
    for event in modes.events:
        yield event.key, _event(figure_class, event, under)


def _waits(figure_class: Any, modes: Modes, under: str) -> Any:
    figure = figure_class(figsize=(10, 1.6 + 0.4 * len(modes.waits)), layout="constrained")
    pressed = modes.pressure is not None and modes.pressure.high
    figure.suptitle("Latency from when a request was due" + (" (UNDER PRESSURE)" if pressed else ""))
    axis = figure.subplots()
    for place, one in enumerate(modes.waits):
        for name, colour in _PERCENTILES.items():
            value = getattr(one, name)
            if value is not None:
                axis.plot(value, place, "o", color=colour, label=_LABELS[name] if place == 0 else None)
    axis.set_xscale("log")
    axis.set_yticks(range(len(modes.waits)), [f"{one.title}; {one.connections}" for one in modes.waits], fontsize=8)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    figure.supxlabel(f"microseconds. {under}", fontsize=8)
    return figure


def _event(figure_class: Any, event: Event, under: str) -> Any:
    figure = figure_class(figsize=(11, 1.8 + 0.3 * len(event.lived)), layout="constrained")
    high = event.pressure.high or event.late
    figure.suptitle(EVENTS[event.key] + (" (UNDER PRESSURE)" if high else ""))
    axis = figure.subplots()
    for place, one in enumerate(event.lived):
        line = one.timeline
        axis.plot([0, event.seconds], [place, place], color=BLUE, linewidth=1)
        if line.first_error is not None and line.last_error is not None:
            length = max(0.02, line.last_error - line.first_error)
            axis.barh(place, length, left=line.first_error, color=RED, alpha=darkness(one), height=0.5)
        for moment, colour in ((line.last_old, GREY), (line.first_new, GREEN)):
            if moment is not None:
                axis.plot([moment, moment], [place - 0.35, place + 0.35], color=colour, linewidth=3)
    axis.set_yticks(range(len(event.lived)), [f"{one.title}; {one.connections}" for one in event.lived], fontsize=8)
    axis.set_xlim(0, event.seconds)
    axis.invert_yaxis()
    figure.supxlabel(f"seconds from the event on. {LEGEND}\n{under}", fontsize=7)
    return figure
