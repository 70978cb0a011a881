"""Network namespaces with names: what is there while one is made or removed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from meshnet.kernel import libc, netns


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


def test_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C of who waits for work in a namespace does not have that work done in another one."""
    left, entered, found = threading.Event(), threading.Event(), list[bool]()
    join = threading.Thread.join

    def interrupted(_: threading.Thread, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    def setns(descriptor: int, _: int) -> None:
        left.wait(5)
        with contextlib.suppress(OSError):
            found.append(os.path.samestat(os.fstat(descriptor), os.stat("/proc/self/ns/net")))
        entered.set()

    monkeypatch.setattr(libc, "setns", setns)
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        netns.run_in("/proc/self/ns/net", lambda: None)
    left.set()
    assert entered.wait(5)
    assert found == [True]
    for thread in threading.enumerate():
        if thread.name == "netns":
            join(thread)
