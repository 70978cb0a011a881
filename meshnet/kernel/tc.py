"""BPF programs on network devices by clsact: attach, replace without a gap, look, detach.

Without a `netlink` every function works in the namespace of the calling thread. A filter has a fixed priority and
handle, so that attaching again replaces the program in one step (cls_bpf swaps it under RCU).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from meshnet.kernel.bpf import Program
from meshnet.kernel.dumps import Filter
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import EGRESS, INGRESS, bpf_attach, bpf_detach, clsact_add, clsact_del

__all__ = ["EGRESS", "INGRESS", "attach", "attached", "detach"]
_PRIORITY, _HANDLE = 1, 1


@contextlib.contextmanager
def _opened(netlink: Netlink | None) -> Iterator[Netlink]:
    if netlink is not None:
        yield netlink
        return
    with Netlink() as own:
        yield own


def attach(index: int, parent: int, program: Program, netlink: Netlink | None = None) -> bool:
    """Runs `program` for every packet at INGRESS or EGRESS of a device; whether that changed anything.

    NetlinkError (ENODEV) if the device is gone.
    """
    with _opened(netlink) as link:
        found = attached(index, parent, link)
        if found is not None and found.program == program.id:
            return False
        link.send(clsact_add(index), bpf_attach(index, program.fd, program.name, parent=parent))
        return True


def attached(index: int, parent: int, netlink: Netlink | None = None) -> Filter | None:
    """What `attach` put there, or None."""
    with _opened(netlink) as link:
        for found in link.filters(index):
            if (found.parent, found.priority, found.handle) == (parent, _PRIORITY, _HANDLE):
                return found
        return None


def detach(index: int, parent: int, netlink: Netlink | None = None) -> bool:
    """Takes away what `attach` put there; whether there was anything. The qdisc goes with its last program."""
    with _opened(netlink) as link:
        if attached(index, parent, link) is None:
            return False
        link.send(bpf_detach(index, parent=parent))
        if not link.filters(index):
            link.send(clsact_del(index, missing_ok=True))
        return True
