"""What must happen to sockets when addresses go: they forget them, or are ended.

A socket that keeps a backend (unconnected UDP) forgets it, so that a later owner of the address gets nothing that
was not meant for it. A TCP connection to an address that is known to be removed is ended: its reader would wait for
ever. Addresses that are merely unknown end nothing, since they may be late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from meshnet.datapath.ebpf import layout
from meshnet.datapath.ebpf.layout import EndpointKey, PeerName, SocketKey
from meshnet.datapath.ebpf.tables import Table

Place = tuple[int, str]  # VNI and address
_REACHABLE = frozenset({layout.LOCAL, layout.REMOTE})


class Forgetful(Protocol):
    """What is needed of `meshnet.kernel.bpf.Map`."""

    def items(self) -> dict[bytes, bytes]: ...

    def discard(self, keys: Iterable[bytes]) -> int: ...


def gone(before: Table, after: Table) -> tuple[set[Place], set[Place]]:
    """Endpoints of the table `endpoints` that are none any more: (all of them, those known to be removed)."""
    everything: set[Place] = set()
    removed: set[Place] = set()
    for key, value in before.items():
        if layout.endpoint_kind(value) not in _REACHABLE:
            continue
        now = after.get(key)
        kind = layout.endpoint_kind(now) if now is not None else 0
        if kind in _REACHABLE:
            continue
        place = EndpointKey.unpack(key)
        everything.add((place.vni, layout.text(place.ip)))
        if kind == layout.REMOVED:
            removed.add((place.vni, layout.text(place.ip)))
    return everything, removed


def forget(maps: Mapping[str, Forgetful], addresses: Iterable[str]) -> int:
    """Deletes what unconnected sockets remember of backends with these addresses; returns how many entries."""
    wanted = {layout.address(address) for address in addresses}
    if not wanted:
        return 0
    kept = maps["socket_backends"].items().items()
    origins = maps["socket_origins"].items()
    return maps["socket_backends"].discard(
        [key for key, value in kept if PeerName.unpack(value).address in wanted]
    ) + maps["socket_origins"].discard(
        [key for key in origins if PeerName.unpack(SocketKey.unpack(key).name).address in wanted]
    )
