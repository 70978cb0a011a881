"""How long a suspect has to refute: long while one member accuses, shorter with each that confirms.

The time starts at max = 6 * min and falls with the logarithm of independent confirmations to min, reached at
k = suspicion_mult - 2 of them. A cluster too small to give k confirmations uses min at once. (Lifeguard's
LHA-Suspicion; memberlist suspicion.go.)
"""

from __future__ import annotations

import math

from meshnet.gossip.settings import Settings


class Suspicion:
    """One running suspicion, begun at `start` by `accuser` in a cluster of `members`."""

    def __init__(self, settings: Settings, members: int, accuser: str, start: float) -> None:
        least = settings.suspicion_mult * max(1.0, math.log10(max(1, members))) * settings.probe_interval
        wanted = max(0, int(settings.suspicion_mult) - 2)
        self._wanted = wanted if members - 2 >= wanted else 0
        self._least = least
        self._most = least * settings.suspicion_max_mult
        self._start = start
        self._accuser = accuser
        self._confirmed: set[str] = set()

    def confirm(self, accuser: str) -> bool:
        """Whether this accuser is news, worth passing on: another one than before, and still counted."""
        if accuser == self._accuser or accuser in self._confirmed or len(self._confirmed) >= self._wanted:
            return False
        self._confirmed.add(accuser)
        return True

    def deadline(self) -> float:
        """When the suspect becomes dead unless it refutes."""
        if self._wanted == 0:
            return self._start + self._least
        share = math.log(len(self._confirmed) + 1) / math.log(self._wanted + 1)
        timeout = max(self._least, self._most - (self._most - self._least) * share)
        return self._start + timeout
