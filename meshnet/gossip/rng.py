"""The randomness that the core is given: what it uses of `random.Random`."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Random(Protocol):
    """Fulfilled by `random.Random`; a seeded one makes the engine repeatable."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randint(self, a: int, b: int) -> int:
        """A whole number, both ends included."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """A number of k bits."""
        ...

    def choice(self, seq: Sequence[T]) -> T:
        """One of them."""
        ...

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """k different ones."""
        ...

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Another order, in place."""
        ...
