"""The name servers of tasks and of the node itself: sockets in their namespaces, answers from the agent's process."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from meshnet.dns import RESOLVER_ADDRESS, RESOLVER_PORT
from meshnet.dns.query import MAX_QUERY, REFUSED
from meshnet.dns.server import Resolver
from meshnet.dns.zone import Zone
from meshnet.errors import MeshnetError
from meshnet.kernel import netns, sysctl


class _Opened:
    """A name server that may not have its sockets yet, or no longer; its zone is kept for when it has."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._resolver: Resolver | None = None

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


class TaskResolver(_Opened):
    """Answers for one task; the data path steers 127.0.0.11:53 here."""

    def __init__(self, zone: Zone, upstreams: Sequence[tuple[str, int]]) -> None:
        super().__init__(zone)
        self._upstreams = upstreams

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


class OutsideResolver(_Opened):
    """Answers clients outside the swarm, on the node's own address; `port` 0 means that there is none.

    Anybody may ask it, so it forwards nothing (REFUSED), and a UDP reply is no longer than what it says it takes.
    """

    def __init__(self, address: str, port: int) -> None:
        super().__init__(Zone())
        self.port = port
        self._address = address

    def open(self) -> None:
        """Takes the port; what is asked is answered from `start` on. MeshnetError if somebody else has it."""
        if not self.port:
            return
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            for one in (udp, tcp):
                one.bind((self._address, self.port))
        except OSError as error:
            udp.close()
            tcp.close()
            raise MeshnetError(
                f"the resolver for clients outside cannot have port {self.port} of {self._address}: {error.strerror}; "
                "end what has it, or give the node another resolver port"
            ) from None
        self._resolver = Resolver(udp, tcp, self._zone, (), unknown=REFUSED, most=MAX_QUERY)

    async def start(self) -> None:
        if self._resolver is not None:
            await self._resolver.start()
