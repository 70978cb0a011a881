"""The pytest plugin of meshnet: fixtures for labs and namespaces.

Imports stay light, since pytest loads this in every project that has meshnet installed: what a fixture needs is
imported inside it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `root` with a reason when they cannot run here."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: run pytest as root")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


@pytest.fixture
def namespaces() -> Iterator[Callable[..., str]]:
    """A function that makes a network namespace and returns its unique name `mn-t<pid>-<number>-<label>`.

    All are deleted at the end of the test.
    """
    from meshnet.kernel import netns

    made: list[str] = []

    def make(label: str = "x") -> str:
        name = f"mn-t{os.getpid()}-{next(_numbers)}-{label}"
        netns.create(name)
        made.append(name)
        return name

    yield make
    for name in made:
        netns.delete(name)
