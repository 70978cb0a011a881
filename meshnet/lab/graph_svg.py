"""A lab's picture as SVG: rows of boxes with the networks as bars between them, as on a whiteboard.

From top to bottom: clients, the underlay, nodes, ingress and the overlay networks, services. Nothing but this file is
needed to draw it, and the result is plain enough to be read as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from meshnet.lab.graph import INGRESS, Host, Picture, ServiceBox

WIDTH, GAP, MARGIN = 150, 20, 20
LINE, PAD, BAR = 17, 8, 24
SPACE = 26  # between rows
COLOURS = ("#2a78b8", "#c26a1e", "#3c8c4a", "#8a4fa3", "#b03a48", "#6b6b2a")
UNDERLAY = "#666666"
STYLE = (
    "text{font:13px sans-serif;fill:#222}.name{font-weight:bold}.small{font-size:12px;fill:#555}"
    ".bar{fill:#fff;font-weight:bold}"
)


def svg(shown: Picture) -> str:
    """The whole document."""
    columns = max(len(shown.nodes), len(shown.clients), len(shown.services), 2)
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP
    drawing = _Drawing(width)
    clients = drawing.row([_host(host) for host in shown.clients])
    top = drawing.bar(f"underlay {shown.underlay}", UNDERLAY)
    drawing.wires(clients, top, UNDERLAY)
    nodes = drawing.row([_host(host) for host in shown.nodes])
    drawing.wires(nodes, top + BAR, UNDERLAY, upward=True)
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(shown.networks)}
    bars = {name: drawing.bar(_label(name), colours[name]) for name in shown.networks}
    if INGRESS in bars:
        drawing.wires(nodes, bars[INGRESS], colours[INGRESS])
    boxes = drawing.row([_service(box) for box in shown.services])
    for box, place in zip(shown.services, boxes, strict=True):
        step = WIDTH / (len(box.networks) + 1)
        for index, name in enumerate(box.networks):
            drawing.wire(place.x + step * (index + 1), bars[name] + BAR, place.y, colours[name])
    return drawing.document(f"Topology of the lab {shown.name}")


def _label(name: str) -> str:
    return "ingress: published ports of every node" if name == INGRESS else f"network {name}"


def _host(host: Host) -> tuple[str, ...]:
    return (host.name, host.address, *((host.role,) if host.role != "client" else ()), *host.tasks)


def _service(box: ServiceBox) -> tuple[str, ...]:
    return (box.name, ", ".join((box.size, *((box.mode,) if box.mode == "dnsrr" else ()))), *box.ports)


class _Place:
    """Where a box is: its left edge, its upper and its lower one."""

    def __init__(self, x: float, y: float, bottom: float) -> None:
        self.x, self.y, self.bottom = x, y, bottom


class _Drawing:
    """Elements in the order in which they were added; wires lie below everything else."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._y = MARGIN
        self._below: list[str] = []
        self._above: list[str] = []

    def row(self, boxes: Sequence[Sequence[str]]) -> list[_Place]:
        """A row of boxes in the middle of the width; each has its name in bold and further lines."""
        if not boxes:
            return []
        height = 2 * PAD + LINE * max(map(len, boxes))
        x = (self._width - len(boxes) * WIDTH - (len(boxes) - 1) * GAP) / 2
        places = []
        for lines in boxes:
            places.append(_Place(x, self._y, self._y + height))
            self._above.append(
                f'<rect x="{x:g}" y="{self._y}" width="{WIDTH}" height="{height}" rx="6" fill="#f6f6f2" stroke="#444"/>'
            )
            for index, line in enumerate(lines):
                y = self._y + PAD + LINE * index + 13
                kind = "name" if index == 0 else "small"
                self._text(x + WIDTH / 2, y, line, kind)
            x += WIDTH + GAP
        self._y += height + SPACE
        return places

    def bar(self, label: str, colour: str) -> int:
        """A bar over the whole width; returns its upper edge."""
        y, width = self._y, self._width - 2 * MARGIN
        self._above.append(f'<rect x="{MARGIN}" y="{y}" width="{width}" height="{BAR}" rx="4" fill="{colour}"/>')
        self._text(self._width / 2, y + 17, label, "bar")
        self._y += BAR + SPACE
        return y

    def wires(self, places: Sequence[_Place], y: float, colour: str, *, upward: bool = False) -> None:
        """A wire from the middle of each box to a bar's edge at `y`."""
        for place in places:
            self.wire(place.x + WIDTH / 2, y, place.y if upward else place.bottom, colour)

    def wire(self, x: float, y: float, end: float, colour: str) -> None:
        self._below.append(f'<line x1="{x:g}" y1="{y:g}" x2="{x:g}" y2="{end:g}" stroke="{colour}" stroke-width="2"/>')

    def _text(self, x: float, y: float, text: str, kind: str) -> None:
        shown = escape(text if len(text) <= 40 else text[:39] + "…")
        squeeze = (
            f' textLength="{WIDTH - 8}" lengthAdjust="spacingAndGlyphs"' if kind != "bar" and len(text) > 20 else ""
        )
        self._above.append(f'<text x="{x:g}" y="{y}" text-anchor="middle" class="{kind}"{squeeze}>{shown}</text>')

    def document(self, title: str) -> str:
        height = self._y - SPACE + MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self._width}" height="{height}" '
            f'viewBox="0 0 {self._width} {height}" role="img">'
        )
        ground = '<rect width="100%" height="100%" fill="#fff"/>'
        body = [f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", ground, *self._below, *self._above]
        return "\n".join([head, *body, "</svg>"]) + "\n"
