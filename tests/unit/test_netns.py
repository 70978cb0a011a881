"""Network namespaces with names: what is there while one is made or removed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from meshnet.kernel import netns


def test_a_namespace_that_is_being_made(tmp_path: Path) -> None:
    """The file that a namespace is about to be mounted on, or was, is no namespace: for whoever enters it, too."""
    place = tmp_path / "half"
    place.touch()
    with pytest.raises(FileNotFoundError, match="half"):
        netns.run_in(str(place), lambda: None)
    with pytest.raises(FileNotFoundError, match="half"):
        netns.socket_in(str(place), socket.AF_INET, socket.SOCK_STREAM)
    assert [type(found) for found in netns.visit([str(place)], lambda _: None)] == [FileNotFoundError]
    assert not netns.exists(str(place))
