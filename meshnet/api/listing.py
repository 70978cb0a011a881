"""The list of services as JSON: of each one, what changes only with the service itself is written once."""

from __future__ import annotations

from collections.abc import Iterable

from meshnet.api import shapes
from meshnet.api.http import json_text
from meshnet.control.view import View
from meshnet.model import Service

_SPARE = 100  # texts of services that are gone may be kept


class ServiceTexts:
    """Remembers the texts of services that are, and of few others."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[Service, str]] = {}

    def listing(self, services: Iterable[Service], view: View, status: bool) -> str:
        """A JSON list of services as `shapes.service` has them."""
        if len(self._texts) > len(view.services) + _SPARE:
            self._texts = {ident: known for ident, known in self._texts.items() if ident in view.services}
        return f"[{','.join([self._text(service, view, status) for service in services])}]"

    def _text(self, service: Service, view: View, status: bool) -> str:
        known = self._texts.get(service.id)
        if known is None or known[0] is not service:
            known = self._texts[service.id] = service, json_text(shapes.lasting(service))
        momentary = shapes.momentary(service, view, status)
        return f"{known[1][:-1]},{json_text(momentary)[1:]}" if momentary else known[1]
