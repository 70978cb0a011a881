"""Network namespaces: made, entered by threads and removed without a process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import pytest
from pulse import Pulse

from meshnet.kernel import netns
from meshnet.lab import down

pytestmark = pytest.mark.root
Make = Callable[..., str]


def _interfaces() -> dict[str, int]:
    return {name: index for index, name in socket.if_nameindex()}


def test_create_and_delete(namespaces: Make) -> None:
    """A created namespace is listed, has lo up, and is gone after delete."""
    name = namespaces()
    assert netns.exists(name)
    assert name in netns.names("mn-n")
    assert "lo" in netns.run_in(name, _interfaces)

    def ping_self() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            one.sendto(b"x", one.getsockname())
            return one.recv(10) == b"x"

    assert netns.run_in(name, ping_self)
    with pytest.raises(FileExistsError):
        netns.create(name)
    assert netns.delete(name)
    assert not netns.exists(name)
    assert not netns.delete(name)


def test_crash_in_create_is_repaired(namespaces: Make) -> None:
    """A plain file left by a crash is no namespace; create mounts over it, and delete removes it."""
    name = namespaces()
    netns.delete(name)
    with open(netns.path(name), "w"):
        pass
    assert not netns.exists(name)
    assert name in netns.names(name)
    netns.create(name)
    assert netns.exists(name)


def test_run_in_leaves_the_caller_where_it_is(namespaces: Make) -> None:
    """Work in another namespace happens there, its errors are raised here, and the calling thread never moves."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    name = namespaces()
    inside = netns.run_in(name, lambda: os.stat("/proc/thread-self/ns/net").st_ino)
    assert inside == os.stat(netns.path(name)).st_ino != here
    with pytest.raises(ZeroDivisionError):
        netns.run_in(name, lambda: 1 // 0)
    with pytest.raises(FileNotFoundError):
        netns.run_in("mn-t-no-such", lambda: None)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here


def test_sockets_and_cookies(namespaces: Make) -> None:
    """The same address can be bound in two namespaces at once, and each namespace has a cookie of its own."""
    names = [namespaces(), namespaces()]
    sockets = [netns.socket_in(name, socket.AF_INET, socket.SOCK_DGRAM) for name in names]
    for each in sockets:
        each.bind(("127.0.0.1", 5353))
        each.close()
    cookies = {netns.cookie(name) for name in names} | {netns.cookie()}
    assert len(cookies) == 3
    fd = netns.open(names[0])
    assert netns.cookie(fd) == netns.cookie(names[0])
    os.close(fd)


def test_enter_moves_a_forked_process(namespaces: Make) -> None:
    """A freshly forked process moves as a whole into a namespace."""
    name = namespaces()
    wanted = os.stat(netns.path(name)).st_ino
    child = os.fork()
    if child == 0:
        try:
            netns.enter(name)
            os._exit(0 if os.stat("/proc/self/ns/net").st_ino == wanted else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_ten_namespaces_are_quick() -> None:
    """Ten namespaces are made in well under 0.1 s of this thread's patience."""
    names = [f"mn-t{os.getpid()}-quick-{number}" for number in range(10)]
    try:
        with Pulse() as pulse:
            began = time.monotonic()
            netns.create_all(names)
            assert pulse.moved(began, time.monotonic()) < 0.5  # 0.01 s alone; the bound allows for noisy neighbours
    finally:
        for name in names:
            netns.delete(name)


def test_no_lab_under_test_has_a_namespace_of_a_test(namespaces: Callable[..., str]) -> None:
    """A lab of the same process and number claims none of them: `down` would delete it, or call it a leftover."""
    number = namespaces("mine").split("-")[2]
    assert down.namespaces(f"t{os.getpid()}-{number}") == []
