"""The name server of one task: sockets inside the task's namespace, answers from the agent's process."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT
from meshnet.dns.server import Resolver
from meshnet.dns.zone import Zone
from meshnet.kernel import netns, sysctl


class TaskResolver:
    """Answers for one task; the data path steers 127.0.0.11:53 here."""

    def __init__(self, zone: Zone, upstreams: Sequence[tuple[str, int]]) -> None:
        self._zone = zone
        self._upstreams = upstreams
        self._resolver: Resolver | None = None

    async def start(self, path: str) -> None:
        """Opens the sockets in the namespace at `path` and begins to answer."""
        sysctl.ensure({"net/ipv4/ip_local_reserved_ports": str(RESOLVER_PORT)}, path)
        udp = netns.socket_in(path, socket.AF_INET, socket.SOCK_DGRAM)
        tcp = netns.socket_in(path, socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((RESOLVER_ADDRESS, RESOLVER_PORT))
        tcp.bind((RESOLVER_ADDRESS, RESOLVER_PORT))
        self._resolver = Resolver(udp, tcp, self._zone, self._upstreams)
        await self._resolver.start()

    def set_zone(self, zone: Zone) -> None:
        self._zone = zone
        if self._resolver is not None:
            self._resolver.set_zone(zone)

    async def stop(self) -> None:
        if self._resolver is not None:
            await self._resolver.stop()
            self._resolver = None

    def statistics(self) -> dict[str, int]:
        return self._resolver.statistics() if self._resolver is not None else {}
