"""BPF programs on network devices by clsact: attach, replace without a gap, look, detach.

Every function works in the namespace of the calling thread. A filter has a fixed priority and handle, so that
attaching again replaces the program in one step (cls_bpf swaps it under RCU).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from dataclasses import dataclass

from meshnet.kernel.bpf import Program
from meshnet.kernel.rawnetlink import NLM_F_CREATE, NLM_F_EXCL, RawNetlink, attribute, attributes

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_CLSACT = 0xFFFFFFF1
_NEWQDISC, _DELQDISC = 36, 37
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_PRIORITY, _HANDLE = 1, 1
_ETH_P_ALL = socket.htons(3)
_ROUTE = 0


@dataclass(frozen=True, slots=True)
class Attached:
    name: str
    program: int  # id


def _message(ifindex: int, parent: int, handle: int, info: int = 0) -> bytes:
    return struct.pack("=BxxxiIII", 0, ifindex, handle, parent, info)


def attach(ifindex: int, direction: int, program: Program) -> bool:
    """Runs `program` for every packet at one side of a device; whether that changed anything.

    ENODEV as OSError if the device is gone.
    """
    with RawNetlink(_ROUTE) as netlink:
        found = _attached(netlink, ifindex, direction)
        if found is not None and found.program == program.id:
            return False
        if found is None:
            with contextlib.suppress(FileExistsError):
                body = _message(ifindex, _CLSACT, 0xFFFF0000) + attribute(_KIND, b"clsact\0")
                netlink.request(_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)
        options = (
            attribute(_BPF_FD, struct.pack("=I", program.fd))
            + attribute(_BPF_NAME, program.name.encode() + b"\0")
            + attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        )
        body = _message(ifindex, direction, _HANDLE, _PRIORITY << 16 | _ETH_P_ALL)
        netlink.request(_NEWTFILTER, NLM_F_CREATE, body + attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options))
        return True


def attached(ifindex: int, direction: int) -> Attached | None:
    """What `attach` put there, or None."""
    with RawNetlink(_ROUTE) as netlink:
        return _attached(netlink, ifindex, direction)


def _attached(netlink: RawNetlink, ifindex: int, direction: int) -> Attached | None:
    try:
        filters = netlink.dump(_GETTFILTER, _message(ifindex, direction, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # no clsact there
            return None
        raise
    for _, body in filters:
        _, _, handle, parent, info = struct.unpack_from("=BxxxiIII", body)
        found = attributes(body[20:])
        options = attributes(found.get(_OPTIONS, b""))
        if handle == _HANDLE and parent == direction and info >> 16 == _PRIORITY and _BPF_ID in options:
            (ident,) = struct.unpack("=I", options[_BPF_ID])
            return Attached(options.get(_BPF_NAME, b"").rstrip(b"\0").decode(), ident)
    return None


def detach(ifindex: int, direction: int) -> bool:
    """Takes away what `attach` put there; whether there was anything. The qdisc goes with its last filter."""
    with RawNetlink(_ROUTE) as netlink:
        if _attached(netlink, ifindex, direction) is None:
            return False
        netlink.request(_DELTFILTER, 0, _message(ifindex, direction, _HANDLE, _PRIORITY << 16 | _ETH_P_ALL))
        if not any(_attached(netlink, ifindex, side) for side in (INGRESS, EGRESS)):
            with contextlib.suppress(OSError):  # another's filter holds it, or it is gone
                netlink.request(_DELQDISC, 0, _message(ifindex, _CLSACT, 0xFFFF0000))
        return True
