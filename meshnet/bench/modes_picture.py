"""An event as a picture: a line for each client, from the event on."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from meshnet.bench.modes_result import Event, Lived

LEFT, WIDTH, ROW, TOP = 380, 560, 20, 24  # pixels: room for names, the time, a line, the heads
RED, GREEN, GREY, BLUE = "#b3261e", "#1b6e3c", "#5b6472", "#8fb8de"
LEGEND = (
    "Red: from the first error to the last, the darker the more of all requests failed. "
    "Green: the first answer of a backend that came. Grey: the last answer of one that went."
)


def darkness(found: Lived) -> float:
    """How much of what was asked from the first to the last error failed: 0.2 to 1."""
    line = found.timeline
    if line.first_error is None or line.last_error is None or not line.requests:
        return 0.0
    return min(1.0, 0.2 + 0.8 * line.failed / line.requests)


def svg(event: Event) -> str:
    """The picture, with its legend."""
    height = TOP + ROW * len(event.lived)
    body = "".join([*_scale(event.seconds, height), *_rows(event)])
    return (
        f'<svg width="{LEFT + WIDTH + 20}" height="{height}" font-size="12" font-family="system-ui, sans-serif">'
        f'{body}</svg><p class="note">{LEGEND}</p>'
    )


def _scale(seconds: float, height: int) -> Iterator[str]:
    for second in range(int(seconds) + 1):
        at = _at(second, seconds)
        yield f'<path d="M{at} {TOP - 4}V{height}" stroke="#e3e6ea"/><text x="{at - 3}" y="14">{second}</text>'


def _rows(event: Event) -> Iterator[str]:
    for place, one in enumerate(event.lived):
        middle = TOP + ROW * place + ROW // 2
        yield f'<text x="0" y="{middle + 4}">{escape(f"{one.title}; {one.connections}")}</text>'
        yield f'<path d="M{LEFT} {middle}H{LEFT + WIDTH}" stroke="{BLUE}"/>'
        line = one.timeline
        if line.first_error is not None and line.last_error is not None:
            begin, end = _at(line.first_error, event.seconds), _at(line.last_error, event.seconds)
            length = max(2.0, round(end - begin, 1))
            yield (
                f'<rect x="{begin}" y="{middle - 5}" width="{length}" height="10" fill="{RED}" '
                f'opacity="{darkness(one):.2f}"/>'
            )
        for moment, colour in ((line.last_old, GREY), (line.first_new, GREEN)):
            if moment is not None:
                yield f'<path d="M{_at(moment, event.seconds)} {middle - 8}v16" stroke="{colour}" stroke-width="3"/>'


def _at(moment: float, seconds: float) -> float:
    return round(LEFT + min(moment, seconds) / seconds * WIDTH, 1)
