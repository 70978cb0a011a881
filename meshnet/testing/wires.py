"""Raw sockets in other namespaces: what a program with CAP_NET_RAW in a task, or a host on the underlay, can send.

A frame goes out exactly as it is given, and everything that comes in is heard, whoever it was for.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from meshnet import names
from meshnet.kernel import netns
from meshnet.kernel.netlink import Netlink

if TYPE_CHECKING:
    from meshnet.testing.labs import LabUnderTest

_EVERYTHING = 0x0003  # ETH_P_ALL
_ROOM = 4 << 20  # bytes a wire can hear before somebody listens
_LONGEST = 65600


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface on an overlay network: of a task, or of anything else with an address there."""

    netns: str
    device: str
    ip: str
    mac: str


class Wire:
    """One device, heard and spoken to; without one, every device of the namespace, heard alone.

    `outgoing`: what the namespace itself sends is heard too.
    """

    def __init__(self, space: str, device: str = "", outgoing: bool = False) -> None:
        self._outgoing = outgoing
        everywhere = 0 if device else socket.htons(_EVERYTHING)
        self._socket = netns.socket_in(space, socket.AF_PACKET, socket.SOCK_RAW, everywhere)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, _ROOM)  # SO_RCVBUFFORCE
        if device:
            self._socket.bind((device, _EVERYTHING))
        self._socket.setblocking(False)

    def send(self, frame: bytes) -> None:
        """Sends a whole Ethernet frame."""
        self._socket.send(bytes(frame))

    def heard(self, marker: bytes = b"") -> list[bytes]:
        """The frames that have come since the last call and contain `marker`."""
        found: list[bytes] = []
        while True:
            try:
                frame, where = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return found
            if marker in frame and (self._outgoing or where[2] != socket.PACKET_OUTGOING):
                found.append(frame)

    def lost(self) -> int:
        """Frames that did not fit into the socket's buffer since the last call."""
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int.from_bytes(statistics[4:8], "little")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def interface(lab: LabUnderTest, task: str, network: str) -> Interface:
    """The interface of a task (`service.slot`) on a network, by name."""
    from meshnet.lab.tasks import find

    here = find(lab.spec, task)
    records = lab.inspect(here.node, "endpoints")
    (ip,) = (one["IP"] for one in records if one["Task"] == here.name and one["Network"] == network)
    space = names.task_netns(lab.name, here.node, here.id)
    with Netlink(space) as inside:
        (index,) = (one.index for one in inside.addresses() if one.address == ip)
        (link,) = (one for one in inside.links() if one.index == index)
    return Interface(space, link.name, ip, link.mac)


def host(lab: LabUnderTest, name: str) -> Interface:
    """The underlay interface of a node or client."""
    space = names.node_netns(lab.name, name)
    with Netlink(space) as inside:
        link = inside.link("eth0")
    assert link is not None
    return Interface(space, link.name, lab.spec.host(name).address, link.mac)


def drops(lab: LabUnderTest, node: str) -> dict[str, int]:
    """A node's drop counters by reason, as `meshnet inspect statistics` shows them."""
    counters = lab.inspect(node, "statistics")["Datapath"]
    return {key.removeprefix("drop."): value for key, value in counters.items() if key.startswith("drop.")}
