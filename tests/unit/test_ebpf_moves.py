"""What sockets are told when addresses go."""

from __future__ import annotations

from collections.abc import Iterable

from meshnet.datapath.ebpf import layout, moves
from meshnet.datapath.ebpf.layout import Endpoint, EndpointKey, PeerName, SocketKey


def key(ip: str) -> bytes:
    return EndpointKey(layout.address(ip), 4097).pack()


def test_only_known_removals_end_connections() -> None:
    """An address that became a tombstone is removed; one that is merely unknown is gone, and no more than that."""
    here = Endpoint(kind=layout.REMOTE).pack()
    before = {key("10.0.1.5"): here, key("10.0.1.6"): here, key("10.0.1.7"): here, key("10.0.1.2"): here}
    after = {
        key("10.0.1.5"): Endpoint(kind=layout.LOCAL).pack(),
        key("10.0.1.6"): Endpoint(kind=layout.REMOVED).pack(),
        key("10.0.1.2"): here,
    }
    everything, removed = moves.gone(before, after)
    assert everything == {(4097, "10.0.1.6"), (4097, "10.0.1.7")}
    assert removed == {(4097, "10.0.1.6")}
    assert moves.gone(after, after) == (set(), set())


class FakeMap:
    def __init__(self, content: dict[bytes, bytes]) -> None:
        self.content = content

    def items(self) -> dict[bytes, bytes]:
        return dict(self.content)

    def discard(self, keys: Iterable[bytes]) -> int:
        return sum(self.content.pop(key, None) is not None for key in list(keys))


def name(ip: str) -> bytes:
    return PeerName(layout.address(ip), layout.be16(53)).pack()


def test_sockets_forget_the_address_only() -> None:
    """Both directions of what an unconnected socket remembers of the address go, and nothing else."""
    backends = FakeMap(
        {
            SocketKey(1, name("10.0.1.2")).pack(): name("10.0.1.5"),
            SocketKey(2, name("10.0.1.2")).pack(): name("10.0.1.6"),
        }
    )
    origins = FakeMap(
        {
            SocketKey(1, name("10.0.1.5")).pack(): name("10.0.1.2"),
            SocketKey(2, name("10.0.1.6")).pack(): name("10.0.1.2"),
        }
    )
    maps = {"socket_backends": backends, "socket_origins": origins}
    assert moves.forget(maps, []) == 0
    assert moves.forget(maps, ["10.0.1.5"]) == 2
    assert list(backends.content) == [SocketKey(2, name("10.0.1.2")).pack()]
    assert list(origins.content) == [SocketKey(2, name("10.0.1.6")).pack()]
