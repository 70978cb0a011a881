"""TCP connections ended by the kernel, in a namespace of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from meshnet.kernel import netns, sockdiag

pytestmark = pytest.mark.root


@pytest.fixture
def space(namespaces: Callable[..., str]) -> str:
    return namespaces()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections_to_a_gone_address_end(space: str, family: socket.AddressFamily) -> None:
    """A reader blocked on a connection to the address gets ECONNABORTED; connections elsewhere stay."""

    def inside() -> None:
        prefix = "" if family == socket.AF_INET else "::ffff:"
        with socket.create_server(("127.0.0.2", 0)) as gone, socket.create_server(("127.0.0.3", 0)) as stays:
            idle, other = socket.socket(family), socket.socket(family)
            with idle, other:
                idle.settimeout(5)
                other.settimeout(5)
                idle.connect((prefix + "127.0.0.2", gone.getsockname()[1]))
                other.connect((prefix + "127.0.0.3", stays.getsockname()[1]))
                peer = stays.accept()[0]
                assert sockdiag.destroy_connections(["127.0.0.2"]) == 1
                with pytest.raises(ConnectionAbortedError):
                    idle.recv(1)
                with peer:
                    peer.send(b"y")
                    assert other.recv(1) == b"y"
        assert sockdiag.destroy_connections([]) == 0

    netns.run_in(space, inside)
