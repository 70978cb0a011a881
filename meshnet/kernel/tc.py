"""BPF programs on network devices by clsact: attach, replace without a gap, look, detach.

A program has one place at each side of a device (a fixed priority and handle), so that attaching again replaces it
in one step (cls_bpf swaps it under RCU).
"""

from __future__ import annotations

from meshnet.kernel.bpf import Program
from meshnet.kernel.dumps import Filter
from meshnet.kernel.netlink import Netlink
from meshnet.kernel.requests import (
    EGRESS,
    FILTER_HANDLE,
    FILTER_PRIORITY,
    INGRESS,
    bpf_attach,
    bpf_detach,
    clsact_add,
    clsact_del,
)

__all__ = ["EGRESS", "INGRESS", "attach", "attached", "detach"]


def attach(index: int, parent: int, program: Program, netlink: Netlink, classid: int = 0) -> bool:
    """Runs `program` for every packet at INGRESS or EGRESS of a device; whether that changed anything.

    `classid` (16 bits) tells the program at which place it runs: it is in tc_classid when the program starts.
    NetlinkError (ENODEV) if the device is gone.
    """
    found = attached(index, parent, netlink)
    if found is not None and (found.program, found.classid) == (program.id, classid):
        return False
    netlink.send(clsact_add(index), bpf_attach(index, program.fd, program.name, parent=parent, classid=classid))
    return True


def attached(index: int, parent: int, netlink: Netlink) -> Filter | None:
    """What `attach` put there, or None."""
    place = (parent, FILTER_PRIORITY, FILTER_HANDLE)
    return next((f for f in netlink.filters(index) if (f.parent, f.priority, f.handle) == place), None)


def detach(index: int, parent: int, netlink: Netlink) -> bool:
    """Takes away what `attach` put there; whether there was anything. The qdisc goes with its last program."""
    if attached(index, parent, netlink) is None:
        return False
    netlink.send(bpf_detach(index, parent=parent))
    if not netlink.filters(index):
        netlink.send(clsact_del(index, missing_ok=True))
    return True
