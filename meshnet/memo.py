"""Remembering what was made of each of many things, of which few change from one time to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Memo(Generic[T, R]):
    """`make` is called once for each thing, as long as that very thing is given again; its result must not depend on
    anything else. A thing that is equal to another one but not the same is another thing: comparing costs too much.
    """

    def __init__(self, make: Callable[[T], R]) -> None:
        self._make = make
        self._known: dict[int, tuple[T, R]] = {}

    def each(self, things: Iterable[T]) -> list[R]:
        """What is made of each thing, in order. What was not among the things this time is forgotten."""
        known, kept, made = self._known, {}, []
        for thing in things:
            pair = known.get(id(thing))
            # The thing is kept, so that no other one can get its id meanwhile.
            if pair is None:
                pair = (thing, self._make(thing))
            kept[id(thing)] = pair
            made.append(pair[1])
        self._known = kept
        return made
