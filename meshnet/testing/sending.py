"""Sending what a test made: whole frames as they are, or IP packets as a host would send them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from meshnet.kernel import netns
from meshnet.testing.wires import Interface, Wire

if TYPE_CHECKING:
    from meshnet.testing.labs import Host


def send(where: Host | Interface | str, frame: Any, device: str = "") -> None:
    """Sends a whole Ethernet frame (scapy or bytes) out of an interface, exactly as it is given.

    `where`: a host of a lab, an `interface(...)`, or the name of a namespace; `device`: by default the interface's,
    else eth0. OSError if the interface refuses it (EMSGSIZE: larger than its MTU).
    """
    here = where if isinstance(where, Interface) else None
    with Wire(_space(where), device or (here.device if here else "eth0")) as wire:
        wire.send(bytes(frame))


def send_from(where: Host | Interface | str, packet: Any) -> Any:
    """Sends a scapy IP packet as the host would: its stack routes it, resolves the next hop and adds the frame.

    A source that is not set becomes the host's own. Returns the packet as it was sent. Nothing translates a VIP at a
    raw socket, so a VIP is met packet by packet. OSError if there is no route or the packet is larger than the MTU.
    """
    from scapy.layers.inet import IP

    space = _space(where)
    ready = packet.copy()
    if "src" not in ready[IP].fields:
        ready[IP].src = _own_address(space, ready[IP].dst)
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(bytes(ready), (ready[IP].dst, 0))
    return IP(bytes(ready))


def _space(where: Host | Interface | str) -> str:
    return where if isinstance(where, str) else where.netns


def _own_address(space: str, destination: str) -> str:
    # Connecting a datagram socket sends nothing, and shows what the routes choose.
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        address: str = probe.getsockname()[0]
        return address
