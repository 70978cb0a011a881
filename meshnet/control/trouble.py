"""What goes wrong for a moment is nobody's business: a complaint that is made once it has lasted, and taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable

PATIENCE = 2.0  # s; agents start beside their manager, and before it


class Trouble:
    """Says that something is wrong after `patience` seconds of it, once, and that it is over. `clock` gives seconds."""

    def __init__(self, log: logging.Logger, what: str, clock: Callable[[], float], patience: float = PATIENCE) -> None:
        self._log, self._what, self._clock, self._patience = log, what, clock, patience
        self._since: float | None = None
        self._said = False

    def goes_on(self, how: str) -> None:
        """It is wrong, or still is."""
        if self._since is None:
            self._since = self._clock()
        if not self._said and self._clock() - self._since >= self._patience:
            self._said = True
            self._log.warning("%s %s, for %.0f s now; trying on", self._what, how, self._clock() - self._since)

    def ends(self) -> None:
        """It is right, or still is."""
        if self._said and self._since is not None:
            self._log.info("%s answers again after %.0f s", self._what, self._clock() - self._since)
        self._since, self._said = None, False
